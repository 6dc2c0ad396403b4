"""Fusion `ia` with `noise` modality dropout: noise replaces one modality."""

from configs import common


def get_config():
    """The reference's recipe for this model."""
    return common.get_config(fusion="ia", mask="noise")
