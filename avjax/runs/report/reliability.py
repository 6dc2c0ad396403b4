"""The report's section on calibration: what a stated probability is worth."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from avjax.runs.report.page import inline, new_figure, number, pair, percent, table
from avjax.runs.report.style import INK, TRAIN, VALIDATION
from avjax.training.calibration import reliability

_LARGEST = 160  # area of the marker of all clips, in square points


def reliability_section(evaluation: Mapping[str, Any]) -> str:
    """Renders diagram and table; nothing for evaluations of versions that kept no probabilities."""
    if not evaluation.get("clips"):
        return ""
    name = next(iter(evaluation["conditions"]))
    temperatures = evaluation["temperatures"]
    caption = f"Accuracy of the clips of the {evaluation['split']} split by the probability that "
    caption += f"the model states for its answer ({name}); larger points hold more clips, and on "
    caption += "the dotted line the two agree. "
    if temperatures:
        fitted = ", ".join(f"{streams} {value:g}" for streams, value in temperatures.items())
        caption += f"Temperatures, fitted on the validation split: {fitted}."
    else:
        caption += "The model is not calibrated."
    header = ("condition", "calibration error", "calibrated", "loss", "calibrated")
    figure = inline(reliability_figure(evaluation), "reliability", caption)
    return pair(figure, table(header, _rows(evaluation)))


def _rows(evaluation: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Returns the table's rows: both errors and losses of each condition."""
    rows: list[tuple[str, ...]] = []
    for name, raw in evaluation["conditions"].items():
        error, loss = percent(raw["calibration_error"]), f"{number(raw['loss']):.3f}"
        after = raw.get("calibrated")
        cells = (percent(after["calibration_error"]), f"{after['loss']:.3f}") if after else "--"
        rows.append((name, error, cells[0], loss, cells[1]))
    return rows


def reliability_figure(evaluation: Mapping[str, Any]) -> Figure:
    """Plots accuracy by confidence of undisturbed clips, raw and calibrated."""
    figure, axes = new_figure(4.6, 4.4)
    name = next(iter(evaluation["conditions"]))
    clips = [clip for clip in evaluation["clips"].values() if name in clip["probabilities"]]
    labels = np.array([evaluation["classes"].index(clip["truth"]) for clip in clips])
    axes.plot((0, 1), (0, 1), color=INK, linestyle=":", linewidth=1)
    for key, label, colour in (
        ("probabilities", "raw", TRAIN),
        ("calibrated", "calibrated", VALIDATION),
    ):
        rows = [clip.get(key, {}).get(name) for clip in clips]
        if None in rows:
            continue
        counts, confidence, accuracy = reliability(np.array(rows), labels)
        filled = counts > 0
        x, y = confidence[filled], accuracy[filled]
        axes.plot(x, y, color=colour, linewidth=1)
        areas = 12 + _LARGEST * counts[filled] / len(clips)
        axes.scatter(x, y, areas, color=colour, label=label, zorder=2)
    axes.set(xlim=(0, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("probability of the answer", color=INK)
    axes.set_ylabel("accuracy", color=INK)
    figure.legend(loc="outside upper center", ncols=2, frameon=False, labelcolor=INK)
    return figure
