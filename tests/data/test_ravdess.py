"""RAVDESS facts: names, filters, folds."""

import pytest

from avjax.data.folds import (
    NAMED_FOLDS,
    SPLITS,
    Filter,
    list_folds,
    parse_actors,
    resolve_fold,
)
from avjax.data.ravdess import ACTORS, EMOTIONS, ClipName, speech_clips, split_name
from avjax.errors import InputError


def actors_of(chosen: Filter) -> set[int]:
    return {actor for actor in ACTORS if chosen.matches({"actor": actor})}


def test_name_is_read_field_by_field():
    name = ClipName.parse("02-01-08-02-01-02-17_facecroppad.npy")
    assert name == ("02", "01", "08", "02", "01", "02", "17")
    assert EMOTIONS[name.label] == "surprised"
    assert name.clip_id == "02-01-08-02-01-02-17"
    assert name.trial == "01-08-02-01-02-17"
    assert split_name(5) == "actor_05"


@pytest.mark.parametrize(
    "filename", ["", "clip.mp4", "01-01-09-01-01-01-05.mp4", "01-01-03-01-01-05.mp4", "1-1-3-1"]
)
def test_other_names_are_refused(filename):
    with pytest.raises(InputError, match="not a RAVDESS name"):
        ClipName.parse(filename)


def test_three_digits_of_actor_are_refused():
    with pytest.raises(InputError, match="not a RAVDESS name"):
        ClipName.parse("01-01-03-01-01-01-105.mp4")


def test_an_actor_has_sixty_trials_none_strong_and_neutral():
    clips = speech_clips(7, "03")
    assert len(set(clips)) == len(clips) == 60
    assert all(ClipName.parse(clip.clip_id) == clip for clip in clips)
    assert sum(clip.label == 0 for clip in clips) == 4
    assert ClipName.parse("03-01-01-01-02-01-07") in clips


@pytest.mark.parametrize(
    ("text", "actors"), [("1,5-8", (1, 5, 6, 7, 8)), ("03, 2-3", (2, 3)), ("24", (24,))]
)
def test_actors_are_numbers_and_ranges(text, actors):
    assert parse_actors(text) == actors


@pytest.mark.parametrize(
    "text", ["", "0", "1,25", "1,,2", "five", "1-x", "-3", "8-5", "1-999999999"]
)
def test_other_actors_are_refused(text):
    with pytest.raises(InputError, match=r"no actor|is empty"):
        parse_actors(text)


def test_terms_of_a_filter_must_all_hold():
    chosen = Filter.parse("actor=1-3,7 repetition=2")
    assert chosen.matches({"actor": 7, "repetition": 2})
    assert not chosen.matches({"actor": 7, "repetition": 1})
    assert not chosen.matches({"actor": 4, "repetition": 2})
    assert str(chosen) == "actor=1,2,3,7 repetition=2"
    assert Filter.parse("").matches({"actor": 1})


def test_groups_are_numbers_or_names():
    chosen = Filter.parse("group=05,speaker-b")
    assert chosen.matches({"group": "05"})
    assert chosen.matches({"group": "5"})
    assert chosen.matches({"group": "speaker-b"})
    assert not chosen.matches({"group": "speaker-a"})


@pytest.mark.parametrize(
    "text", ["actor", "actor=", "=3", "colour=red", "actor:3", "group='Ann", "group='Ann'x"]
)
def test_unreadable_terms_are_named(text):
    with pytest.raises(InputError, match=text):
        Filter.parse(text)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("group='Ann Smith'", {"Ann Smith"}),
        ("group=\"Ann, Bob; Cem\",'O''Brien',d'Arcy", {"Ann, Bob; Cem", "O'Brien", "d'Arcy"}),
        ("group='1-3',4-5", {"1-3", "4", "5"}),
        ("group='say \"so\"','07'", {'say "so"', "7"}),
        ("group=''", {""}),
    ],
)
def test_quoted_values_are_taken_as_they_stand(text, values):
    chosen = Filter.parse(f"{text} actor=1")
    assert chosen.terms == {"group": values, "actor": {"1"}}
    assert Filter.parse(str(chosen)) == chosen


@pytest.mark.parametrize("name", ["Ann Smith", "a;b: c=d", "'", '"', "''x", "1-2", " ", "Zoë, 3"])
def test_any_name_of_a_group_can_be_written_in_a_fold(name):
    held_out = Filter({"group": frozenset({name})})
    assert Filter.parse(str(held_out)) == held_out
    fold = resolve_fold(f"train: actor=1; validation: {held_out}; test: {held_out} actor=2")
    assert fold["validation"] == held_out
    assert fold["test"].matches({"group": name, "actor": 2})


def test_published_fold():
    fold = {name: actors_of(chosen) for name, chosen in resolve_fold("published").items()}
    assert fold["test"] == {5, 10, 16, 19}
    assert fold["validation"] == {11, 13, 18, 22}
    assert len(fold["train"]) == 16


OVER_ACTORS = sorted(NAMED_FOLDS.keys() - {"repetition", "manifest"})


@pytest.mark.parametrize("name", OVER_ACTORS)
def test_folds_over_actors_part_them(name):
    parts = [actors_of(chosen) for chosen in resolve_fold(name).values()]
    assert set.union(*parts) == set(ACTORS)
    assert sum(map(len, parts)) == len(ACTORS)


@pytest.mark.parametrize(("scheme", "count"), [("msaf6", 6), ("five", 5)])
def test_each_actor_is_tested_once_and_the_next_fold_validates(scheme, count):
    folds = [resolve_fold(f"{scheme}/{k}") for k in range(count)]
    tested = [actors_of(fold["test"]) for fold in folds]
    assert sorted(actor for actors in tested for actor in actors) == list(ACTORS)
    for k, fold in enumerate(folds):
        assert actors_of(fold["validation"]) == tested[(k + 1) % count]


def test_repetition_fold_parts_the_trials_of_an_actor():
    fold = resolve_fold("repetition")
    for repetition in (1, 2):
        for statement in (1, 2):
            features = {"repetition": repetition, "statement": statement}
            assert sum(chosen.matches(features) for chosen in fold.values()) == 1


def test_the_folds_of_a_cross_validation():
    assert list_folds("five") == [f"five/{k}" for k in range(5)]
    assert list_folds("msaf6") == [f"msaf6/{k}" for k in range(6)]
    assert list_folds("published") == ["published"]
    assert list_folds("msaf6/2") == ["msaf6/2"]
    with pytest.raises(InputError, match="unknown folds 'msaf'; choose one of msaf6, five"):
        list_folds("msaf")


def test_a_fold_can_be_written_out():
    fold = resolve_fold("train: actor=1-8; validation: actor=9,10; test: actor=11,12")
    assert tuple(fold) == SPLITS
    assert actors_of(fold["validation"]) == {9, 10}


@pytest.mark.parametrize("spec", ["publisched", "msaf6/6", "train: actor=1; test: actor=2", ""])
def test_unknown_folds_are_refused(spec):
    with pytest.raises(InputError, match="unknown fold"):
        resolve_fold(spec)
