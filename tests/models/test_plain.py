"""avjax equals the plain network in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import variable_shapes
from avjax.training.modality_dropout import MASKS, draw, enlarge_from_draws
from avjax.training.step import TrainState, loss_gradients
from tests.models import plain

SMALL = {"num_classes": 5, "num_heads": 4, "stage_repeats": (1, 2, 1)}
CLIPS = {"softhard": 3, "noise": 4, "nodropout": 10}  # ten pairs each: plain compiles once a fusion

plain_gradients = jax.jit(
    plain.loss_gradients,
    static_argnums=0,
    # The gradients of stock strided depthwise convolutions need some optimisation.
    compiler_options={"xla_backend_optimization_level": 1},
)


@pytest.fixture(autouse=True)
def _double_precision():
    with jax.enable_x64(True):
        yield


def networks(**settings):
    return AudioVisualNet(**settings), plain.AudioVisualNet(**settings)


def random_variables(net):
    """Returns random variables; scales and statistics of 1 or 0 would hide mistakes."""
    rng = np.random.default_rng(0)

    def values(path, x):
        match path[-1].key:
            case "kernel":
                return rng.normal(0, (2 / np.prod(x.shape[:-1])) ** 0.5, x.shape)
            case "scale" | "var":
                return rng.uniform(0.5, 1.5, x.shape)
        return rng.normal(0, 0.3, x.shape)

    return jax.tree_util.tree_map_with_path(values, variable_shapes(net))


def random_clips(count, steps=20, length=2, size=64):
    """Returns MFCCs, frames, labels, `has_audio`, `has_video`; clip 0 lacks sound, clip 1 video."""
    rng = np.random.default_rng(1)
    has_audio, has_video = np.arange(count) != 0, np.arange(count) != 1
    mfcc = rng.standard_normal((count, steps, 10)) * has_audio[:, None, None]
    frames = rng.random((count, length, size, size, 3)) * has_video[:, None, None, None, None]
    label = rng.integers(SMALL["num_classes"], size=count)
    return tuple(jnp.asarray(x) for x in (mfcc, frames, label, has_audio, has_video))


def assert_close(actual, expected, tolerance, floor=0.0):
    """Bounds each tensor's deviation by ``tolerance * |tensor| + floor * |largest tensor|``."""
    actual, expected = (
        flatten_dict(jax.device_get(x)) for x in (plain.from_avjax(actual), expected)
    )
    assert actual.keys() == expected.keys()
    norms = {path: np.linalg.norm(x) for path, x in expected.items()}
    for path, norm in norms.items():
        deviation = np.linalg.norm(actual[path] - expected[path])
        bound = tolerance * norm + floor * max(norms.values())
        assert deviation <= bound, f"{'/'.join(path)}: {deviation:.1e} above {bound:.1e}"


def check_training(settings, mask, *clips):
    """Compares loss, gradients and running statistics; the batch's last row is padding."""
    net, plain_net = networks(**settings)
    variables = random_variables(net)
    mfcc, frames, label, has_audio, has_video = clips
    draws = draw(mask, jax.random.key(2), mfcc, frames)

    def step(variables, draws, mfcc, frames):
        state = TrainState(0, **variables, opt_state=None)
        weight = jnp.ones(len(label)).at[-1].set(0)
        enlarged = enlarge_from_draws(mask, draws, mfcc, frames, weight, has_audio, has_video)
        gradients, batch_stats, sums = loss_gradients(state, enlarged, label, net=net)
        return sums.loss / sums.count, gradients, batch_stats

    loss, gradients, batch_stats = jax.jit(step)(variables, draws, mfcc, frames)
    draws, clips = jax.tree.map(lambda x: x[:-1], (draws, clips))
    expected_loss, expected_gradients, expected_stats = plain_gradients(
        plain_net, plain.from_avjax(variables), *plain.enlarge(mask, draws, *clips)
    )
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-9)
    # The floor is for biases that the next BatchNorm removes: their gradient is only rounding.
    assert_close(gradients, expected_gradients, 1e-9, floor=1e-14)
    assert_close(batch_stats, expected_stats, 1e-9)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_parameters_have_the_same_names_and_shapes(fusion):
    """Except the branches' classifiers, which the audio-visual network does not use."""
    net, plain_net = networks(fusion=fusion)
    actual = jax.eval_shape(plain.from_avjax, variable_shapes(net))
    del actual["params"]["audio_model"]["classifier_1"]
    del actual["params"]["visual_model"]["classifier_1"]
    inputs = jnp.zeros((1, 20, 10)), jnp.zeros((1, 1, 64, 64, 3))
    expected = jax.eval_shape(plain_net.init, jax.random.key(0), *inputs)
    actual, expected = (
        {path: x.shape for path, x in flatten_dict(tree).items()} for tree in (actual, expected)
    )
    assert actual == expected


@pytest.mark.parametrize("fusion", FUSIONS)
def test_logits_equal_the_plain_network(fusion):
    net, plain_net = networks(**{**SMALL, "fusion": fusion, "num_heads": 1})
    variables = random_variables(net)
    mfcc, frames, *_ = random_clips(3)
    logits = jax.jit(net.apply)(variables, mfcc, frames)
    expected = jax.jit(plain_net.apply)(plain.from_avjax(variables), mfcc, frames)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("fusion", "mask"),
    [
        pytest.param(*case, marks=[] if case == ("ia", "softhard") else pytest.mark.slow)
        for case in itertools.product(FUSIONS, MASKS)
    ],
)
def test_training_step_equals_the_plain_network(fusion, mask):
    check_training({**SMALL, "fusion": fusion}, mask, *random_clips(CLIPS[mask] + 1))


@pytest.mark.slow
def test_training_step_at_the_published_size():
    check_training({}, "softhard", *random_clips(4, steps=156, size=224))
