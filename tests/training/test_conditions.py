"""Every evaluation condition equals the network applied to inputs disturbed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import AudioVisualNet
from avjax.training import conditions
from avjax.training.modality_dropout import gaussian_inputs
from avjax.training.randomness import clip_keys
from avjax.training.step import init_variables

NET = AudioVisualNet(num_classes=5, stage_repeats=(1, 1, 1))
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def variables():
    return init_variables(NET, jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (3, 2, 64, 64, 3)).astype(np.uint8),
        "mfcc": rng.standard_normal((3, 20, 10)).astype(np.float32) * 9,
        "label": np.array([0, 3, 1], np.int32),
        "has_audio": np.array([True, True, True]),
        "has_video": np.array([True, True, True]),
        "weight": np.array([1, 1, 0], np.float32),
        "clip_key": np.array([11, 12, 0], np.uint32),
    }


@pytest.fixture(scope="module")
def evaluated(variables, batch):
    step = jax.jit(conditions.eval_conditions_step, static_argnames=("net", "profile"))
    return step(variables, batch, KEY, net=NET, profile="reference")


def added_noise(x, noise, real):
    return x + x[:real].mean() + x[:real].std(ddof=1) * noise


@pytest.mark.parametrize("name", conditions.CONDITIONS)
def test_condition(name, evaluated, variables, batch):
    mfcc, frames = batch["mfcc"], batch["frames"].astype(np.float32) / 255
    audio_noise, video_noise = map(
        np.asarray, gaussian_inputs(clip_keys(KEY, batch["clip_key"]), mfcc, frames)
    )
    disturbed = {
        "audio_only/zeros": (mfcc, np.zeros_like(frames)),
        "audio_only/noise": (mfcc, video_noise),
        "audio_only/addnoise": (mfcc, added_noise(frames, video_noise, 2)),
        "video_only/zeros": (np.zeros_like(mfcc), frames),
        "video_only/noise": (audio_noise, frames),
        "video_only/addnoise": (added_noise(mfcc, audio_noise, 2), frames),
        "audiovisual": (mfcc, frames),
    }[name]
    logits = jax.jit(NET.apply)(variables, *disturbed)[:2]
    loss = -jax.nn.log_softmax(logits)[jnp.arange(2), batch["label"][:2]].sum()
    np.testing.assert_allclose(evaluated[name].loss, loss, rtol=1e-3)
    assert evaluated[name].count == 2


def test_clean_step_equals_the_audiovisual_condition(evaluated, variables, batch):
    step = jax.jit(conditions.eval_step, static_argnames=("net", "profile"))
    clean = step(variables, batch, net=NET, profile="reference")
    np.testing.assert_allclose(clean.loss, evaluated["audiovisual"].loss, rtol=1e-4)


def test_noise_follows_the_clip_not_its_place():
    forward, backward = (clip_keys(KEY, jnp.array(k, jnp.uint32)) for k in ([5, 9], [9, 5]))
    np.testing.assert_array_equal(jax.random.key_data(forward), jax.random.key_data(backward)[::-1])
