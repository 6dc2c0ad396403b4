"""Fusion `ia` (intermediate attention) without modality dropout."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config("ia_nodropout", fusion="ia", mask="nodropout")
