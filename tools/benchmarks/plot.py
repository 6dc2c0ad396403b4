"""Plots a step's cost against each varying setting."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from benchmarks import sides

YARDSTICKS = {"limit": "limit (arithmetic)", "traffic": "traffic (no limit)"}
AXES = {"batch": "clips in a batch", "frames": "frames in a clip", "devices": "devices"}


def draw(figures: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes a plot of seconds per clip by side, with one panel per varying axis."""
    varying = [name for name in AXES if len({f["setting"][name] for f in figures}) > 1] or ["batch"]
    figure, panels = plt.subplots(1, len(varying), figsize=(5 * len(varying), 4), squeeze=False)
    for panel, name in zip(panels[0], varying, strict=True):
        for side, points in lines_by_side(figures, name).items():
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=side)
        panel.set(xlabel=AXES[name], ylabel="seconds per clip", ylim=(0, None))
        panel.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def lines_by_side(
    figures: Sequence[dict[str, Any]], axis: str
) -> dict[str, list[tuple[int, float]]]:
    """Returns points by side, with all other axes as in the first figure."""
    first = figures[0]["setting"]
    lines: dict[str, list[tuple[int, float]]] = {}
    for figure in figures:
        setting = figure["setting"]
        if any(setting[name] != first[name] for name in setting if name != axis):
            continue
        for side, results in figure["found"].items():
            if not sides.failure(results):
                point = setting[axis], median(sides.seconds(results)) / setting["batch"]
                lines.setdefault(side, []).append(point)
        for name, label in YARDSTICKS.items():
            point = setting[axis], figure[name]["seconds"] / setting["batch"]
            lines.setdefault(label, []).append(point)
    return lines
