"""A plot of a step's cost against whatever varies in the figures."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib.pyplot as plt
from benchmarks import sides

YARDSTICKS = {"limit": "limit (arithmetic)", "traffic": "traffic (no limit)"}
AXES = {"batch": "clips in a batch", "frames": "frames in a clip", "devices": "devices"}


def draw(figures: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes an image: seconds a clip by side, one panel for each axis that varies."""
    varying = [name for name in AXES if len({f["setting"][name] for f in figures}) > 1] or ["batch"]
    drawing, panels = plt.subplots(1, len(varying), figsize=(5 * len(varying), 4), squeeze=False)
    for panel, name in zip(panels[0], varying, strict=True):
        for side, points in lines_by_side(figures, name).items():
            panel.plot(*zip(*sorted(points), strict=True), marker="o", label=side)
        panel.set(xlabel=AXES[name], ylabel="seconds a clip", ylim=(0, None))
        panel.legend()
    drawing.tight_layout()
    drawing.savefig(path)
    plt.close(drawing)


def lines_by_side(
    figures: Sequence[dict[str, Any]], axis: str
) -> dict[str, list[tuple[int, float]]]:
    """Points by side; other axes at the value they have in the first figure."""
    first = figures[0]["setting"]
    lines: dict[str, list[tuple[int, float]]] = {}
    for figure in figures:
        setting = figure["setting"]
        if any(setting[name] != first[name] for name in setting if name != axis):
            continue
        for side, told in figure["found"].items():
            if not sides.failure(told):
                point = setting[axis], median(sides.seconds(told)) / setting["batch"]
                lines.setdefault(side, []).append(point)
        for name, label in YARDSTICKS.items():
            point = setting[axis], figure[name]["seconds"] / setting["batch"]
            lines.setdefault(label, []).append(point)
    return lines
