"""Writes a run's report from its files, without evaluating it again."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("report"))

from pathlib import Path

from avjax.config import RunConfig
from avjax.runs.report import write_report


def report_run(workdir: str | Path, *, figures: bool = False) -> Path:
    """Writes a run's ``report.html``, also of a run that is still training.

    Args:
      workdir: the run's folder.
      figures: whether to save the figures, too, as SVG and PNG files in ``figures/``.

    Returns:
      The path of the report.

    Raises:
      InputError: ``workdir`` is not a run, or one of its files is damaged.
    """
    return write_report(Path(workdir), RunConfig().to_tree(), figures=figures)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.report`."""
    return commands.run("report", argv)
