"""A custom fusion: a module registered by name is described, built and trained."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.fusion import FUSIONS, Fusion
from avjax.models.networks import ModelConfig, build_network
from avjax.models.variables import init_variables
from avjax.weights.key_maps import network_layers


class Gated(Fusion):
    """Scales each stream by a gate computed from the other stream's mean."""

    def setup(self):
        self.audio_gate, self.video_gate = nn.Dense(1), nn.Dense(1)

    def __call__(self, audio, video):
        video_gate = jax.nn.sigmoid(self.video_gate(audio.mean(1)))[:, None]
        audio_gate = jax.nn.sigmoid(self.audio_gate(video.mean(1)))[:, None]
        return audio * audio_gate, video * video_gate


@pytest.fixture
def gated(monkeypatch):
    monkeypatch.setitem(FUSIONS, "gated", Gated)
    description = ModelConfig(fusion="gated").describe(num_classes=3)
    assert description["fusion"] == "gated"
    return build_network(description).clone(stage_repeats=(1, 1, 1))


def test_parameters_of_a_custom_fusion_are_trained(gated):
    variables = init_variables(gated, jax.random.key(0))
    assert {"audio_gate", "video_gate", "audio_model"} < set(variables["params"])
    rng = np.random.default_rng(0)
    mfcc = jnp.asarray(rng.standard_normal((2, 16, 10)), jnp.float32)
    frames = jnp.asarray(rng.random((2, 1, 64, 64, 3)), jnp.float32)

    @jax.jit
    def compute_gradients(params):
        def loss(params):
            state = {**variables, "params": params}
            outputs, _ = gated.apply(state, mfcc, frames, True, mutable="batch_stats")
            return gated.losses(outputs, jnp.array([0, 2])).sum()

        return jax.grad(loss)(params)

    gradients = compute_gradients(variables["params"])
    for name in ("audio_gate", "video_gate"):
        assert np.any(gradients[name]["kernel"] != 0)
        assert gated.trained(variables["params"])[name]["kernel"]


@pytest.mark.usefixtures("gated")
def test_custom_fusion_has_no_key_map():
    with pytest.raises(InputError, match="no map to PyTorch for fusion 'gated'"):
        network_layers({"kind": "audio_visual", "fusion": "gated"})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_heads_must_divide_the_attention_width(fusion):
    with pytest.raises(InputError, match="num_heads=3 does not divide the attention width"):
        ModelConfig(fusion=fusion, num_heads=3)
