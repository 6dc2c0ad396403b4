"""Writes a run's report: one self-contained HTML file with matplotlib figures.

The figures are inline SVG. Their colours are CSS variables, so the page follows the reader's light
or dark setting. Standalone figures are drawn for a white page.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter

from avjax.errors import InputError
from avjax.runs.checkpoints import read_history
from avjax.runs.metrics_log import METRICS_FILE, read_metrics
from avjax.runs.page import (
    INK,
    PAPER,
    TRAIN,
    VALIDATION,
    VARIABLES,
    inline,
    number,
    style_axes,
    table,
)
from avjax.runs.reliability import reliability_section
from avjax.runs.run_config import REPORT_FILE, flatten, read_config
from avjax.runtime.files import write_text
from avjax.runtime.progress import duration
from avjax.runtime.sealed import read_json

Lines = list[dict[str, Any]]  # of metrics.jsonl
_SENSELESS = (  # raised by figures that no run has
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    StopIteration,
)

_COLOURS = " ".join(f"{variable}: {colour};" for colour, variable in VARIABLES.items())
_LIGHT = f":root {{ color-scheme: light dark; --soft: #5b6577; {_COLOURS} }}"
_STYLE = """
@media (prefers-color-scheme: dark) { :root { --soft: #9aa5b8; --ink: #e6e9f0; --grid: #3a4252;
  --paper: #151922; --train: #f0985a; --validation: #6ea3f5; } }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } h2 { margin-top: 2.5rem; }
.note, figcaption { color: var(--soft); }
figure { margin: 0; } svg { max-width: 100%; height: auto; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; } dt { color: var(--soft); }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--grid); text-align: right;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; font-weight: normal; }
.settings td { text-align: left; overflow-wrap: anywhere; }
"""


def write_report(workdir: Path) -> Path:
    """Writes a run's ``report.html``.

    Args:
      workdir: the run's folder; ``evaluation.json`` and ``metrics.jsonl`` need not exist yet.

    Returns:
      The path of the report.

    Raises:
      InputError: ``workdir`` is not a run, or one of its files is damaged.
    """
    workdir = Path(workdir)
    config = read_config(workdir)
    lines = read_history(workdir)
    if lines is None:
        lines = read_metrics(workdir)
    evaluation_file = workdir / "evaluation.json"
    remedy = "remove it and evaluate the run again"
    evaluation = read_json(evaluation_file, remedy) if evaluation_file.exists() else None
    try:
        page = render(config, lines, evaluation)
    except _SENSELESS as error:
        raise InputError(  # of an earlier version, without digests, or of another program
            f"{workdir / METRICS_FILE} or {evaluation_file} is damaged "
            f"({type(error).__name__}: {error}); {remedy}"
        ) from error
    path = workdir / REPORT_FILE
    write_text(path, page)
    return path


def render(config: Mapping[str, Any], lines: Lines, evaluation: Mapping[str, Any] | None) -> str:
    """Renders the report as an HTML document.

    Args:
      config: the run's config, nested.
      lines: the lines of ``metrics.jsonl``.
      evaluation: the content of ``evaluation.json``, or None.
    """
    name = str(config.get("name", "run"))
    parts = [_summary(config, lines, evaluation), _curves_section(lines)]
    if evaluation:
        parts += [_conditions_section(evaluation), _confusion_section(evaluation)]
        parts.append(reliability_section(evaluation))
    settings = [(key, _plain(value)) for key, value in sorted(flatten(config).items())]
    parts.append("<h2>Settings</h2>" + table(("setting", "value"), settings, "settings"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}: training report</title>\n"
        f"<style>{_LIGHT}{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(name)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


# -------------------------------------------------------------------------------------- sections


def _summary(config: Mapping[str, Any], lines: Lines, evaluation: Mapping[str, Any] | None) -> str:
    """Renders the key figures."""
    train, validation = _of_split(lines, "train"), _of_split(lines, "validation")
    values = [("epochs", f"{len(train)} of {config.get('num_epochs', '?')}")]
    best = _best(validation)
    if best:
        values.append(("best epoch", str(best["epoch"])))
        values.append(("validation accuracy", f"{best['accuracy']:.1%}"))
    if evaluation:
        name = f"{evaluation['split']} accuracy ({evaluation['num_clips']} clips)"
        values.append((name, f"{_undisturbed(evaluation)['accuracy']:.1%}"))
    if train and "seconds" in train[-1]:
        values.append(("training", duration(sum(line["seconds"] for line in train))))
        values.append(("clips per second", f"{train[-1]['clips_per_second']:.1f}"))
    items = (f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in values)
    return f"<dl>{''.join(items)}</dl>"


def _curves_section(lines: Lines) -> str:
    if not lines:
        return '<h2>Learning curves</h2><p class="note">No epoch is complete yet.</p>'
    caption = "Train and validation by epoch; the dotted line marks the best validation accuracy."
    return "<h2>Learning curves</h2>" + inline(curves_figure(lines), "curves", caption)


def _conditions_section(evaluation: Mapping[str, Any]) -> str:
    conditions = evaluation["conditions"]
    caption = f"Accuracy on the {evaluation['split']} split with a modality missing or disturbed"
    chance = f"; the dotted line is chance, 1 in {len(evaluation['classes'])}."
    rows = [
        (name, f"{m['accuracy']:.1%}", f"{m['macro_f1']:.3f}", f"{number(m['loss']):.3f}")
        for name, m in conditions.items()
    ]
    figure = inline(conditions_figure(evaluation), "conditions", caption + chance)
    header = ("condition", "accuracy", "macro F1", "loss")
    return f"<h2>Accuracy by condition</h2>{figure}{table(header, rows)}"


def _confusion_section(evaluation: Mapping[str, Any]) -> str:
    caption = "Clips by true and predicted class, undisturbed."
    figure = inline(confusion_figure(evaluation), "confusion", caption)
    return f"<h2>Confusion matrix</h2>{figure}"


# --------------------------------------------------------------------------------------- figures


def curves_figure(lines: Lines) -> Figure:
    """Plots train and validation loss and accuracy by epoch, and marks the best epoch."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", facecolor=PAPER)
    best = _best(_of_split(lines, "validation"))
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        style_axes(axes)
        for split, colour in (("train", TRAIN), ("validation", VALIDATION)):
            split_lines = _of_split(lines, split)
            epochs = [line["epoch"] for line in split_lines]
            values = [number(line[quantity]) for line in split_lines]
            marker = "o" if len(epochs) < 20 else None  # a single epoch draws no line
            axes.plot(epochs, values, color=colour, label=split, marker=marker, markersize=4)
        if best:
            axes.axvline(best["epoch"], color=INK, linestyle=":", linewidth=1)
            axes.plot(best["epoch"], number(best[quantity]), "o", color=VALIDATION, markersize=7)
        axes.set_title(quantity, color=INK)
        axes.set_xlabel("epoch", color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if quantity == "accuracy":
            axes.set_ylim(0, 1)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside upper center", ncols=2, frameon=False, labelcolor=INK
    )
    return figure


def conditions_figure(evaluation: Mapping[str, Any]) -> Figure:
    """Plots a bar of accuracy for each condition and a line at chance."""
    conditions = evaluation["conditions"]
    height = 0.8 + 0.36 * len(conditions)
    figure = Figure(figsize=(9, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots()
    style_axes(axes)
    axes.grid(axis="y", visible=False)
    names, values = list(conditions), [metrics["accuracy"] for metrics in conditions.values()]
    bars = axes.barh(names, values, height=0.65, color=VALIDATION, zorder=2)
    axes.bar_label(bars, [f"{value:.1%}" for value in values], padding=4, color=INK)
    axes.axvline(1 / len(evaluation["classes"]), color=INK, linestyle=":", linewidth=1, zorder=3)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)  # room for the label of a full bar
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    return figure


def confusion_figure(evaluation: Mapping[str, Any]) -> Figure:
    """Plots counts by true (rows) and predicted class; shades are fractions of the row."""
    classes = evaluation["classes"]
    counts = _undisturbed(evaluation)["confusion"]
    side = 1.9 + 0.58 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained", facecolor=PAPER)
    axes = figure.subplots()
    style_axes(axes)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            share = count / max(1, sum(row))
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=VALIDATION, alpha=0.05 + 0.9 * share))
            colour = PAPER if share > 0.7 else INK
            axes.text(j + 0.5, i + 0.5, f"{count:g}", color=colour, ha="center", va="center")
    centres = [index + 0.5 for index in range(len(classes))]
    axes.set_xticks(centres, classes, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(centres, classes)
    axes.tick_params(length=0)
    axes.set(xlim=(0, len(classes)), ylim=(len(classes), 0), aspect="equal")
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    return figure


# ----------------------------------------------------------------------------------------- parts


def _of_split(lines: Lines, split: str) -> Lines:
    return [line for line in lines if line["split"] == split]


def _undisturbed(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the metrics of the first condition, which is undisturbed."""
    return next(iter(evaluation["conditions"].values()))


def _best(validation: Lines) -> dict[str, Any] | None:
    """Returns the line with the best accuracy, the earliest on ties, whose model is saved."""
    return max(validation, key=lambda line: line["accuracy"], default=None)


def _plain(value: Any) -> str:
    """Formats a setting; strings have no quotes."""
    return value if isinstance(value, str) else json.dumps(value)
