"""Compares trained runs on the clips that all of them were tested on."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("compare"))

from collections.abc import Mapping, Sequence
from pathlib import Path

from avjax.errors import InputError
from avjax.runs.evaluation_file import EVALUATION_FILE, answered, explain_damage, read_evaluation
from avjax.runs.report.comparison import (
    PairedTest,
    Run,
    conditions_of,
    format_p,
    render_comparison,
)
from avjax.runs.report.write import read_run
from avjax.runtime.files import write_text
from avjax.training.significance import mcnemar


def compare_runs(
    workdirs: Sequence[str | Path], out: str | Path
) -> tuple[dict[str, Run], list[PairedTest]]:
    """Compares runs in pairs with the first one, and writes a page.

    Args:
      workdirs: the runs' folders, two or more.
      out: the HTML file to write.

    Returns:
      The runs by name, which is the folder as given; and for each other run and each condition a
      paired test with the first run.

    Raises:
      InputError: fewer than two runs, a run that is not evaluated, or runs that were tested on
        different clips.
    """
    names = [str(workdir) for workdir in workdirs]
    if len(set(names)) < 2:
        raise InputError("a comparison needs two different runs or more; name their folders")
    runs = {name: _read(Path(name)) for name in names}
    first = names[0]
    with explain_damage(" or ".join(f"{name}/{EVALUATION_FILE}" for name in runs)):
        for name in runs:
            _check_same_clips(first, runs[first], name, runs[name])
        tests = [
            test
            for name in runs
            if name != first
            for test in paired_tests(first, runs[first], name, runs[name])
        ]
        page = render_comparison(runs, tests)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    return runs, tests


def paired_tests(first: str, one: Run, second: str, other: Run) -> list[PairedTest]:
    """Tests two runs under each condition that both have, on the clips that count in it."""
    tests = []
    for condition in conditions_of({first: one}):
        hits, others = (answered(run.evaluation, condition) for run in (one, other))
        both = [(hits[clip], others[clip]) for clip in hits if clip in others]
        if both:
            counts = both.count((True, False)), both.count((False, True))
            tests.append(PairedTest(first, second, condition, len(both), *counts, mcnemar(*counts)))
    return tests


def _read(workdir: Path) -> Run:
    """Reads a run.

    Raises:
      InputError: it is not a run, or not evaluated clip by clip.
    """
    config, lines = read_run(workdir)
    evaluation = read_evaluation(workdir) or {}
    if not evaluation.get("clips"):
        raise InputError(
            f"{workdir} has no clips' answers on its test split; evaluate it first: "
            f"avjax evaluate --workdir {workdir}"
        )
    return Run(config, lines, evaluation)


def _check_same_clips(first: str, one: Run, second: str, other: Run) -> None:
    """Raises InputError if two runs were tested on different clips, or with different labels."""
    truths, others = (
        {name: clip["truth"] for name, clip in run.evaluation["clips"].items()}
        for run in (one, other)
    )
    remedy = "compare runs that tested the same fold of the same dataset"
    differing = sorted(truths.keys() ^ others.keys())
    if differing:
        raise InputError(
            f"{second} was tested on other clips than {first}: {len(differing)} clips, such as "
            f"{differing[0]}, are in one only; {remedy}"
        )
    relabelled = [name for name in truths if truths[name] != others[name]]
    if relabelled:
        name = relabelled[0]
        raise InputError(
            f"clip {name} is {truths[name]} in {first} and {others[name]} in {second}; {remedy}"
        )


def table(runs: Mapping[str, Run], tests: Sequence[PairedTest]) -> str:
    """Formats accuracies and paired tests as text."""
    width = max(12, *map(len, runs)) + 2
    lines = [f"{'accuracy':22}" + "".join(f"{name:>{width}}" for name in runs)]
    for condition in conditions_of(runs):
        cells = []
        for run in runs.values():
            figures = run.evaluation["conditions"].get(condition)
            cells.append(f"{figures['accuracy']:.1%}" if figures else "-")
        lines.append(f"{condition:22}" + "".join(f"{cell:>{width}}" for cell in cells))
    for first, second in dict.fromkeys((test.first, test.second) for test in tests):
        lines.append(f"\n{second} against {first}, exact McNemar test:")
        headers = [f"only {name}" for name in (second, first)]
        widths = [max(8, len(header)) + 2 for header in headers]
        only = "".join(f"{x:>{width}}" for x, width in zip(headers, widths, strict=True))
        lines.append(f"{'condition':22}{'points':>8}{only}{'p':>9}")
        for test in tests:
            if test.second == second:
                points = f"{100 * test.difference:+.1f}"
                counts = f"{test.only_second:{widths[0]}}{test.only_first:{widths[1]}}"
                lines.append(f"{test.condition:22}{points:>8}{counts}{format_p(test.p):>9}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.compare`."""
    return commands.run("compare", argv)
