"""The audio CNN alone (reference `AudioCNNPool`), on MFCCs."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config("audio_only", kind="audio")
