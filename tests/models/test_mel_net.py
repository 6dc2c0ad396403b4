"""The ensemble of MFCC networks."""

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import scipy.fft

from avjax.data.records import SAMPLE_RATE
from avjax.errors import InputError
from avjax.models import mel_net
from avjax.models.mel_net import MelNet
from avjax.models.network import Pairing
from avjax.models.networks import ModelConfig, build_network
from avjax.models.variables import init_variables, variable_shapes
from avjax.preparation import media
from configs import audio_only, audio_only_strong

NET = MelNet(num_classes=5, num_mels=6, coefficients=(2, 5, 5))
SPECTRA = jax.random.uniform(jax.random.key(0), (4, 25, 6), maxval=9.0)
FRAMES = jnp.zeros((4, 0, 64, 64, 3))


@pytest.fixture(scope="module")
def variables():
    return init_variables(NET, jax.random.key(0))


@jax.jit
def train_logits(variables, spectra, weight=None):
    rows = np.arange(len(spectra))
    weight = jnp.ones(len(rows)) if weight is None else weight
    pairing = Pairing(rows, rows, weight, weight, None, weight)
    frames = FRAMES[: len(rows)]
    arguments = {"pairing": pairing, "mutable": "batch_stats"}
    return NET.apply(variables, spectra, frames, True, **arguments)[0]


def test_strong_recipe_has_at_most_three_times_the_parameters_of_the_reference():
    def size(config):
        net = build_network(ModelConfig(**config.model).describe(8))
        return sum(x.size for x in jax.tree.leaves(variable_shapes(net)["params"]))

    assert size(audio_only_strong.get_config()) <= 3 * size(audio_only.get_config())


@pytest.mark.parametrize("coefficients", [(), (10, 0), (10, 7)])
def test_members_with_a_wrong_number_of_mfccs_are_refused(coefficients):
    described = {"kind": "log_mel", "num_mels": 6, "num_classes": 5}
    with pytest.raises(InputError, match="a number of MFCCs from 1 to 6 for every member"):
        build_network(described | {"coefficients": coefficients})


def test_member_reads_only_its_mfccs(variables, monkeypatch):
    """MFCCs as librosa computes them: the first coefficients of the DCT. Pitch is disabled."""
    monkeypatch.setattr(mel_net, "pitch", lambda x: jnp.zeros((*x.shape[:2], 2), x.dtype))
    mfcc = librosa.feature.mfcc(S=np.asarray(SPECTRA).swapaxes(1, 2), n_mfcc=6).swapaxes(1, 2)
    mfcc[..., 2:] += 1  # not read by the first member
    changed = jnp.asarray(scipy.fft.idct(mfcc, norm="ortho"))
    before, after = (NET.apply(variables, x, method="encode_audio") for x in (SPECTRA, changed))
    np.testing.assert_allclose(after[:, 0], before[:, 0], atol=1e-5)
    assert (np.abs(after - before)[:, 1:].max(-1) > 1e-3).all()


@pytest.mark.parametrize("bands", [2, 64, 128])
def test_band_centres_match_librosa(bands):
    expected = librosa.mel_frequencies(bands + 2, fmin=0, fmax=SAMPLE_RATE / 2)[1:-1]
    np.testing.assert_allclose(mel_net.band_centres(bands), expected, rtol=1e-12)


def test_pitch_follows_a_voice_and_is_zero_without_one():
    rate, seconds = SAMPLE_RATE, 2.0
    time = np.arange(int(rate * seconds)) / rate
    octave = time / seconds  # from 120 Hz up to 240 Hz
    phase = 2 * np.pi * np.cumsum(120 * 2**octave) / rate
    voice = sum(np.sin(n * phase) / n for n in range(1, 20)).astype(np.float32) / 4
    noise = np.random.default_rng(0).normal(0, 0.01, len(time)).astype(np.float32)
    spectra = jnp.stack([media.log_mel(x, 128) for x in (voice, voice / 10, noise, 0 * noise)])
    pitch = np.asarray(mel_net.pitch(spectra))[:, 4:-4]  # steps with a full window
    expected = np.linspace(0, 1, spectra.shape[1])[4:-4] - 0.5
    for voiced in pitch[:2]:
        assert voiced[:, 1].min() > 0.9
        np.testing.assert_allclose(voiced[:, 0], expected, atol=0.12)
    assert pitch[2:, :, 1].mean(1).max() < 0.1
    assert np.isfinite(mel_net.harmonic_combs(2)).all()


def test_output_is_the_mean_log_probability_of_the_members(variables):
    members = NET.apply(variables, SPECTRA, method="encode_audio")
    assert members.shape == (4, 3, 5)
    assert np.ptp(np.asarray(members), axis=1).min() > 0  # the members differ
    expected = np.log(np.exp(members) / np.exp(members).sum(-1, keepdims=True)).mean(1)
    np.testing.assert_allclose(NET.apply(variables, SPECTRA, FRAMES), expected, rtol=1e-4)
    video = NET.apply(variables, FRAMES, method="encode_video")
    fused = NET.apply(variables, members, video, method="fuse")
    np.testing.assert_allclose(fused, expected, rtol=1e-4)


def test_padding_does_not_change_other_rows(variables):
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])
    padded = train_logits(variables, SPECTRA, weight=weight)
    np.testing.assert_allclose(
        padded[:3], train_logits(variables, SPECTRA[:3]), rtol=1e-3, atol=1e-4
    )


def test_sound_that_is_too_short_is_refused(variables):
    NET.apply(variables, SPECTRA[:, :8], FRAMES)
    with pytest.raises(InputError, match="7 steps of sound are too few"):
        NET.apply(variables, SPECTRA[:, :7], FRAMES)
