"""Arithmetic of MTCNN's cascade between its networks: pyramid, area sampling, boxes, suppression.

Boxes are float32 ``[n, 4]`` rows of x1, y1, x2, y2 in pixels. Each rule follows facenet-pytorch
2.5.3 (``models/utils/detect_face.py``) for one frame at a time, oddities included, since the
published crops depend on them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from avjax.preparation.face_detector.networks import CELL, STRIDE

FACTOR = 0.709  # between the levels of the pyramid: about 1/sqrt(2)
BLOCK = 64  # boxes whose overlaps with all others are computed together


def pyramid_scales(height: int, width: int, min_face_size: float) -> list[float]:
    """Scales at which a face of ``min_face_size`` pixels and larger ones fill P-Net's cell."""
    scale = CELL / min_face_size
    side = min(height, width) * scale
    scales = []
    while side >= CELL:
        scales.append(scale)
        scale *= FACTOR
        side *= FACTOR
    return scales


# ----------------------------------------------------------------------------------- area sampling


class Windows(NamedTuple):
    """Half-open ranges of input pixels along one axis, one per output pixel."""

    start: Int[np.ndarray, "*n size"]
    stop: Int[np.ndarray, "*n size"]


def area_windows(start: Int[np.ndarray, "*n"], stop: Int[np.ndarray, "*n"], size: int) -> Windows:
    """Divides ranges into ``size`` windows as PyTorch's adaptive average pooling does.

    Windows overlap where the length is no multiple of ``size``, and repeat pixels where it is
    smaller.
    """
    length = np.asarray(stop - start)[..., None]
    steps = np.arange(size)
    first = np.asarray(start)[..., None]
    return Windows(first + steps * length // size, first - (-(steps + 1) * length // size))


def resize_area(
    integral: Int32[np.ndarray, "h+1 w+1 c"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} c"]:
    """Averages a whole image, given as its integral, over windows of equal area."""
    rows = area_windows(np.array(0), np.array(integral.shape[0] - 1), height)
    columns = area_windows(np.array(0), np.array(integral.shape[1] - 1), width)
    return _means(integral[None], np.array(0), rows, columns)


def crop_area(
    integrals: Int32[np.ndarray, "b h+1 w+1 c"],
    frame: Int[np.ndarray, "n"],
    corners: Int[np.ndarray, "n 4"],
    size: int,
) -> Float32[np.ndarray, "n {size} {size} c"]:
    """Averages crops to ``size`` x ``size``; corners are x1, y1, x2, y2, the last two exclusive."""
    x1, y1, x2, y2 = corners.T
    return _means(integrals, frame, area_windows(y1, y2, size), area_windows(x1, x2, size))


def _means(
    integrals: Int32[np.ndarray, "b h+1 w+1 c"],
    frame: Int[np.ndarray, "*n"],
    rows: Windows,
    columns: Windows,
) -> Float32[np.ndarray, "*n h w c"]:
    """Sums over windows by their corners, then means."""
    height, width, channels = integrals.shape[1:]
    pixels = integrals.reshape(-1, channels)

    def corner(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        first = (frame[..., None] * height + row) * width
        # Plain indices in range: without these two, gathering takes twice as long.
        return pixels.take(first[..., :, None] + column[..., None, :], axis=0, mode="clip")

    sums = corner(rows.stop, columns.stop)
    sums -= corner(rows.stop, columns.start)
    sums += corner(rows.start, columns.start)
    sums -= corner(rows.start, columns.stop)
    # Divided by heights, then by widths: PyTorch's order, so that the last digit agrees.
    means = sums.astype(np.float32)
    means /= (rows.stop - rows.start).astype(np.float32)[..., :, None, None]
    means /= (columns.stop - columns.start).astype(np.float32)[..., None, :, None]
    return means


# ------------------------------------------------------------------------------------------- boxes


def cell_boxes(
    row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], scale: float
) -> Float32[np.ndarray, "n 4"]:
    """The pixels of the original frame that P-Net's cells saw."""
    first = np.stack([column, row], axis=-1).astype(np.float32) * STRIDE + 1
    last = first + (CELL - 1)
    return np.floor(np.concatenate([first, last], axis=-1) / np.float32(scale))


def move_corners(
    boxes: Float32[np.ndarray, "n 4"], offsets: Float32[np.ndarray, "n 4"], extra: int
) -> Float32[np.ndarray, "n 4"]:
    """Adds a network's offsets, given in units of a box's side plus ``extra`` pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(extra)
    return boxes + offsets * np.tile(sides, 2)


def squared(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    """The square round each box's centre whose side is the longer of the box's sides."""
    half = np.float32(0.5)
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    first = boxes[:, :2] + sides * half - longest * half
    return np.concatenate([first, first + longest], axis=1)


def crop_corners(
    boxes: Float32[np.ndarray, "n 4"], height: int, width: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """Pixels to cut out for each box, the last two exclusive, and which boxes have any.

    Coordinates are truncated and count from one, which is why the first ones lose a pixel.
    """
    corners = np.trunc(boxes).astype(np.int64)
    corners[:, :2] = np.maximum(corners[:, :2], 1) - 1
    corners[:, 2:] = np.minimum(corners[:, 2:], (width, height))
    return corners, (corners[:, 2:] > corners[:, :2]).all(axis=1)


def areas(boxes: Float[np.ndarray, "n 4"], extra: int = 0) -> Float[np.ndarray, "n"]:
    """Areas of boxes whose sides are ``extra`` longer than the difference of their corners."""
    sides = boxes[:, 2:] - boxes[:, :2] + boxes.dtype.type(extra)
    return sides[:, 0] * sides[:, 1]


# ------------------------------------------------------------------------------------- suppression


def suppress(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, "n"], threshold: float
) -> Int[np.ndarray, "m"]:
    """Greedy non-maximum suppression by intersection over union, as torchvision's.

    Returns:
      Indices of the boxes kept, highest score first (equal scores in their order).
    """
    return _suppress(boxes, np.argsort(-scores, kind="stable"), threshold, 0, by_smaller=False)


def suppress_nested(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, "n"], threshold: float
) -> Int[np.ndarray, "m"]:
    """Suppression by intersection over the smaller area (the last stage's ``Min``).

    Sides count one pixel more than in `suppress`.
    """
    return _suppress(boxes, np.argsort(scores, kind="stable")[::-1], threshold, 1, by_smaller=True)


def _suppress(
    boxes: np.ndarray, order: np.ndarray, threshold: float, extra: int, *, by_smaller: bool
) -> np.ndarray:
    boxes, area = boxes[order], areas(boxes, extra)[order]
    alive = np.ones(len(boxes), bool)
    kept = []
    for start in range(0, len(boxes), BLOCK):
        block = slice(start, start + BLOCK)
        first = np.maximum(boxes[block, None, :2], boxes[:, :2])
        last = np.minimum(boxes[block, None, 2:], boxes[:, 2:])
        sides = np.maximum(last - first + boxes.dtype.type(extra), 0)
        common, own = sides[..., 0] * sides[..., 1], area[block, None]
        whole = np.minimum(own, area) if by_smaller else own + area - common
        with np.errstate(invalid="ignore"):  # boxes without area: 0/0 suppresses nothing
            apart = ~(common / whole > threshold)
        for i, others in enumerate(apart, start):
            if alive[i]:
                kept.append(i)
                alive &= others
    return order[kept]
