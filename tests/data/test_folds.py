"""Folds over the groups of own clips, and lists of folds in words."""

import re

import pytest

from avjax.data.folds import group_folds, list_folds, resolve_fold, split_folds
from avjax.data.records import ClipRecord
from avjax.errors import InputError

# Groups with odd names, by number of clips.
SIZES = {"Ann Smith": 5, "Bob; 'B'|C": 1, "07": 3, "1-2": 2, "Dan": 2}


def records(sizes=SIZES, actor=-1):
    return [
        ClipRecord(f"{group}-{k}", "group", 0, actor=actor, group=group)
        for group, size in sizes.items()
        for k in range(size)
    ]


def groups_of(fold, clips):
    """Returns the groups that a fold's splits select."""
    return {
        split: {clip.group for clip in clips if chosen.matches(clip.features())}
        for split, chosen in resolve_fold(fold).items()
    }


@pytest.mark.parametrize("count", [None, 5, 4, 3])
def test_every_group_tests_once(count):
    clips = records()
    folds = [groups_of(fold, clips) for fold in group_folds(clips, count)]
    assert len(folds) == (count or len(SIZES))
    assert sorted(g for fold in folds for g in fold["test"]) == sorted(SIZES)
    for fold, following in zip(folds, [*folds[1:], folds[0]], strict=True):
        assert fold["validation"] == following["test"]
        assert set().union(*fold.values()) == set(SIZES)
        assert sum(map(len, fold.values())) == len(SIZES)


def test_folds_hold_like_numbers_of_clips():
    clips = records()
    tested = [groups_of(fold, clips)["test"] for fold in group_folds(clips, 3)]
    assert sorted(sum(SIZES[group] for group in groups) for groups in tested) == [4, 4, 5]


def test_folds_over_actors_of_ravdess():
    clips = [ClipRecord(f"{a}-{k}", "x", 0, a, group=f"{a:02}") for a in (1, 2, 10) for k in (0, 1)]
    assert group_folds(clips) == [
        "train: actor=10; validation: actor=2; test: actor=1",
        "train: actor=1; validation: actor=10; test: actor=2",
        "train: actor=2; validation: actor=1; test: actor=10",
    ]


@pytest.mark.parametrize(
    ("sizes", "count", "message"),
    [
        (SIZES, 6, "5 groups of clips cannot make 6 folds, which train"),
        (SIZES, 2, "5 groups of clips cannot make 2 folds, which train"),
        (SIZES, 0, "5 groups of clips cannot make 0 folds, which train"),
        ({"a": 9, "b": 9}, None, "2 groups of clips cannot make 2 folds"),
        ({"a": 2, "": 3}, None, "3 clips belong to no group, such as -0; name groups in"),
    ],
)
def test_impossible_folds_are_refused(sizes, count, message):
    with pytest.raises(InputError, match=re.escape(message)):
        group_folds(records(sizes), count)


def test_folds_in_words():
    clips = records()
    first, second = group_folds(clips)[:2]
    assert split_folds(f" {first} |\n{second}|") == [first, second]
    assert split_folds(first) == [first]
    with pytest.raises(InputError, match="unknown fold 'train: actor=1'"):
        split_folds(f"{first} | train: actor=1")
    with pytest.raises(InputError, match="leave_one_out, a number of folds, or write 'train: "):
        list_folds("leave-one-out")
