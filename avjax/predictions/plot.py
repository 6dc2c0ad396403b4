"""Draws a prediction's timeline: bands of probability, and what was missing where."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import Formatter, MaxNLocator, PercentFormatter

from avjax.predictions.outputs import check_suffix
from avjax.predictions.prediction import Prediction, clock, edges
from avjax.runtime.files import atomic_file, explain_unwritable

# First Okabe and Ito's colours, which colour-blind people can tell apart.
COLOURS = (
    *("#999999", "#56B4E9", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#009E73", "#E69F00"),
    *("#44AA99", "#AA4499", "#DDCC77", "#882255", "#117733", "#332288", "#88CCEE", "#661100"),
)
MISSING = {"audio": "no sound", "video": "no face"}
_MISSING_COLOUR = "#444444"
_DPI = 150


def write_plot(path: Path, name: str, prediction: Prediction) -> None:
    """Writes the timeline's figure in the format of the suffix; see `timeline_figure`.

    Raises:
      InputError: the file cannot be written, or its suffix names no format.
    """
    check_suffix("plot", path)
    figure = timeline_figure(name, prediction)
    FigureCanvasAgg(figure)
    metadata = {"Date": None} if path.suffix.lower() == ".svg" else None  # the same bytes again
    with (
        explain_unwritable(path, "choose another --plot"),
        atomic_file(path) as file,
        mpl.rc_context({"svg.hashsalt": "avjax"}),
    ):
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=_DPI, metadata=metadata)


def timeline_figure(name: str, prediction: Prediction) -> Figure:
    """Draws each class's probability over time as a band, calibrated if there is a temperature.

    A window's probabilities stand at its middle, and straight lines join them. Below, dark bars
    mark windows without sound or without a face; where both lack, nothing is judged.

    Args:
      name: of the file, for the title.
      prediction: with a timeline.
    """
    windows, classes = prediction.timeline, list(prediction.probabilities)
    width = min(max(9.0, len(windows) / 12), 24.0)
    figure = Figure(figsize=(width, 4.2), layout="constrained", facecolor="white")
    bands, strip = figure.subplots(2, 1, sharex=True, height_ratios=(8, 1))
    places = edges(windows)
    for judged, group in itertools.groupby(range(len(windows)), lambda i: bool(windows[i].label)):
        numbers = list(group)
        if not judged:
            continue
        middles = [(windows[i].start + windows[i].end) / 2 for i in numbers]
        times = [places[numbers[0]], *middles, places[numbers[-1] + 1]]
        held = [numbers[0], *numbers, numbers[-1]]  # up to the ends of the group's share of time
        shares = [[windows[i].shown[c] for i in held] for c in classes]
        colours = [COLOURS[k % len(COLOURS)] for k in range(len(classes))]
        bands.stackplot(times, shares, colors=colours, edgecolor="white", linewidth=0.6)
    handles = [
        mpl.patches.Patch(color=COLOURS[k % len(COLOURS)], label=c) for k, c in enumerate(classes)
    ]
    bands.legend(handles=handles[::-1], loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    bands.set(ylim=(0, 1), title=f"{name}: {prediction.label}")
    bands.set_ylabel("probability" + (", calibrated" if prediction.calibrated else ""))
    bands.yaxis.set_major_formatter(PercentFormatter(1))
    rows = [s for s in MISSING if any(s in window.missing for window in windows)]
    for row, stream in enumerate(rows):
        lacking = [i for i, window in enumerate(windows) if stream in window.missing]
        spans = [(places[i], places[i + 1] - places[i]) for i in lacking]
        strip.broken_barh(spans, (row - 0.4, 0.8), color=_MISSING_COLOUR)
    strip.set(ylim=(max(len(rows), 1) - 0.5, -0.5), xlim=(places[0], places[-1]))
    strip.set_yticks(range(len(rows)), [MISSING[stream] for stream in rows])
    if not rows:
        strip.text(0.5, 0.5, "nothing missing", ha="center", va="center", transform=strip.transAxes)
    strip.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 5, 10]))  # no quarters
    strip.xaxis.set_major_formatter(_ClockFormatter())
    strip.set_xlabel("minutes and seconds")
    for axes in (bands, strip):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


class _ClockFormatter(Formatter):
    """Formats all ticks with tenths of seconds where one needs them, else none."""

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        texts = [self(value) for value in values]
        if all(text.endswith(".0") for text in texts):
            return [text.removesuffix(".0") for text in texts]
        return texts

    def __call__(self, x: float, pos: int | None = None) -> str:
        return clock(x).strip()
