"""Compares this checkout of avjax with another one, such as the previous commit."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median

from absl import flags
from benchmarks import sides

from avjax.errors import InputError

THIS, OTHER = "avjax", "other checkout"


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags of subjects that can compare two checkouts."""
    flags.DEFINE_string(
        "against", None, "Another checkout of avjax to compare with.", flag_values=values
    )
    flags.DEFINE_integer(
        "rounds", None, "Repetitions (default: 3; with --against 7).", 1, flag_values=values
    )


def rounds(values: flags.FlagValues) -> int:
    """Returns how often each side is measured."""
    return values.rounds or (7 if values.against else 3)


def checkouts(values: flags.FlagValues) -> dict[str, Path]:
    """Returns the folders to measure, by side.

    Raises:
      InputError: --against is not a checkout of avjax.
    """
    if not values.against:
        return {THIS: sides.ROOT}
    other = Path(values.against).resolve()
    if not (other / "tools" / "benchmark.py").is_file():
        raise InputError(
            f"--against={values.against} has no tools/benchmark.py; name a checkout of avjax"
        )
    return {THIS: sides.ROOT, OTHER: other}


def report(
    results: Mapping[str, Sequence[sides.Result]],
    figures: Mapping[str, Callable[[sides.Result], float]],
) -> list[str]:
    """Returns lines of text: the ratio of this checkout to the other, by figure and round."""
    if OTHER not in results or any(map(sides.failure, (results[THIS], results[OTHER]))):
        return []
    pairs = list(zip(results[THIS], results[OTHER], strict=True))
    lines = ["this checkout over the other, median and range of the rounds' ratios:"]
    for name, figure in figures.items():
        ratios = [figure(this) / figure(other) for this, other in pairs]
        lines.append(f"{name:12}{median(ratios):6.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    return lines
