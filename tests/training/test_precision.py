"""bfloat16 steps are close to float32 steps; parameters and statistics stay float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

from avjax.models.audio_visual import FUSIONS, AudioVisualNet
from avjax.models.variables import init_variables, variable_shapes
from avjax.training.step import StepConfig, create_state, train_step

LAST_GRADIENT = optax.GradientTransformation(  # its state is the gradient
    init=lambda params: jax.tree.map(jnp.zeros_like, params),
    update=lambda gradients, state, params: (
        jax.tree.map(lambda g: -0.01 * g, gradients),
        gradients,
    ),
)


def batch_of_four(rng):
    return {
        "frames": rng.integers(0, 256, (4, 2, 64, 64, 3)).astype(np.uint8),
        "audio": rng.standard_normal((4, 16, 10)).astype(np.float32),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.ones(4, bool),
        "has_video": np.ones(4, bool),
        "weight": np.ones(4, np.float32),
    }


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("dtype", [pytest.param(jnp.float32, marks=pytest.mark.slow), jnp.bfloat16])
def test_every_layer_computes_in_the_dtype_of_its_inputs(fusion, dtype):
    """Except the norms before attention, which return at least float32."""
    net = AudioVisualNet(3, fusion, 1, (1, 1, 1))
    inputs = [jax.ShapeDtypeStruct(s, dtype) for s in ((2, 16, 10), (2, 2, 64, 64, 3))]
    apply = functools.partial(
        net.apply, train=True, mutable=["batch_stats", "intermediates"], capture_intermediates=True
    )
    logits, updated = jax.eval_shape(apply, variable_shapes(net), *inputs)
    assert logits.dtype == dtype
    outputs = flatten_dict(updated["intermediates"], sep="/")
    maps = {
        name: leaf
        for name, output in outputs.items()
        for leaf in jax.tree.leaves(output)
        if "norm" not in name and leaf.ndim > 1  # shifts are float32 vectors
    }
    assert len(maps) > 30
    assert {name for name, leaf in maps.items() if leaf.dtype != dtype} == set()


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_bfloat16_step_is_close_to_the_float32_step(fusion):
    net = AudioVisualNet(3, fusion, 1, (1, 1, 1))
    state = create_state(init_variables(net, jax.random.key(0)), LAST_GRADIENT)
    batch = batch_of_four(np.random.default_rng(0))
    results = []
    for dtype in ("float32", "bfloat16"):
        config = StepConfig("softhard", augment="", dtype=dtype)
        step = functools.partial(
            train_step, net=net, optimizer=LAST_GRADIENT, config=config, profile="reference"
        )
        results.append(jax.device_get(jax.jit(step)(state, batch, jax.random.key(1))))
    (state32, sums32), (state16, sums16) = results
    assert {leaf.dtype for leaf in jax.tree.leaves((state16.params, state16.batch_stats))} == {
        np.dtype(np.float32)
    }
    assert sums16.loss == pytest.approx(sums32.loss, rel=0.05)
    assert sums16.loss != sums32.loss
    gradients = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.opt_state)])
        for state in (state32, state16)
    ]
    cosine = gradients[0] @ gradients[1] / np.prod([np.linalg.norm(g) for g in gradients])
    assert cosine > 0.8
