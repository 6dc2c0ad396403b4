"""Draws a contact sheet of a dataset: one row of frames per clip."""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

MAX_CLIPS, THUMBNAIL = 24, 64  # rows; pixels
_LABEL_WIDTH = 200


def write_contact_sheet(
    path: Path, rows: Iterable[tuple[str, UInt8[np.ndarray, "n s s 3"]]], profile: str
) -> None:
    """Writes a PNG with the name and frames of one clip per row.

    Args:
      path: the PNG file.
      rows: names and frames of clips; `MAX_CLIPS` of them fit a screen.
      profile: determines the channel order of the frames.
    """
    encoded = cv2.imencode(".png", np.concatenate([_row(*row, profile) for row in rows]))[1]
    path.write_bytes(encoded.tobytes())


def _row(
    name: str, frames: UInt8[np.ndarray, "n s s 3"], profile: str
) -> UInt8[np.ndarray, "h w 3"]:
    size = (THUMBNAIL, THUMBNAIL)
    thumbnails = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    strip = np.concatenate(thumbnails, axis=1)
    if profile == "fixed":
        strip = strip[..., ::-1]  # OpenCV writes BGR
    label = np.full((THUMBNAIL, _LABEL_WIDTH, 3), 255, np.uint8)
    origin = (4, THUMBNAIL // 2 + 4)
    cv2.putText(label, name, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([label, strip], axis=1)
