"""Steps in bfloat16: near those in float32, with parameters and statistics in float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.variables import init_variables
from avjax.training.step import StepConfig, create_state, train_step


def batch_of_four(rng):
    return {
        "frames": rng.integers(0, 256, (4, 2, 64, 64, 3)).astype(np.uint8),
        "audio": rng.standard_normal((4, 16, 10)).astype(np.float32),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.ones(4, bool),
        "has_video": np.ones(4, bool),
        "weight": np.ones(4, np.float32),
    }


@pytest.mark.parametrize("fusion", ["ia", "it", "lt"])
def test_bfloat16_computes_in_it_and_keeps_the_rest_in_float32(fusion):
    net = AudioVisualNet(3, fusion, 1, (1, 1, 1))
    state = create_state(init_variables(net, jax.random.key(0)), optimizer := _Plain())
    batch = batch_of_four(np.random.default_rng(0))
    results, programs = {}, {}
    for dtype in ("float32", "bfloat16"):
        config = StepConfig("softhard", augment=False, dtype=dtype)
        step = functools.partial(
            train_step, net=net, optimizer=optimizer, config=config, profile="reference"
        )
        programs[dtype] = str(jax.make_jaxpr(step)(state, batch, jax.random.key(1)))
        results[dtype] = jax.device_get(jax.jit(step)(state, batch, jax.random.key(1)))
    assert "bf16" not in programs["float32"]
    assert programs["bfloat16"].count("bf16") > 1000
    (wide, exact), (narrow, rounded) = results["float32"], results["bfloat16"]
    assert {leaf.dtype for leaf in jax.tree.leaves((narrow.params, narrow.batch_stats))} == {
        np.dtype(np.float32)
    }
    assert rounded.loss == pytest.approx(exact.loss, rel=0.05)
    assert rounded.loss != exact.loss
    gradients = [
        np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(state.opt_state)])
        for state in (wide, narrow)
    ]
    cosine = gradients[0] @ gradients[1] / np.prod([np.linalg.norm(g) for g in gradients])
    assert cosine > 0.8


class _Plain:
    """An optimizer whose state is the last gradient."""

    def init(self, params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, gradients, state, params):
        return jax.tree.map(lambda g: -0.01 * g, gradients), gradients
