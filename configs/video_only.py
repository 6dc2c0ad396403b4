"""EfficientFace with its temporal head alone (reference `EfficientFaceTemporal`)."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config("video_only", kind="video")
