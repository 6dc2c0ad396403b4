"""Folds: which clips train, validate and test, as filters over their features."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

from avjax.data.ravdess import ACTORS
from avjax.errors import InputError

SPLITS = ("train", "validation", "test")
_FEATURES = ("actor", "repetition", "statement", "intensity", "label", "group", "subset")


class Filter(NamedTuple):
    """Chooses clips by feature: every term must hold.

    Attributes:
      terms: feature name to the values that it may have, as text.
    """

    terms: Mapping[str, frozenset[str]]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads terms such as ``actor=1-4,7 repetition=2``.

        Raises:
          InputError: a term that is no ``feature=values``, or an unknown feature.
        """
        terms = {}
        for term in text.split():
            feature, separator, values = term.partition("=")
            if not separator or not values or feature not in _FEATURES:
                raise InputError(
                    f"cannot read {term!r} in the fold; write feature=values, such as "
                    f"actor=1-4,7, with one of the features {', '.join(_FEATURES)}"
                )
            terms[feature] = frozenset(_expand(values))
        return cls(terms)

    def matches(self, features: Mapping[str, Any]) -> bool:
        """Whether a clip with these features is chosen."""
        return all(_plain(str(features[name])) in terms for name, terms in self.terms.items())

    def __str__(self) -> str:
        """The terms in words, values sorted."""
        return " ".join(
            f"{name}={','.join(sorted(values, key=lambda v: (len(v), v)))}"
            for name, values in self.terms.items()
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}.parse({str(self)!r})"


def _expand(values: str) -> Iterable[str]:
    """``1-3,7`` becomes 1, 2, 3, 7; what is not a range of numbers stands for itself."""
    for value in values.split(","):
        ends = re.fullmatch(r"(\d+)-(\d+)", value)
        if ends:
            if int(ends[1]) > int(ends[2]):
                raise InputError(f"the range {value!r} is empty; write {ends[2]}-{ends[1]}")
            yield from map(str, range(int(ends[1]), int(ends[2]) + 1))
        else:
            yield _plain(value)


def _plain(value: str) -> str:
    """Numbers without leading zeros, so that 05 and 5 are one; other text as it is."""
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
    """Fold text in which all other actors train."""
    held_out = {"validation": sorted(validation), "test": sorted(test)}
    used = {actor for actors in held_out.values() for actor in actors}
    parts = {"train": [actor for actor in ACTORS if actor not in used], **held_out}
    return "; ".join(f"{name}: actor={','.join(map(str, part))}" for name, part in parts.items())


def _named_folds() -> dict[str, str]:
    folds = {
        # The split of the reference's published checkpoints.
        "published": _by_actor((11, 13, 18, 22), (5, 10, 16, 19)),
        # For a single actor: one repetition trains, the other is held out.
        "repetition": "train: repetition=1; validation: repetition=2 statement=1; "
        "test: repetition=2 statement=2",
        # Own clips whose manifest says which is for what.
        "manifest": "; ".join(f"{name}: subset={name}" for name in SPLITS),
    }
    for name, groups in CROSS_VALIDATIONS.items():
        for k, test in enumerate(groups):
            folds[f"{name}/{k}"] = _by_actor(groups[(k + 1) % len(groups)], test)
    return folds


NAMED_FOLDS = _named_folds()


def list_folds(name: str) -> list[str]:
    """The folds of a cross-validation, or the one fold of that name.

    Raises:
      InputError: there is none of that name.
    """
    if name in CROSS_VALIDATIONS:
        return [f"{name}/{k}" for k in range(len(CROSS_VALIDATIONS[name]))]
    if name not in NAMED_FOLDS:
        known = ", ".join((*CROSS_VALIDATIONS, *NAMED_FOLDS))
        raise InputError(f"unknown folds {name!r}; choose one of {known}")
    return [name]


def resolve_fold(spec: str) -> dict[str, Filter]:
    """The filters of a fold's train, validation and test splits.

    Args:
      spec: one of `NAMED_FOLDS` (in ``msaf6/k`` and ``five/k`` fold k tests and the next
        validates), or the filters themselves:
        ``"train: actor=1-8; validation: actor=9,10; test: actor=11,12"``.

    Raises:
      InputError: an unknown name, or text without exactly the three splits.
    """
    parts = [part.partition(":") for part in NAMED_FOLDS.get(spec, spec).split(";")]
    filters = {name.strip(): text for name, separator, text in parts if separator}
    if len(parts) != len(SPLITS) or set(filters) != set(SPLITS):
        raise InputError(
            f"unknown fold {spec!r}; name one of published, repetition, manifest, msaf6/0 to "
            "msaf6/5, five/0 to five/4, or write 'train: actor=1-8; validation: actor=9; test: "
            "actor=10'"
        )
    return {name: Filter.parse(filters[name]) for name in SPLITS}


def parse_actors(text: str) -> tuple[int, ...]:
    """Reads actor numbers such as ``1,5-8``, in any order.

    Raises:
      InputError: text that names no actor, or one that RAVDESS does not have.
    """
    actors = set()
    for value in _expand(text.replace(" ", "")):
        if not value.isdecimal() or int(value) not in ACTORS:
            raise InputError(f"{value!r} is no actor of RAVDESS; write numbers such as 1,5-8")
        actors.add(int(value))
    return tuple(sorted(actors))
