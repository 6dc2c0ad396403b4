"""A picture of what was prepared: one row of frames per clip."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from avjax.data.clip import PreparedClip

MAX_CLIPS, THUMBNAIL = 24, 64  # rows; pixels
_LABEL_WIDTH = 200


def write_contact_sheet(
    path: Path, names: Sequence[str], clips: Sequence[PreparedClip], profile: str
) -> None:
    """Writes up to 24 clips, evenly chosen, as a PNG: a name and its frames in each row.

    Args:
      path: of the PNG.
      names: of the clips.
      clips: in the same order.
      profile: tells the frames' channel order.
    """
    picked = np.unique(np.linspace(0, len(clips) - 1, min(MAX_CLIPS, len(clips))).astype(int))
    rows = [_row(names[i], clips[i].frames, profile) for i in picked]
    encoded = cv2.imencode(".png", np.concatenate(rows))[1]
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
