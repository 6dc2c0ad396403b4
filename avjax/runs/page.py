"""What the sections of a report share: colours, figures as inline SVG, tables."""

import html
import io
import math
import re
from collections.abc import Iterable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Colours on white; the page replaces each with a CSS variable.
INK, GRID, PAPER, TRAIN, VALIDATION = "#1d2433", "#d5dae3", "#ffffff", "#c2621b", "#2563c9"
VARIABLES = {
    INK: "--ink",
    GRID: "--grid",
    PAPER: "--paper",
    TRAIN: "--train",
    VALIDATION: "--validation",
}


def style_axes(axes: Axes) -> None:
    """Applies a minimal style, independent of matplotlib's current one."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def inline(figure: Figure, name: str, caption: str) -> str:
    """Renders a figure as inline SVG with the page's colours and unique ids."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]  # without the XML header
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    text = html.escape(caption)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f"<figure>{svg}<figcaption>{text}</figcaption></figure>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> str:
    """Renders an HTML table with escaped cells."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    head = line(header, "th")
    return f'<div class="wide"><table class="{kind}">{head}{body}</table></div>'


def number(value: float | None) -> float:
    """Returns a number as stored in JSON, where None stands for one that is not finite."""
    return math.nan if value is None else value
