"""Fusion `ia` (intermediate attention) without modality dropout."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config(fusion="ia", mask="nodropout")
