"""Draws a prediction into frames: the face's box, the label, bars of probability."""

import bisect
import functools
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from avjax.predictions.plot import COLOURS
from avjax.predictions.prediction import Prediction, Window
from avjax.preparation.faces import Face

_DPI = 100
_WITHOUT = {"audio": "without sound", "video": "without a face"}
_LONGEST = 12  # letters of a class beside its bar
_PANEL_OPACITY = 230  # of 255; over a white wall the bars still stand out
_WHITE, _ORANGE = (255, 255, 255), (255, 190, 80)

Image = UInt8[np.ndarray, "h w 3"]


class _Panel(NamedTuple):
    """A picture to lay over frames, with its opacity."""

    colour: UInt8[np.ndarray, "h w 3"]
    opacity: UInt8[np.ndarray, "h w 1"]


class Drawing:
    """Draws into frames what was predicted for their moments."""

    def __init__(self, prediction: Prediction) -> None:
        self._timeline, self._faces = prediction.timeline, prediction.faces
        self._middles = [(window.start + window.end) / 2 for window in prediction.timeline]
        self._seconds = [face.second for face in prediction.faces]
        gaps = np.diff(self._seconds)
        self._reach = 1.5 * float(np.median(gaps)) if len(gaps) else 1.0

    def drawn(self, image: Image, size: tuple[int, int], second: float) -> Image:
        """Returns a frame of another size with box, label and bars; no box, label on the bars."""
        height, width = image.shape[:2]
        canvas = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        window = self._timeline[_nearest(self._middles, second)]
        unit = min(size) / 24
        panel = _bars(window, round(unit))
        left, bottom = round(unit / 2), canvas.shape[0] - round(unit / 2)
        box = self._box(second)
        if box is None:
            self._draw_label(canvas, left, bottom - panel.colour.shape[0], window)
        else:
            scaled = box * np.tile(np.divide(size, (width, height)), 2)
            self._draw_box(canvas, scaled, window)
        _lay(canvas, panel, left, bottom)
        return canvas

    def _box(self, second: float) -> np.ndarray | None:
        """Returns the face's box between the two frames around a moment."""
        after = bisect.bisect_right(self._seconds, second)
        around = [i for i in (after - 1, after) if 0 <= i < len(self._faces)]
        near = [i for i in around if abs(self._seconds[i] - second) <= self._reach]
        known: list[Face] = [self._faces[i] for i in near if self._faces[i].box is not None]
        if len(known) < len(near) or not known:
            nearest = min(near, key=lambda i: abs(self._seconds[i] - second), default=None)
            face = None if nearest is None else self._faces[nearest]
            return None if face is None or face.box is None else np.array(face.box)
        if len(known) == 1:
            return np.array(known[0].box)
        first, last = known
        share = (second - first.second) / max(last.second - first.second, 1e-9)
        return (1 - share) * np.array(first.box) + share * np.array(last.box)

    def _draw_box(self, canvas: Image, box: np.ndarray, window: Window) -> None:
        unit = min(canvas.shape[:2]) / 24
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        thickness = max(2, round(unit / 8))
        cv2.rectangle(canvas, (x1, y1), (x2, y2), self._colour(window), thickness)
        self._draw_label(canvas, x1, y1, window)

    def _draw_label(self, canvas: Image, left: int, bottom: int, window: Window) -> None:
        if window.label is None:
            return
        height = round(min(canvas.shape[:2]) / 24 * 1.3)
        share = window.shown[window.label]
        tag = _text(f" {window.label} {share:.0%} ", height, self._colour(window))
        _lay(canvas, tag, left, max(bottom, height))

    def _colour(self, window: Window) -> tuple[int, int, int]:
        if window.label is None:
            return 160, 160, 160
        return _rgb(COLOURS[list(window.probabilities).index(window.label) % len(COLOURS)])


def _nearest(values: Sequence[float], wanted: float) -> int:
    after = bisect.bisect_left(values, wanted)
    return min(
        (i for i in (after - 1, after) if 0 <= i < len(values)),
        key=lambda i: abs(values[i] - wanted),
    )


def _lay(canvas: Image, panel: _Panel, left: int, bottom: int) -> None:
    """Lays a panel over a frame, its lower left corner at a place; what leaves the frame is cut."""
    height, width = panel.colour.shape[:2]
    top, start = max(bottom - height, 0), max(left, 0)
    part = canvas[top : top + height, start : start + width]
    colour, opacity = (x[: part.shape[0], : part.shape[1]] for x in panel)
    weight = opacity.astype(np.uint16)
    part[:] = (part * (255 - weight) + colour * weight + 127) // 255


def _bars(window: Window, unit: int) -> _Panel:
    notes = [_WITHOUT[stream] for stream in window.missing]
    if window.label is None:
        notes.append("not judged")
    return _bars_of(tuple(window.shown.items()), tuple(notes), unit)


@functools.lru_cache(maxsize=4)
def _bars_of(items: tuple[tuple[str, float], ...], notes: tuple[str, ...], unit: int) -> _Panel:
    """Draws bars of probabilities and lines of notes on a dark ground."""
    rows, width = len(items) + len(notes), 12 * unit
    colour = np.zeros((rows * unit + unit, width, 3), np.uint8)
    opacity = np.full((*colour.shape[:2], 1), _PANEL_OPACITY, np.uint8)
    for row, (name, share) in enumerate(items):
        y = round((row + 0.5) * unit)
        bar = slice(y + 2, y + unit - 2), slice(5 * unit, round((5 + 5 * share) * unit))
        colour[bar] = _rgb(COLOURS[row % len(COLOURS)])
        opacity[bar] = 255
        short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        _write_text(colour, opacity, short, unit // 3, y, unit, _WHITE)
        _write_text(colour, opacity, f"{share:.0%}", round(10.2 * unit), y, unit, _WHITE)
    for row, note in enumerate(notes, len(items)):
        y = round((row + 0.5) * unit)
        _write_text(colour, opacity, note, unit // 3, y, unit, _ORANGE)
    return _Panel(colour, opacity)


def _write_text(
    colour: np.ndarray,
    opacity: np.ndarray,
    text: str,
    x: int,
    y: int,
    height: int,
    ink: tuple[int, int, int],
) -> None:
    mask = _mask(text, height)
    mask = mask[: colour.shape[0] - y, : colour.shape[1] - x]
    place = slice(y, y + mask.shape[0]), slice(x, x + mask.shape[1])
    share = mask[..., None] / 255
    colour[place] = np.round(colour[place] * (1 - share) + np.array(ink) * share)
    opacity[place] = np.maximum(opacity[place], mask[..., None])


def _text(text: str, height: int, ground: tuple[int, int, int]) -> _Panel:
    """Draws a tag: black or white text, whichever is clearer, on a coloured ground."""
    mask = _mask(text, height)
    ink = 0 if np.dot(ground, (0.299, 0.587, 0.114)) > 110 else 255
    share = mask[..., None] / 255
    colour = np.round(np.array(ground) * (1 - share) + ink * share).astype(np.uint8)
    return _Panel(colour, np.full((*mask.shape, 1), 255, np.uint8))


@functools.lru_cache(maxsize=512)
def _mask(text: str, height: int) -> UInt8[np.ndarray, "h w"]:
    """Draws text in any script of matplotlib's font; returns its coverage, ``height`` lines."""
    figure = Figure(figsize=(max(1, len(text)) * height / _DPI, height / _DPI), dpi=_DPI)
    canvas = FigureCanvasAgg(figure)
    drawn = figure.text(
        0, 0.5, text, fontsize=0.62 * height * 72 / _DPI, va="center", parse_math=False
    )
    canvas.draw()
    width = max(1, round(drawn.get_window_extent().width))
    return 255 - np.asarray(canvas.buffer_rgba())[:, : width + 1, 0]


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour[1:])
    return red, green, blue
