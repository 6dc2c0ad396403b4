"""Lists what avjax installs: packages, versions and licences, as the packages state them.

python tools/licences.py [--extras dev,serve]

A wheel may carry libraries under licences of their own: av carries FFmpeg (LGPL 2.1 or later, with
parts under the GPL), soundfile libsndfile and soxr libsoxr (LGPL 2.1 or later).
"""

import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import NamedTuple

from absl import flags
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from avjax import cli


class Package(NamedTuple):
    """An installed package."""

    name: str
    version: str
    licence: str


def packages(root: str, extras: tuple[str, ...] = ()) -> list[Package]:
    """Returns a package and all that it requires, by name; what is not installed is left out.

    Args:
      root: name of an installed package.
      extras: extras of ``root``.
    """
    found: dict[str, Package] = {}
    pending = [(root, frozenset(extras))]
    visited = set()
    while pending:
        name, wanted = pending.pop()
        if (name, wanted) in visited:
            continue
        visited.add((name, wanted))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Package(name, installed.version, licence(installed))
        pending += _required(installed, wanted)
    return sorted(found.values())


def _required(installed: Distribution, extras: frozenset[str]) -> Iterator[tuple[str, frozenset]]:
    for text in installed.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def licence(installed: Distribution) -> str:
    """Returns the licence as stated: expression, classifiers, or the first line of its text."""
    metadata = installed.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = metadata.get_all("Classifier", [])
    names = [c.split(" :: ")[-1] for c in classifiers if c.startswith("License :: ")]
    text = (metadata.get("License") or "not stated").strip()
    return ", ".join(names) or text.splitlines()[0]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_list("extras", [], "Extras of avjax to include.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Prints a line per package."""
    cli.no_arguments(positional)
    for package in packages("avjax", tuple(values.extras)):
        print(f"{package.name:28}{package.version:14}{package.licence}")


if __name__ == "__main__":
    sys.exit(cli.run(None, define_flags, job, __doc__))
