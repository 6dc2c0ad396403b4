"""MFCCs and mel spectra against librosa."""

import librosa
import numpy as np
import pytest
import soundfile

from avjax.data.records import HOP, SAMPLE_RATE
from avjax.preparation import spectra

OPTIONS = {"sr": SAMPLE_RATE, "n_fft": spectra.N_FFT, "hop_length": HOP, "pad_mode": "reflect"}


def check(samples):
    mfcc, power = spectra.mfccs(samples, 10), spectra.mel_power(samples, 128)
    assert (mfcc.dtype, power.dtype) == (np.float32, np.float32)
    expected = librosa.feature.mfcc(y=samples, n_mfcc=10, **OPTIONS)
    np.testing.assert_array_equal(mfcc, expected)
    expected = librosa.feature.melspectrogram(y=samples, n_mels=128, **OPTIONS)
    np.testing.assert_array_equal(power, expected)


@pytest.mark.parametrize("count", [79380, 22050, 4190, 2048])
@pytest.mark.parametrize("level", [0.3, 1e-3, 0.0])
def test_bits_are_those_of_librosa(count, level):
    rng = np.random.default_rng(count)
    noise = level * rng.normal(size=count) * np.linspace(0, 1, count)
    check(noise.astype(np.float32))


@pytest.mark.parametrize("bands", [1, 10, 64, 128])
def test_filters_are_those_of_librosa(bands):
    samples = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    expected = librosa.feature.melspectrogram(y=samples, n_mels=bands, **OPTIONS)
    np.testing.assert_array_equal(spectra.mel_power(samples, bands), expected)


@pytest.mark.ravdess
def test_bits_of_real_clips(shared_dir):
    for path in sorted((shared_dir / "ravdess" / "audio").glob("*/*.flac"))[::60]:
        samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
        check(np.ascontiguousarray(samples.mean(1, dtype=np.float32)[:79380]))
