"""MTCNN face detector: networks, weights, box geometry and the search over an image pyramid."""

from avjax.preparation.face_detector.search import (
    COARSE_MIN_FACE_SIZE,
    MIN_FACE_SIZE,
    FaceDetector,
    default_detector,
)

__all__ = ["COARSE_MIN_FACE_SIZE", "MIN_FACE_SIZE", "FaceDetector", "default_detector"]
