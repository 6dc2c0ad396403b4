"""Shapes, parameter counts, gradients and errors of the audio-visual network."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from avjax.errors import InputError
from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.ops import Dimmed, Map, Rows, values
from avjax.models.variables import init_variables

COUNTS = {"ia": 1_854_766, "it": 1_938_414, "lt": 2_045_550}
SMALL = {"stage_repeats": (1, 1, 1)}


def abstract_init(net, steps=20, frames=2, size=64):
    inputs = jnp.zeros((1, steps, 10)), jnp.zeros((1, frames, size, size, 3))
    return jax.eval_shape(lambda key: nn.Module.init(net, key, *inputs), jax.random.key(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("num_heads", [1, 4])
def test_parameter_counts_match_the_reference(fusion, num_heads):
    params = abstract_init(AudioVisualNet(fusion=fusion, num_heads=num_heads))["params"]
    assert count(params) == COUNTS[fusion]
    visual = params["visual_model"]
    head = [name for name in visual if name.startswith(("conv1d", "classifier"))]
    assert count(visual) - count([visual[name] for name in head]) == 1_268_118


@pytest.mark.parametrize(
    ("fusion", "size"),
    [  # steps, frames, pixels
        ("ia", (13, 1, 64)),
        pytest.param("it", (40, 7, 96), marks=pytest.mark.slow),
        pytest.param("lt", (156, 15, 224), marks=pytest.mark.slow),
        ("ia", (300, 15, 128)),
    ],
)
def test_any_number_of_steps_frames_and_pixels(fusion, size):
    net = AudioVisualNet(num_classes=5, fusion=fusion)
    variables = abstract_init(net)
    steps, frames, pixels = size
    inputs = jnp.zeros((2, steps, 10)), jnp.zeros((2, frames, pixels, pixels, 3))
    assert jax.eval_shape(net.apply, variables, *inputs).shape == (2, 5)
    assert count(abstract_init(net, *size)) == count(variables)


def test_dimmed_and_black_clips_equal_explicit_ones():
    net = AudioVisualNet(**SMALL)
    rng = np.random.default_rng(0)
    frames = jnp.asarray(rng.random((2, 3, 64, 64, 3)), jnp.float32)
    factor = jnp.array([0.3, 1.0])
    variables = init_variables(net, jax.random.key(0))
    rows = Rows(jnp.array([1.0, 2, 1, 1, 3]))

    @jax.jit
    def encode(clips):
        def stream(net, clips):
            return values(net.video_stream(clips))

        return net.apply(variables, clips, method=stream, mutable="batch_stats")

    dimmed_frames = frames * factor[:, None, None, None, None]
    explicit = jnp.concatenate([frames, dimmed_frames, jnp.zeros_like(frames[:1])])
    dimmed = Dimmed(jnp.stack([jnp.ones(2), factor]))
    actual = encode(Map(frames, rows=rows, dimmed=dimmed))
    expected = encode(Map(explicit, rows=rows))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-3, 1e-4), actual, expected)


@pytest.mark.parametrize(
    "fusion",  # tests/golden covers the other fusions
    ["ia", *(pytest.param(name, marks=pytest.mark.slow) for name in FUSIONS if name != "ia")],
)
def test_exactly_the_trained_parameters_get_gradients(fusion):
    net = AudioVisualNet(fusion=fusion, **SMALL)
    rng = np.random.default_rng(1)
    mfcc = jnp.asarray(rng.standard_normal((3, 16, 10)), jnp.float32)
    frames = jnp.asarray(rng.random((3, 2, 64, 64, 3)), jnp.float32)
    variables = init_variables(net, jax.random.key(1))

    @jax.jit
    def compute_gradients(params):
        def loss(params):
            logits, _ = net.apply(
                {**variables, "params": params}, mfcc, frames, True, mutable="batch_stats"
            )
            return jax.nn.log_softmax(logits)[:, 0].mean()

        return jax.grad(loss)(params)

    gradients = flatten_dict(compute_gradients(variables["params"]))
    trained = flatten_dict(net.trained(variables["params"]))
    nonzero = {path: bool(jnp.any(g != 0)) for path, g in gradients.items()}
    # The next batch normalisation removes these constants: their gradient is zero.
    removed = {path for path in nonzero if _is_removed_by_a_norm(path)}
    assert not any(nonzero[path] for path in removed)
    assert nonzero | dict.fromkeys(removed, True) == trained


def _is_removed_by_a_norm(path):
    """Whether it is the bias of a convolution, or of a norm without ReLU, before a BatchNorm."""
    *_, module, name = path
    before = ("branch1_dw_bn", "branch2_dw_bn", "conv", "channel_fc_0", "spatial_reduce")
    return name == "bias" and (module in before or module.startswith("spatial_dilated"))


@pytest.mark.parametrize(
    ("steps", "size", "message"),
    [(12, 64, "12 MFCC steps are too few"), (13, 60, "60x60 pixels"), (13, 32, "32x32 pixels")],
)
def test_inputs_that_do_not_fit_are_refused(steps, size, message):
    with pytest.raises(InputError, match=message):
        abstract_init(AudioVisualNet(**SMALL), steps=steps, size=size)
