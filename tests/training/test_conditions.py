"""Every evaluation condition equals the network on explicitly disturbed inputs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.network import CONDITIONS
from avjax.models.single_modality import AudioNet, VideoNet
from avjax.models.variables import init_variables
from avjax.training import conditions
from avjax.training.conditions import clip_keys
from avjax.training.modality_dropout import gaussian_inputs

NET = AudioVisualNet(num_classes=5, stage_repeats=(1, 1, 1))
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def variables():
    return init_variables(NET, jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    clips = {
        "frames": rng.integers(0, 256, (3, 2, 64, 64, 3)).astype(np.uint8),
        "audio": rng.standard_normal((3, 20, 10)).astype(np.float32) * 9,
        "label": np.array([0, 3, 1], np.int32),
        "has_audio": np.array([True, True, True]),
        "has_video": np.array([True, True, True]),
        "weight": np.array([1, 1, 0], np.float32),
        "clip_key": np.array([11, 12, 0], np.uint32),
    }
    return jax.tree.map(jnp.asarray, clips)


step = jax.jit(conditions.eval_conditions_step, static_argnames=("net", "profile"))


@pytest.fixture(scope="module")
def evaluated(variables, batch):
    return step(variables, batch, KEY, net=NET, profile="reference")


def add_noise(x, noise, real):
    return x + x[:real].mean() + x[:real].std(ddof=1) * noise


@pytest.mark.parametrize("name", CONDITIONS)
def test_condition_equals_the_network_on_disturbed_inputs(name, evaluated, variables, batch):
    mfcc, frames = batch["audio"], batch["frames"].astype(np.float32) / 255
    audio_noise, video_noise = map(
        np.asarray, gaussian_inputs(clip_keys(KEY, batch["clip_key"]), mfcc, frames)
    )
    disturbed = {
        "audio_only/zeros": (mfcc, np.zeros_like(frames)),
        "audio_only/noise": (mfcc, video_noise),
        "audio_only/addnoise": (mfcc, add_noise(frames, video_noise, 2)),
        "video_only/zeros": (np.zeros_like(mfcc), frames),
        "video_only/noise": (audio_noise, frames),
        "video_only/addnoise": (add_noise(mfcc, audio_noise, 2), frames),
        "audiovisual": (mfcc, frames),
    }[name]
    logits = jax.jit(NET.apply)(variables, *disturbed)[:2]
    loss = -jax.nn.log_softmax(logits)[jnp.arange(2), batch["label"][:2]].sum()
    result = evaluated[name]
    np.testing.assert_allclose(result.sums.loss, loss, rtol=1e-3)
    assert result.sums.count == 2
    np.testing.assert_array_equal(result.logits[:2].argmax(-1), logits.argmax(-1))


def test_clean_step_equals_the_audiovisual_condition(evaluated, variables, batch):
    eval_step = jax.jit(conditions.eval_step, static_argnames=("net", "profile"))
    clean = eval_step(variables, batch, net=NET, profile="reference")
    np.testing.assert_allclose(clean.loss, evaluated["audiovisual"].sums.loss, rtol=1e-4)


def test_clip_counts_only_if_its_undisturbed_stream_is_present(variables, batch, evaluated):
    incomplete = {
        **batch,
        "has_audio": np.array([True, False, True]),
        "has_video": np.array([False, True, True]),
    }
    results = step(variables, incomplete, KEY, net=NET, profile="reference")
    counts = {name: float(result.sums.count) for name, result in results.items()}
    assert counts == {name: 2 if name == "audiovisual" else 1 for name in CONDITIONS}
    for name, row in (("audio_only/zeros", 0), ("video_only/zeros", 1)):
        confusion = results[name].sums.confusion[batch["label"][row]]
        assert confusion[evaluated[name].logits[row].argmax()] == 1  # same prediction as before
    for row, name in ((0, "audio_only/zeros"), (1, "video_only/zeros")):
        undisturbed, alone = results["audiovisual"].logits[row], evaluated[name].logits[row]
        np.testing.assert_allclose(undisturbed, alone, rtol=1e-3, atol=1e-4)


def test_addnoise_takes_statistics_over_present_streams():
    x = jnp.array([[1.0, 2.0], [3.0, 6.0], [0.0, 0.0], [9.0, 9.0]])
    noise = jnp.arange(8.0).reshape(4, 2)
    weight, present = jnp.array([1.0, 1, 1, 0]), jnp.array([True, True, False, True])
    disturbed = conditions.stream_versions(x, noise, weight, present)["addnoise"]
    np.testing.assert_allclose(disturbed[:2], add_noise(np.asarray(x), noise, 2)[:2], rtol=1e-6)
    assert not disturbed[2].any()
    disturbed = conditions.stream_versions(x, noise, weight, jnp.zeros(4, bool))["addnoise"]
    assert not disturbed.any()


@pytest.mark.parametrize("net", [AudioNet(5), VideoNet(5, (1, 1, 1))])
def test_conditions_of_a_single_stream_network(net, batch):
    stream = net.inputs.streams[0]
    variables = init_variables(net, jax.random.key(0))
    inputs = batch if stream == "video" else {**batch, "frames": batch["frames"][:, :0]}
    results = step(variables, inputs, KEY, net=net, profile="reference")
    other = {"audio": "video", "video": "audio"}[stream]
    names = net.conditions
    assert names == (f"{stream}_only/zeros", f"{other}_only/addnoise")
    assert results.keys() == set(names)
    mfcc, frames = batch["audio"], batch["frames"].astype(np.float32) / 255
    noises = map(np.asarray, gaussian_inputs(clip_keys(KEY, batch["clip_key"]), mfcc, frames))
    disturbed = [add_noise(x, n, 2) for x, n in zip((mfcc, frames), noises, strict=True)]
    for inputs, name in zip(((mfcc, frames), disturbed), names, strict=True):
        result = results[name]
        logits = jax.jit(net.apply)(variables, *inputs)[:2]
        np.testing.assert_array_equal(result.logits[:2].argmax(-1), logits.argmax(-1))
        loss = -jax.nn.log_softmax(logits)[jnp.arange(2), batch["label"][:2]].sum()
        np.testing.assert_allclose(result.sums.loss, loss, rtol=1e-3)


def test_noise_depends_on_the_clip_and_not_its_row():
    forward, backward = (clip_keys(KEY, jnp.array(k, jnp.uint32)) for k in ([5, 9], [9, 5]))
    np.testing.assert_array_equal(jax.random.key_data(forward), jax.random.key_data(backward)[::-1])
