"""Chooses the face to crop in each frame of a clip."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from avjax.errors import InputError
from avjax.preparation import notes
from avjax.preparation.container import LARGE_FRAME
from avjax.preparation.crops import Boxes
from avjax.preparation.frames import Selection, batches
from avjax.preparation.tracks import Followed, follow


class Detector(Protocol):
    """A face detector, such as `avjax.preparation.face_detector.search.FaceDetector`."""

    def faces(
        self, frames: UInt8[np.ndarray, "n h w 3"], thorough: bool = False
    ) -> list[Float[np.ndarray, "k 4"]]:
        """Returns the bounding boxes of each frame's faces, the largest first.

        Unless ``thorough``, small faces beside large ones may be left out.
        """
        ...


class Face(NamedTuple):
    """Where the followed face is at a time.

    Attributes:
      second: when the frame is shown, from the start of the file.
      box: x1, y1, x2, y2 in pixels of the frame as a player shows it; None where it is not seen.
    """

    second: float
    box: tuple[float, float, float, float] | None

    @classmethod
    def at(cls, second: float, box: Float[np.ndarray, "4"] | None) -> Self:
        """Returns the face of a detector's box."""
        if box is None:
            return cls(second, None)
        x1, y1, x2, y2 = map(float, box)
        return cls(second, (x1, y1, x2, y2))


def largest_boxes(selection: Selection, detector: Detector, told: dict[str, None]) -> Boxes:
    """Returns the largest face of each frame, as the reference does; None without a face.

    Adds a note on frames without one to ``told``.
    """
    boxes = [boxes[0] if len(boxes) else None for boxes in _faces(selection, detector)]
    _tell_faceless(boxes, told)
    return boxes


def followed_boxes(
    selection: Selection,
    detector: Detector,
    target: Sequence[float] | None,
    told: dict[str, None],
    *,
    path: Path | None,
    cropped: int,
) -> Boxes:
    """Returns the face of one person in each of the last frames; None where it is not seen.

    Args:
      selection: frames; with a target from the clip's first frame on.
      detector: finds their faces.
      target: see `avjax.preparation.tracks.follow`.
      told: notes on other people and on frames without a face are added here.
      path: the video, for messages.
      cropped: number of frames at the end for which boxes are wanted.

    Raises:
      InputError: there is no face at ``target``.
    """
    sizes = [selection.images[i].shape[1::-1] for i in selection.order]
    if target is None:
        person = longest_seen(lambda thorough: _faces(selection, detector, thorough), sizes)
    else:
        faces = _faces(selection, detector, thorough=True)
        person = follow(faces, sizes, target)
        if person is None:
            raise InputError(_no_hit(target, path, faces[0]))
    boxes = [None] * cropped if person is None else person.boxes[-cropped:]
    if person is not None and person.people > 1:
        seen = sum(box is not None for box in boxes)
        told[notes.followed(person.people, target is not None, seen, cropped)] = None
    else:
        _tell_faceless(boxes, told)
    return boxes


def longest_seen(
    search: Callable[[bool], list[Float[np.ndarray, "k 4"]]], sizes: Sequence[tuple[int, int]]
) -> Followed | None:
    """Follows the person seen longest and largest; None without a face.

    Args:
      search: finds every frame's faces; its argument is that of `Detector.faces`.
      sizes: width and height of each frame.
    """
    person = follow(search(False), sizes)
    if person is not None and person.people > 1:
        # Nobody shall be missed for being small beside others. Clips of one person never pay this.
        person = follow(search(True), sizes)
    return person


def _tell_faceless(boxes: Boxes, told: dict[str, None]) -> None:
    missing = sum(box is None for box in boxes)
    if missing:
        told[notes.faceless(missing, len(boxes))] = None


def _faces(
    selection: Selection, detector: Detector, thorough: bool = False
) -> list[Float[np.ndarray, "k 4"]]:
    """Finds the faces of selected frames; a short clip repeats frames."""
    groups = batches(selection.images)
    found = [boxes for group in groups for boxes in faces_of(group, detector, thorough)]
    return [found[i] for i in selection.order]


def faces_of(
    frames: UInt8[np.ndarray, "n h w 3"], detector: Detector, thorough: bool = False
) -> list[Float[np.ndarray, "k 4"]]:
    """Finds faces; where frames are larger than 4K, in reduced ones, which bounds memory."""
    height, width = frames.shape[1:3]
    factor = math.ceil(math.sqrt(height * width / LARGE_FRAME))
    if factor <= 1:
        return detector.faces(frames, thorough)
    size = max(1, width // factor), max(1, height // factor)
    scale = np.array([width / size[0], height / size[1]] * 2)
    boxes = []
    for frame in frames:
        reduced = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
        boxes += [found * scale for found in detector.faces(reduced[None], thorough)]
    return boxes


def _no_hit(target: Sequence[float], path: Path | None, faces: Float[np.ndarray, "k 4"]) -> str:
    """Tells of a target without a face, and where there are faces."""
    middles = ["{:.0f},{:.0f}".format(*(box[:2] + box[2:]) / 2) for box in faces]
    there = f"whose faces are at {' and '.join(middles)}" if middles else "which shows none"
    return (
        f"{path}: {','.join(f'{x:g}' for x in target)} hits no face in the clip's first frame, "
        f"{there}; correct the column face, or leave it empty"
    )
