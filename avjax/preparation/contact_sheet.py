"""Draws a contact sheet of a dataset: one row of frames per clip."""

import unicodedata
from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

MAX_CLIPS, THUMBNAIL = 24, 64  # rows; pixels
_LABEL_WIDTH = 200
_FONT, _FONT_SCALE, _MARGIN = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 4


def write_contact_sheet(
    path: Path, rows: Iterable[tuple[str, str, UInt8[np.ndarray, "n s s 3"]]], profile: str
) -> None:
    """Writes a PNG with the name, class and frames of one clip per row.

    Args:
      path: the PNG file.
      rows: names, classes and frames of clips; `MAX_CLIPS` of them fit a screen.
      profile: determines the channel order of the frames.
    """
    encoded = cv2.imencode(".png", np.concatenate([_row(*row, profile) for row in rows]))[1]
    path.write_bytes(encoded.tobytes())


def _row(
    name: str, label: str, frames: UInt8[np.ndarray, "n s s 3"], profile: str
) -> UInt8[np.ndarray, "h w 3"]:
    size = (THUMBNAIL, THUMBNAIL)
    thumbnails = [cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames]
    strip = np.concatenate(thumbnails, axis=1)
    if profile == "fixed":
        strip = strip[..., ::-1]  # OpenCV writes BGR
    caption = np.full((THUMBNAIL, _LABEL_WIDTH, 3), 255, np.uint8)
    for line, text in enumerate((fitting_end(name), fitting_end(label))):
        origin = (_MARGIN, THUMBNAIL // 2 - 4 + 18 * line)
        cv2.putText(caption, text, origin, _FONT, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([caption, strip], axis=1)


def fitting_end(text: str) -> str:
    """Returns as much of a text's end as fits the caption, in ASCII, which is all OpenCV draws."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    for start in range(len(plain)):
        shown = plain if start == 0 else "..." + plain[start:]
        if cv2.getTextSize(shown, _FONT, _FONT_SCALE, 1)[0][0] <= _LABEL_WIDTH - 2 * _MARGIN:
            return shown
    return ""
