"""MFCCs and mel spectra, bit for bit those of librosa 0.11.

Frames of 2048 samples, 512 apart, centred on their times by reflection at both ends.
"""

import functools

import numpy as np
import scipy.fft
from jaxtyping import Float

from avjax.data.records import HOP, SAMPLE_RATE

N_FFT = 2048
_MFCC_BANDS = 128
_LEAST_POWER, _DECIBELS = 1e-10, 80.0  # floor, and what is kept below the loudest value


def mfccs(samples: Float[np.ndarray, "s"], count: int) -> Float[np.ndarray, "count t"]:
    """Computes the first MFCCs (DCT-II, orthonormal) of 128 mel bands in decibels, float32."""
    power = mel_power(samples, _MFCC_BANDS)
    decibels = 10.0 * np.log10(np.maximum(_LEAST_POWER, power))
    decibels = np.maximum(decibels, decibels.max() - _DECIBELS)
    return scipy.fft.dct(decibels, axis=-2, type=2, norm="ortho")[:count]


def mel_power(samples: Float[np.ndarray, "s"], bands: int) -> Float[np.ndarray, "bands t"]:
    """Computes the power in mel bands, each of unit area, float32."""
    padded = np.pad(samples, N_FFT // 2, mode="reflect")
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    spectrum = np.fft.rfft(_hann() * frames).astype(np.complex64).T
    return np.einsum("ft,mf->mt", np.abs(spectrum) ** 2.0, _filters(bands), optimize=True)


@functools.cache
def _hann() -> Float[np.ndarray, "2048"]:
    return 0.5 + 0.5 * np.cos(np.linspace(-np.pi, np.pi, N_FFT + 1)[:-1])


@functools.cache
def _filters(bands: int) -> Float[np.ndarray, "bands f"]:
    """Returns triangles of unit area on Slaney's mel scale, from 0 Hz to half the sample rate."""
    # All of librosa, or its own filters, would take another second to import.
    from librosa.core.convert import fft_frequencies, mel_frequencies

    corners = mel_frequencies(bands + 2, fmin=0.0, fmax=SAMPLE_RATE / 2)
    distances = np.subtract.outer(corners, fft_frequencies(sr=SAMPLE_RATE, n_fft=N_FFT))
    widths = np.diff(corners)[:, None]
    rising, falling = -distances[:-2] / widths[:-1], distances[2:] / widths[1:]
    triangles = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    heights = 2.0 / (corners[2:] - corners[:-2])
    return (triangles * heights[:, None]).astype(np.float32)
