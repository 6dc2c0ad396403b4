"""MTCNN's image pyramid, area resampling, bounding boxes and non-maximum suppression.

Boxes are float32 ``[n, 4]`` rows of x1, y1, x2, y2 in pixels. Everything follows facenet-pytorch
2.5.3 (``models/utils/detect_face.py``) on single frames, including its quirks, because the
published crops depend on them.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32

from avjax.preparation.face_detector.networks import CELL, STRIDE

FACTOR = 0.709  # scale between pyramid levels, about 1/sqrt(2)
BLOCK = 64  # boxes per block of the overlap matrix


def pyramid_scales(height: int, width: int, min_face_size: float) -> list[float]:
    """Returns the scales at which faces of ``min_face_size`` pixels and more fill a P-Net cell."""
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
    """Divides ranges into ``size`` windows like PyTorch's adaptive average pooling.

    Windows overlap if the length is not a multiple of ``size``, and repeat pixels if it is smaller.
    """
    length = np.asarray(stop - start)[..., None]
    steps = np.arange(size)
    first = np.asarray(start)[..., None]
    return Windows(first + steps * length // size, first - (-(steps + 1) * length // size))


def resize_area(
    integral: Int32[np.ndarray, "h+1 w+1 c"], height: int, width: int
) -> Float32[np.ndarray, "{height} {width} c"]:
    """Resizes an image, given as its integral, by averaging over windows."""
    rows = area_windows(np.array(0), np.array(integral.shape[0] - 1), height)
    columns = area_windows(np.array(0), np.array(integral.shape[1] - 1), width)
    return _means(integral[None], np.array(0), rows, columns)


def crop_area(
    integrals: Int32[np.ndarray, "b h+1 w+1 c"],
    frame: Int[np.ndarray, "n"],
    corners: Int[np.ndarray, "n 4"],
    size: int,
) -> Float32[np.ndarray, "n {size} {size} c"]:
    """Resizes crops to ``size`` x ``size``; corners are x1, y1, x2, y2, the last two exclusive."""
    x1, y1, x2, y2 = corners.T
    return _means(integrals, frame, area_windows(y1, y2, size), area_windows(x1, x2, size))


def _means(
    integrals: Int32[np.ndarray, "b h+1 w+1 c"],
    frame: Int[np.ndarray, "*n"],
    rows: Windows,
    columns: Windows,
) -> Float32[np.ndarray, "*n h w c"]:
    """Averages over windows, using four corners of the integral image each."""
    height, width, channels = integrals.shape[1:]
    pixels = integrals.reshape(-1, channels)

    def corner(row: np.ndarray, column: np.ndarray) -> np.ndarray:
        first = (frame[..., None] * height + row) * width
        # Flat indices and mode="clip" halve the time of the gather.
        return pixels.take(first[..., :, None] + column[..., None, :], axis=0, mode="clip")

    sums = corner(rows.stop, columns.stop)
    sums -= corner(rows.stop, columns.start)
    sums += corner(rows.start, columns.start)
    sums -= corner(rows.start, columns.stop)
    # Divide by heights, then by widths, as PyTorch does, to match the last bit.
    means = sums.astype(np.float32)
    means /= (rows.stop - rows.start).astype(np.float32)[..., :, None, None]
    means /= (columns.stop - columns.start).astype(np.float32)[..., None, :, None]
    return means


# ------------------------------------------------------------------------------------------- boxes


def cell_boxes(
    row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"], scale: float
) -> Float32[np.ndarray, "n 4"]:
    """Returns the receptive fields of P-Net's cells in pixels of the original frame."""
    first = np.stack([column, row], axis=-1).astype(np.float32) * STRIDE + 1
    last = first + (CELL - 1)
    return np.floor(np.concatenate([first, last], axis=-1) / np.float32(scale))


def move_corners(
    boxes: Float32[np.ndarray, "n 4"], offsets: Float32[np.ndarray, "n 4"], extra: int
) -> Float32[np.ndarray, "n 4"]:
    """Adds a network's offsets, which are in units of the box's side plus ``extra`` pixels."""
    sides = boxes[:, 2:] - boxes[:, :2] + np.float32(extra)
    return boxes + offsets * np.tile(sides, 2)


def squared(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    """Extends each box to a square with the same centre and longer side."""
    half = np.float32(0.5)
    sides = boxes[:, 2:] - boxes[:, :2]
    longest = sides.max(axis=1, keepdims=True)
    first = boxes[:, :2] + sides * half - longest * half
    return np.concatenate([first, first + longest], axis=1)


def crop_corners(
    boxes: Float32[np.ndarray, "n 4"], height: int, width: int
) -> tuple[Int[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """Returns each box's corners clipped to the frame, and which boxes are not empty.

    x1, y1 are inclusive and x2, y2 exclusive. Box coordinates are truncated and 1-based, hence
    ``x1 - 1`` and ``y1 - 1``.
    """
    corners = np.trunc(boxes).astype(np.int64)
    corners[:, :2] = np.maximum(corners[:, :2], 1) - 1
    corners[:, 2:] = np.minimum(corners[:, 2:], (width, height))
    return corners, (corners[:, 2:] > corners[:, :2]).all(axis=1)


def areas(boxes: Float[np.ndarray, "n 4"], extra: int = 0) -> Float[np.ndarray, "n"]:
    """Returns box areas; sides are ``extra`` pixels longer than the corners' difference."""
    sides = boxes[:, 2:] - boxes[:, :2] + boxes.dtype.type(extra)
    return sides[:, 0] * sides[:, 1]


# ------------------------------------------------------------------------------------- suppression


def suppress(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, "n"], threshold: float
) -> Int[np.ndarray, "m"]:
    """Non-maximum suppression by intersection over union, like torchvision's ``nms``.

    Returns:
      Indices of the remaining boxes, highest score first; the sort is stable.
    """
    return _suppress(boxes, np.argsort(-scores, kind="stable"), threshold, 0, by_smaller=False)


def suppress_nested(
    boxes: Float32[np.ndarray, "n 4"], scores: Float32[np.ndarray, "n"], threshold: float
) -> Int[np.ndarray, "m"]:
    """Non-maximum suppression by intersection over the smaller area (facenet-pytorch's ``Min``).

    Sides are one pixel longer than in `suppress`.
    """
    return _suppress(boxes, np.argsort(scores, kind="stable")[::-1], threshold, 1, by_smaller=True)


def _suppress(
    boxes: np.ndarray, order: np.ndarray, threshold: float, extra: int, *, by_smaller: bool
) -> np.ndarray:
    boxes, area = boxes[order], areas(boxes, extra)[order]
    alive = np.ones(len(boxes), bool)
    keep = []
    for start in range(0, len(boxes), BLOCK):
        block = slice(start, start + BLOCK)
        first = np.maximum(boxes[block, None, :2], boxes[:, :2])
        last = np.minimum(boxes[block, None, 2:], boxes[:, 2:])
        sides = np.maximum(last - first + boxes.dtype.type(extra), 0)
        intersection, block_area = sides[..., 0] * sides[..., 1], area[block, None]
        if by_smaller:
            denominator = np.minimum(block_area, area)
        else:
            denominator = block_area + area - intersection
        with np.errstate(invalid="ignore"):  # empty boxes: 0/0 suppresses nothing
            overlaps = intersection / denominator > threshold
        for i, suppressed in enumerate(overlaps, start):
            if alive[i]:
                keep.append(i)
                alive &= ~suppressed
    return order[keep]
