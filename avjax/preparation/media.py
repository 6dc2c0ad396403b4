"""Clips as sound and frames: their readers, and the sound's MFCCs and log-mel spectrograms.

Sound matches the reference exactly: mono, resampled to 22050 Hz with resampy 0.2.2's `kaiser_best`
filter, cut to 3.6 s and rounded to 16 bits, as in the reference's wav files.
"""

import numpy as np
from jaxtyping import Float

from avjax.data.records import (
    WINDOW_SECONDS,
    audio_steps,
    window_samples,
)
from avjax.models.network import N_MFCC
from avjax.preparation import spectra
from avjax.preparation.frames import read_frames
from avjax.preparation.mixdown import is_silent
from avjax.preparation.sound import read_audio, resample
from avjax.preparation.timeline import frame_times

__all__ = [
    "fit_audio",
    "frame_times",
    "is_silent",
    "log_mel",
    "mfcc",
    "no_mfcc",
    "read_audio",
    "read_frames",
    "resample",
]

WINDOW_SAMPLES = window_samples(WINDOW_SECONDS)
MEL_GAIN = 4e5  # moves speech beyond log1p's linear range; background noise stays near 0


def fit_audio(
    samples: Float[np.ndarray, "s"], length: int = WINDOW_SAMPLES
) -> Float[np.ndarray, "length"]:
    """Crops the centre or appends zeros, then rounds to 16 bits (`extract_audios.py`)."""
    excess = len(samples) - length
    if excess < 0:
        # The reference pads a Python list, which makes it float64.
        samples = np.pad(samples.astype(np.float64), (0, -excess))
    else:
        samples = samples[excess // 2 : excess // 2 + length]
    # As libsndfile does: rounded to 32 bits, then cut to 16. One bit moves an MFCC by up to 15.
    scaled = (samples * samples.dtype.type(2**31)).astype(np.float64)
    rounded = np.rint(np.clip(scaled, -(2**31), 2**31 - 1)).astype(np.int64)
    return (rounded >> 16).astype(np.float32) / np.float32(2**15)


def no_mfcc(seconds: float = WINDOW_SECONDS) -> Float[np.ndarray, "t 10"]:
    """Returns zeros in place of the MFCCs of missing sound."""
    return np.zeros((audio_steps(seconds), N_MFCC), np.float32)


def mfcc(samples: Float[np.ndarray, "s"]) -> Float[np.ndarray, "t 10"]:
    """Computes ten MFCCs per 512 samples at 22050 Hz, float32; 3.6 s give 156 steps."""
    return np.ascontiguousarray(spectra.mfccs(samples, N_MFCC).T, dtype=np.float32)


def log_mel(samples: Float[np.ndarray, "s"], bands: int) -> Float[np.ndarray, "t m"]:
    """Computes ``log(1 + 4e5 * power)`` in mel bands, float32, with the steps of `mfcc`."""
    power = spectra.mel_power(samples, bands)
    return np.ascontiguousarray(np.log1p(MEL_GAIN * power).T, dtype=np.float32)
