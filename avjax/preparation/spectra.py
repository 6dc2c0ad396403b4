"""MFCCs and mel spectra, bit for bit those of librosa 0.11, without its second of imports.

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
_LINEAR_MELS = 15.0  # up to 1 kHz, Slaney's scale is linear, then logarithmic
_LOG_STEP = np.log(6.4) / 27.0  # of frequency, per mel


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
    """Returns triangles on Slaney's mel scale from 0 Hz to half the sample rate."""
    top = _LINEAR_MELS + np.log(SAMPLE_RATE / 2 / 1000.0) / _LOG_STEP
    mels = np.linspace(0.0, top, bands + 2)
    hertz = mels * (200.0 / 3)
    above = mels >= _LINEAR_MELS
    hertz[above] = 1000.0 * np.exp(_LOG_STEP * (mels[above] - _LINEAR_MELS))
    ramps = np.subtract.outer(hertz, np.fft.rfftfreq(N_FFT, 1.0 / SAMPLE_RATE))
    widths = np.diff(hertz)[:, None]
    rising, falling = -ramps[:-2] / widths[:-1], ramps[2:] / widths[1:]
    weights = np.maximum(0, np.minimum(rising, falling)).astype(np.float32)
    weights *= (2.0 / (hertz[2:] - hertz[:-2]))[:, None]
    return weights
