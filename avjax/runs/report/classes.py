"""The report's sections on classes and speakers: confusion matrices, precision, recall, F1."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from avjax.runs.evaluation_file import answered
from avjax.runs.report.page import new_figure, note, pair, percent, table, tabs
from avjax.runs.report.style import INK, PAPER, VALIDATION

_FULL = 0.7  # share of a row from which on a cell is dark


def classes_section(evaluation: Mapping[str, Any]) -> str:
    """Renders confusion matrix and classes' figures under the condition that the reader chooses."""
    classes = evaluation["classes"]
    panels = {
        name: pair(confusion_table(classes, figures["confusion"]), _class_table(classes, figures))
        for name, figures in evaluation["conditions"].items()
    }
    text = "Choose a condition. Rows are true classes, columns predicted ones; shades are shares "
    return note(f"{text}of the row.") + tabs("condition", panels)


def confusion_table(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> str:
    """Renders a confusion matrix, ``counts[i][j]`` clips of class i predicted as j."""
    heads = "".join(f'<th class="class">{html.escape(name)}</th>' for name in classes)
    lines = [f"<tr><th>true, predicted</th>{heads}</tr>"]
    for i, (name, row) in enumerate(zip(classes, counts, strict=True)):
        cells = "".join(_cell(count, sum(row), i == j) for j, count in enumerate(row))
        lines.append(f"<tr><th>{html.escape(name)}</th>{cells}</tr>")
    return f'<div class="wide"><table class="confusion">{"".join(lines)}</table></div>'


def _cell(count: int, total: int, is_right: bool) -> str:
    share = count / max(1, total)
    kinds = "count" + (" right" if is_right else "") + (" full" if share > _FULL else "")
    return f'<td class="{kinds}" style="--share:{share:.2f}"><span>{count:g}</span></td>'


def _class_table(classes: Sequence[str], figures: Mapping[str, Any]) -> str:
    """Renders each class's precision, recall and F1, and what it is most often taken for."""
    counts = np.array(figures["confusion"])
    hits, true, answers = counts.diagonal(), counts.sum(1), counts.sum(0)
    others = counts - np.diag(hits)
    rows = []
    for k, name in enumerate(classes):
        errors = others[k].max()
        rows.append(
            (
                name,
                str(true[k]),
                _ratio(hits[k], answers[k]),
                _ratio(hits[k], true[k]),
                _ratio(2 * hits[k], true[k] + answers[k]),
                f"{classes[others[k].argmax()]} ({errors})" if errors else "",
            )
        )
    return table(("class", "clips", "precision", "recall", "F1", "mostly taken for"), rows)


def _ratio(part: int, whole: int) -> str:
    return percent(part / whole) if whole else "-"


def confusion_figure(evaluation: Mapping[str, Any], condition: str = "") -> Figure:
    """Plots counts by true (rows) and predicted class; shades are fractions of the row.

    Args:
      evaluation: the content of ``evaluation.json``.
      condition: by default the undisturbed one.
    """
    classes = evaluation["classes"]
    condition = condition or next(iter(evaluation["conditions"]))
    side = 1.9 + 0.58 * len(classes)
    figure, axes = new_figure(side, side)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for i, row in enumerate(evaluation["conditions"][condition]["confusion"]):
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=VALIDATION, alpha=0.05 + 0.9 * share))
            colour = PAPER if share > _FULL else INK
            axes.text(j + 0.5, i + 0.5, f"{count:g}", color=colour, ha="center", va="center")
    centres = [index + 0.5 for index in range(len(classes))]
    axes.set_xticks(centres, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(centres, classes)
    axes.tick_params(length=0)
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    return figure


def speakers_section(evaluation: Mapping[str, Any]) -> str:
    """Renders accuracy by actor or group: undisturbed, and of each stream alone."""
    if not evaluation.get("actors"):
        return ""
    clips = evaluation.get("clips", {})
    first, *others = evaluation["conditions"]
    alone = [name for name in others if name.endswith("_only/zeros")] if clips else []
    hits = {name: answered(evaluation, name) for name in alone}
    rows = []
    for speaker, figures in evaluation["actors"].items():
        row = [speaker or "(no group)", str(figures["num_clips"]), percent(figures["accuracy"])]
        for name in alone:
            of_speaker = [hit for x, hit in hits[name].items() if clips[x]["speaker"] == speaker]
            row.append(_ratio(sum(of_speaker), len(of_speaker)))
        rows.append(row)
    return table(["actor or group", "clips", first, *alone], rows)
