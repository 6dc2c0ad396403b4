"""This checkout of avjax in turn with another one, such as that of the commit before a change."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from absl import flags
from benchmarks import sides

from avjax.errors import InputError

OWN, OTHER = "avjax", "other checkout"


def define_flags(values: flags.FlagValues) -> None:
    """The flags of subjects that can compare two checkouts."""
    flags.DEFINE_string(
        "against", None, "Another checkout of avjax to measure in turn.", flag_values=values
    )
    flags.DEFINE_integer(
        "rounds", None, "Repetitions (default: 3, with --against 7).", 1, flag_values=values
    )


def rounds(values: flags.FlagValues) -> int:
    """How often each side is measured."""
    return values.rounds or (7 if values.against else 3)


def checkouts(values: flags.FlagValues) -> dict[str, Path]:
    """The folders to measure, by the names of their sides.

    Raises:
      InputError: --against is no checkout of avjax.
    """
    if not values.against:
        return {OWN: sides.ROOT}
    other = Path(values.against).resolve()
    if not (other / "tools" / "benchmark.py").is_file():
        raise InputError(
            f"--against={values.against} has no tools/benchmark.py; name a checkout of avjax"
        )
    return {OWN: sides.ROOT, OTHER: other}


def report(
    found: Mapping[str, Sequence[sides.Found]],
    figures: Mapping[str, Callable[[sides.Found], float]],
) -> list[str]:
    """Lines of text: each figure's ratio of this checkout to the other, taken round by round."""
    if OTHER not in found or any(map(sides.failure, (found[OWN], found[OTHER]))):
        return []
    pairs = list(zip(found[OWN], found[OTHER], strict=True))
    lines = ["this checkout over the other, median and range of the rounds' ratios:"]
    for name, figure in figures.items():
        ratios = [figure(own) / figure(other) for own, other in pairs]
        lines.append(f"{name:12}{median(ratios):6.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return lines
