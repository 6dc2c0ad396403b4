"""Compares runs on the clips that all were tested on: ``avjax compare RUN RUN ...``.

Prints accuracies side by side, and a paired test of each run with the first under each condition;
writes a page with curves, intervals and the settings that differ.
"""

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string("out", "compare.html", "HTML file to write.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Compares the runs that the arguments name."""
    if not values.out.endswith(".html"):
        raise InputError(f"--out={values.out} is no .html file; name one")
    with loading():
        from avjax.compare import compare_runs, table

    print(table(*compare_runs(positional, values.out)))
    print(f"page: {values.out}")
