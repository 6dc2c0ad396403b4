"""Crops faces from frames, for both profiles."""

from collections.abc import Sequence
from typing import Any, cast

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avjax.errors import InputError

Boxes = Sequence[Float[np.ndarray, "4"] | None]


class NoFaceError(InputError):
    """No frame of the clip shows a face."""


def reference_crops(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]], boxes: Boxes, size: int = 224
) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """Crops faces like the reference (``ravdess_preprocessing/extract_faces.py``), as BGR.

    Rounds the corners and does not preserve the aspect ratio. Unlike the reference, it clips boxes
    to the frame, and uses the first box for the frames before it.

    Args:
      frames: RGB frames of one clip, in order.
      boxes: x1, y1, x2, y2 in pixels; None reuses the previous frame's box.
      size: side of the crops.

    Raises:
      NoFaceError: every box is None.
    """
    crops = []
    for frame, box in zip(frames, earlier_boxes(boxes), strict=True):
        x1, y1, x2, y2 = _clipped([round(float(x)) for x in box], frame)
        crops.append(cv2.resize(frame[y1:y2, x1:x2, ::-1], (size, size)))
    return np.stack(crops)


def fixed_crops(
    frames: Sequence[UInt8[np.ndarray, "h w 3"]], boxes: Boxes, size: int = 224
) -> UInt8[np.ndarray, "n {size} {size} 3"]:
    """Crops faces without distortion: squares centred on the boxes, as RGB.

    A square's side is its box's longer side, at most the frame's shorter side. Squares are shifted
    to lie inside the frame. Downsampling averages areas, so no pixel is skipped.

    Args:
      frames: RGB frames of one clip, in order.
      boxes: x1, y1, x2, y2 in pixels; None uses the box of the nearest frame (the earlier on ties).
      size: side of the crops.

    Raises:
      NoFaceError: every box is None.
    """
    crops = []
    for frame, box in zip(frames, nearest_boxes(boxes), strict=True):
        x, y, side = _square(box, frame)
        interpolation = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
        crop = frame[y : y + side, x : x + side]
        crops.append(cv2.resize(crop, (size, size), interpolation=interpolation))
    return np.stack(crops)


def earlier_boxes(boxes: Boxes) -> list[Float[np.ndarray, "4"]]:
    """Returns a box for every frame: the last one up to it, or else the first.

    Raises:
      NoFaceError: every box is None.
    """
    present = _present(boxes)
    places = np.searchsorted(present, np.arange(len(boxes)), side="right") - 1
    return [cast(Any, boxes[i]) for i in present[np.maximum(places, 0)]]


def nearest_boxes(boxes: Boxes) -> list[Float[np.ndarray, "4"]]:
    """Returns a box for every frame: that of the nearest frame with one, the earlier on ties.

    Raises:
      NoFaceError: every box is None.
    """
    present = _present(boxes)
    places = [np.argmin(np.abs(present - i)) for i in range(len(boxes))]
    return [cast(Any, boxes[i]) for i in present[places]]


def _present(boxes: Boxes) -> np.ndarray:
    """Returns the indices of frames with a face."""
    present = np.array([i for i, box in enumerate(boxes) if box is not None], np.int64)
    if not present.size:
        raise NoFaceError(
            f"no face was found in any of its {len(boxes)} frames; leave the clip out"
        )
    return present


def _clipped(corners: Sequence[int], frame: np.ndarray) -> tuple[int, int, int, int]:
    """Clips corners to the frame, at least one pixel apart."""
    height, width = frame.shape[:2]
    x1, y1 = min(max(corners[0], 0), width - 1), min(max(corners[1], 0), height - 1)
    return x1, y1, max(min(corners[2], width), x1 + 1), max(min(corners[3], height), y1 + 1)


def _square(box: Float[np.ndarray, "4"], frame: np.ndarray) -> tuple[int, int, int]:
    """Returns left, top and side of the square around the box, shifted into the frame."""
    height, width = frame.shape[:2]
    x1, y1, x2, y2 = map(float, box)
    side = min(max(round(max(x2 - x1, y2 - y1)), 1), height, width)
    left = min(max(round((x1 + x2 - side) / 2), 0), width - side)
    top = min(max(round((y1 + y2 - side) / 2), 0), height - side)
    return left, top, side
