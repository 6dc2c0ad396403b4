"""Follows one person through a clip: links the faces of its frames into tracks.

Boxes are x1, y1, x2, y2 in pixels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

Faces = Sequence[Float[np.ndarray, "k 4"]]
Track = dict[int, int]  # row of the person's box in each frame that shows the person

# Lengths are in sides, the longer ones of boxes. The faces of people side by side are about two
# sides apart; a walking person's moves by one side in the 0.24 s between two of 15 frames.
REACH = 1.25  # most that a face moves
GROWTH = 1.0  # most that it grows or shrinks, in octaves
GAP_COST = 0.1  # per frame of time; links of near frames come first
SAME = 0.5  # distance within which two boxes of one frame are one face
MIN_SHARE = 0.1  # of the frames; who is seen in fewer is not counted
MIN_OVERLAP = 0.2  # intersection over union of a target and its face


class Followed(NamedTuple):
    """The person who is followed.

    Attributes:
      boxes: the person's box in every frame; None where the person is not seen.
      people: number of people seen in at least a tenth of the frames; at least 1.
    """

    boxes: list[Float[np.ndarray, "4"] | None]
    people: int


def follow(
    faces: Faces, sizes: Sequence[tuple[int, int]], target: Sequence[float] | None = None
) -> Followed | None:
    """Follows the person seen longest and largest, by the sum of the sides of the boxes.

    Args:
      faces: boxes of each frame, the largest first.
      sizes: width and height of each frame; boxes are compared as fractions of them.
      target: follows the person whose face in the first frame this point x, y or box x, y, width,
        height hits.

    Returns:
      None if there is no face, or none that the target hits.
    """
    faces = [boxes[_distinct(boxes)] for boxes in faces]
    scales = [np.tile(np.divide(sizes[0], size), 2) for size in sizes]
    scaled = [boxes * scale for boxes, scale in zip(faces, scales, strict=True)]
    tracks = link(scaled)
    if target is not None:
        row = hit(scaled[0], target)
        track = next((t for t in tracks if row is not None and t.get(0) == row), {})
    else:
        sums = [sum(float(_sides(scaled[i][row])) for i, row in t.items()) for t in tracks]
        track = tracks[int(np.argmax(sums))] if tracks else {}
    if not track:
        return None
    people = sum(len(t) >= MIN_SHARE * len(faces) for t in tracks)
    return Followed(
        [boxes[track[i]] if i in track else None for i, boxes in enumerate(faces)], max(people, 1)
    )


def link(faces: Faces) -> list[Track]:
    """Links faces of different frames into tracks; the most alike and nearest in time first.

    Tracks that share a frame are never linked: whom one frame shows together are two people.

    Args:
      faces: boxes of each frame, at one scale.

    Returns:
      The tracks, by their first frames.
    """
    nodes = [(frame, row) for frame, boxes in enumerate(faces) for row in range(len(boxes))]
    tracks: list[Track] = [{frame: row} for frame, row in nodes]  # of each node
    number = {node: i for i, node in enumerate(nodes)}
    for first, second in _pairs(faces):
        one, other = tracks[first], tracks[second]
        if one is not other and one.keys().isdisjoint(other):
            one.update(other)
            for node in other.items():
                tracks[number[node]] = one
    return list({id(track): track for track in tracks}.values())


def hit(boxes: Float[np.ndarray, "k 4"], target: Sequence[float]) -> int | None:
    """Returns the row of the face that a point x, y or a box x, y, width, height means, if any.

    A point means the face around it, a box the one that it overlaps most.
    """
    corner = np.array(target[:2], float)
    if len(target) == 2:
        inside = ((boxes[:, :2] <= corner) & (corner <= boxes[:, 2:])).all(axis=1)
        fit = np.where(inside, -np.linalg.norm(_centres(boxes) - corner, axis=1), -np.inf)
        least = -np.inf
    else:
        size = np.array(target[2:], float)
        shared = np.minimum(boxes[:, 2:], corner + size) - np.maximum(boxes[:, :2], corner)
        common = np.maximum(shared, 0).prod(axis=1)
        fit = common / ((boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + size.prod() - common)
        least = MIN_OVERLAP
    return int(fit.argmax()) if fit.size and fit.max() > least else None


def _distinct(boxes: Float[np.ndarray, "k 4"]) -> Bool[np.ndarray, "k"]:
    """Marks boxes that are not a larger face once more."""
    keep = np.ones(len(boxes), bool)
    for i in range(1, len(boxes)):
        distance, _ = _differences(boxes[i : i + 1], boxes[:i][keep[:i]])
        keep[i] = (distance > SAME).all()
    return keep


def _pairs(faces: Faces) -> Iterator[tuple[int, int]]:
    """Yields numbers of faces of different frames that may be one person's, the likeliest first."""
    boxes = np.concatenate([np.zeros((0, 4)), *faces])
    frame = np.repeat(np.arange(len(faces)), [len(b) for b in faces])
    ends = np.searchsorted(frame, np.arange(len(faces)), side="right")
    empty = np.zeros(0, int)
    found: list[tuple[Int[np.ndarray, "p"], Int[np.ndarray, "p"], Float[np.ndarray, "p"]]]
    found = [(empty, empty, np.zeros(0))]
    for own, end in zip(faces, ends.tolist(), strict=True):  # one by one, to bound the memory
        distance, growth = _differences(own, boxes[end:])
        first, second = np.nonzero((distance <= REACH) & (growth <= GROWTH))
        cost = distance[first, second] + growth[first, second]
        first, second = first + end - len(own), second + end
        found.append((first, second, cost + GAP_COST * (frame[second] - frame[first])))
    firsts, seconds, costs = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(costs, kind="stable")
    yield from zip(firsts[order].tolist(), seconds[order].tolist(), strict=True)


def _differences(
    one: Float[np.ndarray, "k 4"], other: Float[np.ndarray, "m 4"]
) -> tuple[Float[np.ndarray, "k m"], Float[np.ndarray, "k m"]]:
    """Returns the distances of faces in mean sides, and the octaves between their sizes."""
    sides, other_sides = _sides(one)[:, None], _sides(other)
    offsets = _centres(one)[:, None] - _centres(other)
    distance = np.linalg.norm(offsets, axis=-1) / ((sides + other_sides) / 2)
    return distance, np.abs(np.log2(sides / other_sides))


def _centres(boxes: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "k 2"]:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _sides(boxes: Float[np.ndarray, "*k 4"]) -> Float[np.ndarray, "*k"]:
    """Returns the longer sides, at least a pixel."""
    return np.maximum((boxes[..., 2:] - boxes[..., :2]).max(axis=-1), 1)
