"""The audio CNN alone (reference `AudioCNNPool`): MFCC to emotion, no frames read."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config("audio_only", kind="audio")
