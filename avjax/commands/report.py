"""Writes report.html from a run's files: ``avjax report RUN ...``.

Training writes it at its end, evaluation anew; this writes it at any time, also while the run
trains, and with ``--figures`` saves its figures as SVG and PNG files in ``RUN/figures/``.
"""

from pathlib import Path

from absl import flags

from avjax.errors import InputError
from avjax.runtime.signals import loading

RESUMES = False


def define_flags(values: flags.FlagValues, argv: list[str]) -> None:
    """Defines the command's flags."""
    flags.DEFINE_bool("figures", False, "Also save the figures in RUN/figures.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Writes the reports of the runs that the arguments name."""
    if not positional:
        raise InputError("no run is named; give the folder of one: avjax report RUN")
    with loading():
        from avjax.report import report_run

    for workdir in positional:
        print(f"report: {report_run(Path(workdir), figures=values.figures)}")
