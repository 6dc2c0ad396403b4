"""MTCNN's cascade: finds the faces of each frame."""

import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float32, Int, Int32, UInt8

from avjax.preparation.face_detector import geometry, networks
from avjax.preparation.face_detector.weights import MtcnnVariables, load_mtcnn

MIN_FACE_SIZE = 20  # pixels, facenet-pytorch's default
COARSE_MIN_FACE_SIZE = MIN_FACE_SIZE / geometry.FACTOR**5  # 112 pixels; shares pyramid levels
THRESHOLDS = (0.6, 0.7, 0.7)  # minimum face probabilities of P-Net, R-Net, O-Net
OVERLAP_IN_LEVEL, OVERLAP = 0.5, 0.7  # non-maximum suppression thresholds
# Batch sizes of R-Net and O-Net, rounded up to powers of two so that few shapes are compiled.
# Larger batches exceed a CPU's caches, and O-Net takes up to twice as long per crop.
SMALLEST_BUCKET, LARGEST_BUCKET = 16, 32
_INTEGRAL_BYTES = 2**29  # most that a thread's integral images take, but for one of a larger frame


class _Candidates(NamedTuple):
    """Candidate boxes in a batch of frames, with the scores and offsets of the last network."""

    frame: Int[np.ndarray, "n"]
    box: Float32[np.ndarray, "n 4"]
    score: Float32[np.ndarray, "n"]
    offset: Float32[np.ndarray, "n 4"]

    def take(self, index: np.ndarray) -> "_Candidates":
        return _Candidates(*(values[index] for values in self))


class FaceDetector:
    """MTCNN as in facenet-pytorch 2.5.3, on batches of frames of one size.

    Compiles P-Net once per pyramid level and frame size, R-Net and O-Net once per batch size.
    Thread-safe.
    """

    def __init__(
        self,
        variables: MtcnnVariables | None = None,
        *,
        min_face_size: float = MIN_FACE_SIZE,
        coarse_min_face_size: float | None = None,
        batch_size: int = 8,
    ):
        """Loads the networks.

        Args:
          variables: weights; by default those of the installed facenet-pytorch.
          min_face_size: side of the smallest face to detect, in pixels. The cost is proportional to
            the inverse of its square.
          coarse_min_face_size: if given, first searches for faces of at least this size, and for
            smaller ones only in frames without. `COARSE_MIN_FACE_SIZE` uses a subset of the default
            levels, takes a seventh of the time, and finds the same boxes on RAVDESS (to 1e-4 pixels
            on 363 frames).
          batch_size: frames whose candidates share batches of R-Net and O-Net; P-Net takes single
            frames, which suits caches. Memory: 12 bytes per pixel, frame and thread.

        Raises:
          InputError: no weights are given and facenet-pytorch is not installed.
        """
        variables = load_mtcnn() if variables is None else variables
        coarse = [] if coarse_min_face_size is None else [coarse_min_face_size]
        self._min_face_sizes = [*coarse, min_face_size]
        self._batch_size = batch_size
        self._thread_local = threading.local()
        self._pnet = _compiled(networks.PNet(), variables.pnet)
        self._rnet = _compiled(networks.RNet(), variables.rnet)
        self._onet = _compiled(networks.ONet(), variables.onet)

    def faces(
        self, frames: UInt8[np.ndarray, "n h w 3"], thorough: bool = False
    ) -> list[Float32[np.ndarray, "k 4"]]:
        """Finds the faces of each RGB frame.

        Args:
          frames: of one size.
          thorough: also search for small faces beside large ones; without a coarse search, this
            changes nothing.

        Returns:
          The boxes of facenet-pytorch's ``MTCNN.detect`` for each frame, the largest first: x1, y1,
          x2, y2 in pixels, possibly outside the frame.
        """
        boxes = [np.zeros((0, 4), np.float32)] * len(frames)
        for min_face_size in self._min_face_sizes[-1:] if thorough else self._min_face_sizes:
            missing = [i for i, found in enumerate(boxes) if not len(found)]
            size = self._frames_at_once(frames) if missing else 1
            for start in range(0, len(missing), size):
                batch = missing[start : start + size]
                integrals = self._integrals([frames[i] for i in batch])
                faces = self._detect(integrals, min_face_size)
                for position, i in enumerate(batch):
                    boxes[i] = _largest_first(faces.box[faces.frame == position])
        return boxes

    def largest_boxes(
        self, frames: UInt8[np.ndarray, "n h w 3"]
    ) -> list[Float32[np.ndarray, "4"] | None]:
        """Returns the largest box of each frame, or None without a face; see `faces`."""
        return [boxes[0] if len(boxes) else None for boxes in self.faces(frames)]

    def _frames_at_once(self, frames: UInt8[np.ndarray, "n h w 3"]) -> int:
        """Returns the batch size, less where frames are so large that memory would suffer."""
        return max(1, min(self._batch_size, _INTEGRAL_BYTES // (4 * max(1, frames[0].size))))

    def _integrals(
        self, frames: Sequence[UInt8[np.ndarray, "h w 3"]]
    ) -> Int32[np.ndarray, "b h+1 w+1 3"]:
        """Computes integral images in a buffer that is reused by the thread's next call.

        Allocating new pages would take longer than the computation.
        """
        height, width = frames[0].shape[:2]
        # Pages of an array that are never written take no memory.
        shape = (self._batch_size, height + 1, width + 1, 3)
        buffer = getattr(self._thread_local, "integrals", None)
        if buffer is None or buffer.shape != shape:
            buffer = self._thread_local.integrals = np.empty(shape, np.int32)
        for frame, integral in zip(frames, buffer, strict=False):
            cv2.integral(frame, integral)
        return buffer[: len(frames)]

    def _detect(
        self, integrals: Int32[np.ndarray, "b h+1 w+1 3"], min_face_size: float
    ) -> _Candidates:
        """Finds all faces in a batch of frames."""
        candidates = self._propose(integrals, min_face_size)
        return self._output(integrals, self._refine(integrals, candidates))

    def _propose(
        self, integrals: Int32[np.ndarray, "b h+1 w+1 3"], min_face_size: float
    ) -> _Candidates:
        """Runs P-Net on every level of the pyramid; returns square boxes."""
        height, width = integrals.shape[1] - 1, integrals.shape[2] - 1
        scales = geometry.pyramid_scales(height, width, min_face_size)
        levels = [self._propose_at(integrals, scale) for scale in scales]
        proposals = _suppress_per_frame(_concatenate(levels), geometry.suppress, OVERLAP)
        boxes = geometry.move_corners(proposals.box, proposals.offset, extra=0)
        return proposals._replace(box=geometry.squared(boxes))

    def _propose_at(self, integrals: Int32[np.ndarray, "b h+1 w+1 3"], scale: float) -> _Candidates:
        height, width = (int(side * scale + 1) for side in np.array(integrals.shape[1:3]) - 1)
        levels = (geometry.resize_area(image, height, width)[None] for image in integrals)
        results = [self._pnet(level) for level in levels]
        probability, offset = (np.concatenate(parts) for parts in zip(*results, strict=True))
        where = frame, row, column = np.nonzero(probability >= THRESHOLDS[0])
        boxes = geometry.cell_boxes(row, column, scale)
        proposals = _Candidates(frame, boxes, probability[where], offset[where])
        return _suppress_per_frame(proposals, geometry.suppress, OVERLAP_IN_LEVEL)

    def _refine(self, integrals: np.ndarray, candidates: _Candidates) -> _Candidates:
        """Runs R-Net; returns square boxes."""
        refined = self._score(
            self._rnet, networks.CROP_REFINE, THRESHOLDS[1], integrals, candidates
        )
        refined = _suppress_per_frame(refined, geometry.suppress, OVERLAP)
        boxes = geometry.move_corners(refined.box, refined.offset, extra=1)
        return refined._replace(box=geometry.squared(boxes))

    def _output(self, integrals: np.ndarray, candidates: _Candidates) -> _Candidates:
        """Runs O-Net; returns the final boxes."""
        faces = self._score(self._onet, networks.CROP_OUTPUT, THRESHOLDS[2], integrals, candidates)
        faces = faces._replace(box=geometry.move_corners(faces.box, faces.offset, extra=1))
        return _suppress_per_frame(faces, geometry.suppress_nested, OVERLAP)

    def _score(
        self,
        network: Callable[..., Any],
        size: int,
        threshold: float,
        integrals: np.ndarray,
        candidates: _Candidates,
    ) -> _Candidates:
        """Scores the candidates' crops; returns the candidates above the threshold."""
        height, width = integrals.shape[1] - 1, integrals.shape[2] - 1
        corners, nonempty = geometry.crop_corners(candidates.box, height, width)
        candidates, corners = candidates.take(nonempty), corners[nonempty]
        scores, offsets = [candidates.score[:0]], [candidates.offset[:0]]
        for start in range(0, len(corners), LARGEST_BUCKET):
            part = slice(start, start + LARGEST_BUCKET)
            crops = geometry.crop_area(integrals, candidates.frame[part], corners[part], size)
            score, offset = map(np.asarray, network(_padded(crops))[:2])
            scores.append(score[: len(crops)])
            offsets.append(offset[: len(crops)])
        scored = candidates._replace(score=np.concatenate(scores), offset=np.concatenate(offsets))
        return scored.take(scored.score > threshold)


def _compiled(network: nn.Module, variables: Any) -> Callable[..., Any]:
    """Compiles the network on pixel values, in full float32 to match the reference's boxes."""
    variables = jax.device_put(variables)
    compiled_shapes: set[tuple[int, ...]] = set()
    lock = threading.Lock()

    @jax.jit
    def apply(pixels: Float32[Array, "b h w 3"]) -> Any:
        with jax.default_matmul_precision("highest"):
            return network.apply(variables, networks.normalise(pixels))

    def apply_once_compiled(pixels: Float32[np.ndarray, "b h w 3"]) -> Any:
        if pixels.shape not in compiled_shapes:
            with lock:  # otherwise several threads would compile the same shape
                result = apply(pixels)
                compiled_shapes.add(pixels.shape)
                return result
        return apply(pixels)

    return apply_once_compiled


def _padded(crops: np.ndarray) -> np.ndarray:
    """Pads the batch with zeros to a power of two, so few shapes are compiled."""
    bucket = max(SMALLEST_BUCKET, 1 << (len(crops) - 1).bit_length())
    return np.pad(crops, ((0, bucket - len(crops)), (0, 0), (0, 0), (0, 0)))


def _concatenate(parts: Sequence[_Candidates]) -> _Candidates:
    empty = np.zeros((0, 4), np.float32)
    parts = [_Candidates(np.zeros(0, np.int64), empty, empty[:, 0], empty), *parts]
    return _Candidates(*map(np.concatenate, zip(*parts, strict=True)))


def _suppress_per_frame(
    candidates: _Candidates, suppress: Callable[..., np.ndarray], threshold: float
) -> _Candidates:
    keep = [np.zeros(0, np.int64)]
    for frame in np.unique(candidates.frame):
        index = np.flatnonzero(candidates.frame == frame)
        keep.append(index[suppress(candidates.box[index], candidates.score[index], threshold)])
    return candidates.take(np.concatenate(keep))


def _largest_first(boxes: Float32[np.ndarray, "n 4"]) -> Float32[np.ndarray, "n 4"]:
    return boxes[np.argsort(geometry.areas(boxes))[::-1]]


def default_detector() -> FaceDetector:
    """Creates the detector of `avjax.prepare` and `avjax.predict`: coarse search first.

    Raises:
      InputError: the detector's weights are not installed.
    """
    return FaceDetector(coarse_min_face_size=COARSE_MIN_FACE_SIZE)
