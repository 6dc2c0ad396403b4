"""What pages are made of: sections, tables, tabs, pictures, and figures as inline SVG.

Figures are drawn for a white page; on a page their colours are CSS variables, which follow the
reader's light or dark setting.
"""

import base64
import html
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from avjax.runs.report.style import GRID, INK, PAPER, STYLE, VARIABLES
from avjax.runtime.files import atomic_file

_DPI = 200  # of saved PNG files


def document(name: str, kind: str, introduction: str, sections: Mapping[str, str]) -> str:
    """Returns a page as an HTML document.

    Args:
      name: the heading.
      kind: what the page is, for its title.
      introduction: HTML below the heading.
      sections: HTML by heading; empty ones are left out.
    """
    sections = {heading: body for heading, body in sections.items() if body}
    ids = {heading: re.sub(r"\W+", "-", heading.lower()) for heading in sections}
    links = "".join(f'<a href="#{ids[x]}">{html.escape(x)}</a>' for x in sections)
    parts = [
        f'<section id="{ids[x]}"><h2>{html.escape(x)}</h2>{body}</section>'
        for x, body in sections.items()
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(name)}: {kind}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(name)}</h1>\n{introduction}\n<nav>{links}</nav>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def tiles(values: Iterable[tuple[str, str]]) -> str:
    """Renders key figures."""
    items = (f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in values)
    return f"<dl>{''.join(items)}</dl>"


def note(text: str) -> str:
    """Renders a paragraph of small text."""
    return f'<p class="note">{html.escape(text)}</p>'


def pair(*parts: str) -> str:
    """Renders parts side by side; below each other on a narrow screen."""
    return f'<div class="pair">{"".join(parts)}</div>'


def tabs(name: str, panels: Mapping[str, str]) -> str:
    """Renders panels of which the reader chooses one; the first to begin with. No script."""
    parts = []
    for number, (label, panel) in enumerate(panels.items()):
        key, checked = f"{name}-{number}", "" if number else " checked"
        parts.append(
            f'<input type="radio" name="{name}" id="{key}"{checked}>'
            f'<label for="{key}">{html.escape(label)}</label><div class="panel">{panel}</div>'
        )
    return f'<div class="tabs">{"".join(parts)}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "figures") -> str:
    """Renders an HTML table with escaped cells."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(x)}</{tag}>" for x in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    head = line(header, "th") if header else ""
    return f'<div class="wide"><table class="{kind}">{head}{body}</table></div>'


def picture(data: bytes, kind: str, text: str, name: str = "") -> str:
    """Renders an encoded picture, ``kind`` `png` or `jpeg`, inside the page."""
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img class="{name}" alt="{html.escape(text)}" src="{source}">'


def style_axes(axes: Axes) -> None:
    """Applies a minimal style, independent of matplotlib's current one."""
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[:].set_color(GRID)
    axes.tick_params(color=GRID, labelcolor=INK)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def new_figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Returns a figure of a size in inches, and its styled axes."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor=PAPER)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def legend_label(name: str) -> str:
    """Returns a name for matplotlib's legends, which read $ as mathematics and hide ``_name``."""
    shown = name if not name.startswith("_") else f" {name}"
    return shown.replace("$", r"\$")


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


def save_figures(folder: Path, figures: Mapping[str, Figure]) -> None:
    """Saves figures as SVG and PNG files by name, drawn for a white page."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            with atomic_file(folder / f"{name}.{kind}") as file:
                figure.savefig(file, format=kind, dpi=_DPI)


def percent(share: float) -> str:
    """Formats a share."""
    return f"{share:.1%}"


def number(value: float | None) -> float:
    """Returns a number as stored in JSON, where None stands for one that is not finite."""
    return math.nan if value is None else value
