"""The page that compares runs: curves and accuracies side by side, paired tests."""

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from avjax.runs.report.about import plain_settings
from avjax.runs.report.conditions import format_interval, intervals
from avjax.runs.report.curves import Lines, best_line, compared_figure
from avjax.runs.report.page import (
    document,
    inline,
    legend_label,
    new_figure,
    note,
    pair,
    percent,
    table,
)
from avjax.runs.report.style import INK, SERIES


class Run(NamedTuple):
    """What a run's folder holds.

    Attributes:
      config: the config, nested.
      lines: the lines of ``metrics.jsonl``.
      evaluation: the content of ``evaluation.json``.
    """

    config: Mapping[str, Any]
    lines: Lines
    evaluation: Mapping[str, Any]


class PairedTest(NamedTuple):
    """Two runs on the same clips under one condition, compared by McNemar's exact test.

    Attributes:
      first: name of a run.
      second: name of another.
      condition: the condition.
      num_clips: clips that count in it.
      only_first: number of clips that only the first run gets right.
      only_second: number of clips that only the second gets right.
      p: two-sided p-value.
    """

    first: str
    second: str
    condition: str
    num_clips: int
    only_first: int
    only_second: int
    p: float

    @property
    def difference(self) -> float:
        """Accuracy of the second run over that of the first."""
        return (self.only_second - self.only_first) / self.num_clips


def render_comparison(runs: Mapping[str, Run], tests: Sequence[PairedTest]) -> str:
    """Renders the comparison as an HTML document.

    Args:
      runs: by name, evaluated on the same clips.
      tests: of each run with the first one.
    """
    sections = {
        "Accuracy by condition": _conditions(runs),
        "Paired tests": _tests(tests),
        "Learning curves": _curves(runs),
        "Settings that differ": _settings(runs),
    }
    first = next(iter(runs.values())).evaluation
    text = f"{len(runs)} runs on the same {first['num_clips']} clips of the {first['split']} split."
    return document(" and ".join(runs), "comparison of runs", note(text), sections)


def conditions_of(runs: Mapping[str, Run]) -> list[str]:
    """Returns the conditions of all runs, in order."""
    return list(
        dict.fromkeys(name for run in runs.values() for name in run.evaluation["conditions"])
    )


def _conditions(runs: Mapping[str, Run]) -> str:
    spread = {name: intervals(run.evaluation) for name, run in runs.items()}
    rows = []
    for condition in conditions_of(runs):
        row = [condition]
        for name, run in runs.items():
            figures = run.evaluation["conditions"].get(condition)
            cell = percent(figures["accuracy"]) if figures else ""
            limits = format_interval(spread[name].get(condition))
            row.append(f"{cell} ({limits})" if limits else cell)
        rows.append(row)
    caption = "Accuracy, with 95 % intervals bootstrapped over speakers and their clips; the "
    caption += "intervals of two runs may overlap though a paired test tells them apart."
    figure = inline(compared_conditions_figure(runs), "conditions", caption)
    return figure + table(("condition", *runs), rows)


def compared_conditions_figure(runs: Mapping[str, Run]) -> Figure:
    """Plots each run's accuracy and interval under each condition."""
    names = conditions_of(runs)
    step = 0.7 / len(runs)
    figure, axes = new_figure(5.2, 0.9 + 0.2 * len(runs) + len(names) * (0.2 + 0.16 * len(runs)))
    axes.grid(axis="y", visible=False)
    handles = []
    for position, (name, run) in enumerate(runs.items()):
        colour, spread = SERIES[position % len(SERIES)], intervals(run.evaluation)
        marker = "o" if position < len(SERIES) else "s"
        for row, condition in enumerate(names):
            if condition not in run.evaluation["conditions"]:
                continue
            value = run.evaluation["conditions"][condition]["accuracy"]
            y = row + (position - (len(runs) - 1) / 2) * step
            low, high = spread.get(condition, (value, value))
            axes.plot((low, high), (y, y), color=colour, linewidth=1.5)
            axes.plot(value, y, marker, color=colour, markersize=6)
        handles.append(Line2D((), (), color=colour, marker=marker, label=legend_label(name)))
    classes = max(len(run.evaluation["classes"]) for run in runs.values())
    axes.axvline(1 / classes, color=INK, linestyle=":", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(
        handles=handles, loc="outside upper left", frameon=False, labelcolor=INK, fontsize="small"
    )
    return figure


def _tests(tests: Sequence[PairedTest]) -> str:
    parts = []
    for names in dict.fromkeys((test.first, test.second) for test in tests):
        rows = [
            (
                test.condition,
                str(test.num_clips),
                f"{100 * test.difference:+.1f}",
                str(test.only_first),
                str(test.only_second),
                format_p(test.p),
            )
            for test in tests
            if (test.first, test.second) == names
        ]
        first, second = names
        header = ("condition", "clips", "points", f"only {first}", f"only {second}", "p")
        heading = html.escape(f"{second} against {first}")
        parts.append(f"<h3>{heading}</h3>{table(header, rows)}")
    text = (
        "Points: percentage points of accuracy that the second run gains. Only: clips that just "
        "this run gets right. p: exact McNemar test, two-sided, of each row alone; among many rows "
        "a small p comes by chance, and clips of one speaker are alike, which makes p too small."
    )
    return "".join(parts) + note(text)


def format_p(p: float) -> str:
    """Formats a p-value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _curves(runs: Mapping[str, Run]) -> str:
    lines = {name: run.lines for name, run in runs.items() if run.lines}
    if not lines:
        return ""
    figures = (
        inline(
            compared_figure(lines, quantity),
            f"curve-{quantity}",
            f"{quantity.capitalize()} on each run's validation split, by epoch.",
        )
        for quantity in ("loss", "accuracy")
    )
    rows = []
    for name, of_run in lines.items():
        best = best_line(of_run)
        if best:
            rows.append((name, str(best["epoch"]), percent(best["accuracy"])))
    return pair(*figures) + table(("run", "best epoch", "validation accuracy"), rows)


def _settings(runs: Mapping[str, Run]) -> str:
    settings = {name: plain_settings(run.config) for name, run in runs.items()}
    keys = dict.fromkeys(key for values in settings.values() for key in values)
    rows = []
    for key in keys:
        row = [values.get(key, "") for values in settings.values()]
        if len(set(row)) > 1:
            rows.append((key, *row))
    return table(("setting", *runs), rows, "settings") if rows else note("None.")
