"""The report's learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from avjax.runs.report.page import inline, legend_label, new_figure, note, number, pair
from avjax.runs.report.style import INK, SERIES, TRAIN, VALIDATION

Lines = Sequence[Mapping[str, Any]]  # of metrics.jsonl

_NAMES = {"loss": "loss (nats)", "accuracy": "accuracy"}
_FEW = 20  # epochs; a single one draws no line, so few have markers


def of_split(lines: Lines, split: str) -> list[Mapping[str, Any]]:
    """Returns the lines of a split."""
    return [line for line in lines if line["split"] == split]


def best_line(lines: Lines) -> Mapping[str, Any] | None:
    """Returns the best validation's line, the earliest on ties, whose model is saved."""
    return max(of_split(lines, "validation"), key=lambda line: line["accuracy"], default=None)


def curves_section(config: Mapping[str, Any], lines: Lines) -> str:
    """Renders loss and accuracy by epoch."""
    if not lines:
        return note("No epoch is complete yet.")
    enlarged = enlarges(config)
    figures = (
        inline(curve_figure(lines, quantity, enlarged=enlarged), f"curve-{quantity}", caption)
        for quantity, caption in _captions(lines).items()
    )
    text = "The dotted line marks the best validation accuracy, whose model is saved."
    if enlarged:
        text += (
            f" Training loss and accuracy are those of the batch that modality dropout "
            f"({config['mask']}) enlarges by copies of each clip with a stream dimmed, missing or "
            "replaced by noise; validation is undisturbed, so the two are not comparable."
        )
    return pair(*figures) + note(text)


def _captions(lines: Lines) -> dict[str, str]:
    """Describes each figure by its last values."""
    captions = {}
    for quantity in _NAMES:
        last = {x: of_split(lines, x)[-1:] for x in ("train", "validation")}
        ends = [f"{x} {number(line[0][quantity]):.3g}" for x, line in last.items() if line]
        captions[quantity] = f"{quantity.capitalize()} by epoch; at the end {', '.join(ends)}."
    return captions


def enlarges(config: Mapping[str, Any]) -> bool:
    """Whether a run's modality dropout enlarges training batches."""
    return config.get("mask", "nodropout") != "nodropout"


def curve_figure(lines: Lines, quantity: str, *, enlarged: bool = False) -> Figure:
    """Plots `loss` or `accuracy` of both splits by epoch, and marks the best epoch."""
    figure, axes = new_figure(4.6, 3.3)
    train = f"train {quantity} (enlarged batch)" if enlarged else f"train {quantity}"
    for split, label, colour in (
        ("train", train, TRAIN),
        ("validation", f"validation {quantity}", VALIDATION),
    ):
        _plot(axes, of_split(lines, split), quantity, color=colour, label=label)
    best = best_line(lines)
    if best:
        axes.axvline(best["epoch"], color=INK, linestyle=":", linewidth=1)
        axes.plot(best["epoch"], number(best[quantity]), "o", color=VALIDATION, markersize=7)
    _finish(figure, axes, quantity)
    return figure


def compared_figure(runs: Mapping[str, Lines], quantity: str) -> Figure:
    """Plots validation `loss` or `accuracy` of several runs by epoch."""
    figure, axes = new_figure(4.6, 3.3 + 0.2 * len(runs))
    for position, (name, lines) in enumerate(runs.items()):
        style = "-" if position < len(SERIES) else "--"
        colour = SERIES[position % len(SERIES)]
        _plot(
            axes,
            of_split(lines, "validation"),
            quantity,
            style,
            color=colour,
            label=legend_label(name),
        )
    _finish(figure, axes, quantity, columns=1)
    return figure


def _plot(axes: Axes, lines: Lines, quantity: str, style: str = "-", **kwargs: Any) -> None:
    epochs = [line["epoch"] for line in lines]
    marker = "o" if len(epochs) < _FEW else None
    values = [number(line[quantity]) for line in lines]
    axes.plot(epochs, values, style, marker=marker, markersize=4, **kwargs)


def _finish(figure: Figure, axes: Axes, quantity: str, columns: int = 2) -> None:
    """Labels axes and curves."""
    axes.set_xlabel("epoch", color=INK)
    axes.set_ylabel(_NAMES[quantity], color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    top = 1.0 if quantity == "accuracy" else axes.dataLim.y1
    axes.set_ylim(0, 1.05 * top if 0 < top < math.inf else None)  # room for the largest value's dot
    if quantity == "accuracy":
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    figure.legend(
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        labelcolor=INK,
        fontsize="small",
        columnspacing=1.2,
    )
