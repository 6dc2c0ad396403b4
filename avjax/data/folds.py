"""Folds: train, validation and test splits, defined by filters over the clips' features."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

from avjax.data.ravdess import ACTORS
from avjax.data.records import ClipRecord
from avjax.errors import InputError

SPLITS = ("train", "validation", "test")
_FEATURES = ("actor", "repetition", "statement", "intensity", "label", "group", "subset")

# A quoted value may hold anything; its own quote is doubled.
_QUOTED = r"""'(?:[^']|'')*'|"(?:[^"]|"")*\""""
_VALUE = rf"""(?:{_QUOTED}|(?!['"])[^\s,]+)"""
_TERM = re.compile(rf"\s*(\w+)=({_VALUE}(?:,{_VALUE})*)(?!\S)")
_PART = re.compile(rf"(?:(?<=[=,])(?:{_QUOTED})|[^;])+")  # what lies between semicolons
_FOLD = re.compile(rf"(?:(?<=[=,])(?:{_QUOTED})|[^|])+")  # and between bars

LEAVE_ONE_OUT = "leave_one_out"


class Filter(NamedTuple):
    """Selects clips by their features; all terms must match.

    Attributes:
      terms: allowed values of each feature, as text.
    """

    terms: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses terms such as ``actor=1-4,7 repetition=2`` or ``group='Ann Smith',Bob``.

        Values in single or double quotes may contain blanks, commas and semicolons, and are taken
        as they stand; ``''`` selects clips without the feature.

        Raises:
          InputError: a term is not ``feature=values``, or the feature is unknown.
        """
        terms: dict[str, frozenset[str]] = {}
        text = text.strip()
        while text:
            match = _TERM.match(text)
            if match is None or match[1] not in _FEATURES:
                raise InputError(
                    f"cannot read {text.split()[0]!r} in the fold; write feature=values, such as "
                    f"actor=1-4,7 or group='Ann Smith', with one of the features "
                    f"{', '.join(_FEATURES)}"
                )
            values = re.findall(_VALUE, match[2])
            terms[match[1]] = frozenset(v for value in values for v in _values(value))
            text = text[match.end() :].strip()
        return cls(terms)

    def matches(self, features: Mapping[str, Any]) -> bool:
        """Whether the filter selects a clip with these features."""
        return all(_normalise(str(features[name])) in values for name, values in self.terms.items())

    def __str__(self) -> str:
        """Formats the terms for `parse`, with sorted values."""
        return " ".join(
            f"{name}={','.join(map(_quoted, sorted(values, key=lambda v: (len(v), v))))}"
            for name, values in self.terms.items()
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"


def _values(text: str) -> Iterable[str]:
    """The values that one item of a list means: itself if quoted, several if a range."""
    if text[0] in "'\"":
        return [_normalise(text[1:-1].replace(2 * text[0], text[0]))]
    return _expand(text)


def _quoted(value: str) -> str:
    """Quotes a value that would otherwise be read as something else."""
    if re.fullmatch(r"[^\s,;'\"]+", value) and not re.fullmatch(r"\d+-\d+", value):
        return value
    return "'" + value.replace("'", "''") + "'"


def _expand(values: str) -> Iterable[str]:
    """Splits at commas and expands ranges: ``1-3,7`` gives 1, 2, 3, 7."""
    for value in values.split(","):
        ends = re.fullmatch(r"(\d+)-(\d+)", value)
        if ends:
            if int(ends[1]) > int(ends[2]):
                raise InputError(f"the range {value!r} is empty; write {ends[2]}-{ends[1]}")
            yield from map(str, range(int(ends[1]), int(ends[2]) + 1))
        else:
            yield _normalise(value)


def _normalise(value: str) -> str:
    """Strips leading zeros from numbers, so that 05 equals 5."""
    return str(int(value)) if value.isdecimal() else value


_CONSECUTIVE = tuple(tuple(range(first, first + 4)) for first in range(1, 25, 4))
_FIVE = (
    (2, 5, 14, 15, 16),
    (3, 6, 7, 13, 18),
    (10, 11, 12, 19, 20),
    (8, 17, 21, 23, 24),
    (1, 4, 9, 22),
)
CROSS_VALIDATIONS: dict[str, tuple[tuple[int, ...], ...]] = {"msaf6": _CONSECUTIVE, "five": _FIVE}


def _by_actor(validation: Iterable[int], test: Iterable[int]) -> str:
    """Returns a fold that trains on all other actors."""
    held_out = {"validation": sorted(validation), "test": sorted(test)}
    used = {actor for actors in held_out.values() for actor in actors}
    parts = {"train": [actor for actor in ACTORS if actor not in used], **held_out}
    return "; ".join(f"{name}: actor={','.join(map(str, part))}" for name, part in parts.items())


def _named_folds() -> dict[str, str]:
    folds = {
        # The split of the reference's published checkpoints.
        "published": _by_actor((11, 13, 18, 22), (5, 10, 16, 19)),
        # For a single actor: trains on one repetition and holds out the other.
        "repetition": "train: repetition=1; validation: repetition=2 statement=1; "
        "test: repetition=2 statement=2",
        # For datasets whose manifest assigns the splits.
        "manifest": "; ".join(f"{name}: subset={name}" for name in SPLITS),
    }
    for name, groups in CROSS_VALIDATIONS.items():
        for k, test in enumerate(groups):
            folds[f"{name}/{k}"] = _by_actor(groups[(k + 1) % len(groups)], test)
    return folds


NAMED_FOLDS = _named_folds()


def list_folds(name: str) -> list[str]:
    """Returns the folds of a cross-validation, or the single fold of that name.

    Raises:
      InputError: the name is unknown.
    """
    if name in CROSS_VALIDATIONS:
        return [f"{name}/{k}" for k in range(len(CROSS_VALIDATIONS[name]))]
    if name not in NAMED_FOLDS:
        known = ", ".join((*CROSS_VALIDATIONS, *NAMED_FOLDS))
        raise InputError(
            f"unknown folds {name!r}; choose one of {known}, {LEAVE_ONE_OUT}, a number of folds, "
            "or write 'train: ...; validation: ...; test: ...' for each, with | between them"
        )
    return [name]


def group_folds(records: Sequence[ClipRecord], count: int | None = None) -> list[str]:
    """Returns folds in which every group of clips tests once: an actor's, or a manifest's group.

    Each fold validates on the next one's test groups, cyclically, and trains on all others.

    Args:
      records: the clips.
      count: number of folds; the groups are dealt to them, the largest first, each to the fold with
        the fewest clips. None leaves a single group out in each fold.

    Raises:
      InputError: clips without a group, or too few groups.
    """
    feature = "actor" if all(record.actor > 0 for record in records) else "group"
    names = [_normalise(str(getattr(record, feature))) for record in records]
    if "" in names:
        raise InputError(
            f"{names.count('')} clips belong to no group, such as "
            f"{records[names.index('')].clip_id}; name groups in the manifest's column group"
        )
    sizes = Counter(names)
    groups = sorted(sizes, key=lambda name: (len(name), name))
    number = len(groups) if count is None else count
    if not len(SPLITS) <= number <= len(groups):
        raise InputError(
            f"{len(groups)} groups of clips cannot make {number} folds, which train, validate and "
            "test on different ones; choose 3 folds or more, and no more than groups"
        )
    parts: list[list[str]] = [[] for _ in range(number)]
    for group in groups if count is None else sorted(groups, key=lambda group: -sizes[group]):
        min(parts, key=lambda part: sum(sizes[x] for x in part)).append(group)
    folds = []
    for test, validation in zip(parts, [*parts[1:], parts[0]], strict=True):
        train = [group for group in groups if group not in (*test, *validation)]
        splits = zip(SPLITS, (train, validation, test), strict=True)
        filters = {split: Filter({feature: frozenset(part)}) for split, part in splits}
        folds.append("; ".join(f"{split}: {chosen}" for split, chosen in filters.items()))
    return folds


def split_folds(text: str) -> list[str]:
    """Splits folds in words at the bars between them, outside quotes.

    Raises:
      InputError: as `resolve_fold`.
    """
    folds = [part.strip() for part in _FOLD.findall(text) if part.strip()]
    for fold in folds:
        resolve_fold(fold)
    return folds


def resolve_fold(spec: str) -> dict[str, Filter]:
    """Returns the filters of a fold's train, validation and test splits.

    Args:
      spec: one of `NAMED_FOLDS`, or filters such as
        ``"train: actor=1-8; validation: actor=9,10; test: actor=11,12"``. ``msaf6/k`` and
        ``five/k`` test on group k of actors and validate on the next group. `Filter.parse`
        describes the filters.

    Raises:
      InputError: the name is unknown, or the text does not define exactly the three splits.
    """
    texts = [text for text in _PART.findall(NAMED_FOLDS.get(spec, spec)) if text.strip()]
    parts = [text.partition(":") for text in texts]
    filters = {name.strip(): text for name, separator, text in parts if separator}
    if len(parts) != len(SPLITS) or set(filters) != set(SPLITS):
        raise InputError(
            f"unknown fold {spec!r}; name one of published, repetition, manifest, msaf6/0 to "
            "msaf6/5, five/0 to five/4, or write 'train: actor=1-8; validation: actor=9; test: "
            "actor=10'"
        )
    return {name: Filter.parse(filters[name]) for name in SPLITS}


def parse_actors(text: str) -> tuple[int, ...]:
    """Parses actor numbers such as ``1,5-8``.

    Raises:
      InputError: a value is not an actor of RAVDESS.
    """
    actors = set()
    for value in _expand(text.replace(" ", "")):
        if not value.isdecimal() or int(value) not in ACTORS:
            raise InputError(f"{value!r} is no actor of RAVDESS; write numbers such as 1,5-8")
        actors.add(int(value))
    return tuple(sorted(actors))
