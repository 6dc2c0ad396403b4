"""A fusion of one's own: a module registered by name is built, described and trained."""

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
    """Each stream scaled by one gate, which the other stream's mean opens."""

    def setup(self):
        self.audio_gate, self.video_gate = nn.Dense(1), nn.Dense(1)

    def __call__(self, audio, video):
        heard = jax.nn.sigmoid(self.video_gate(audio.mean(1)))[:, None]
        seen = jax.nn.sigmoid(self.audio_gate(video.mean(1)))[:, None]
        return audio * seen, video * heard


@pytest.fixture
def gated(monkeypatch):
    monkeypatch.setitem(FUSIONS, "gated", Gated)
    description = ModelConfig(fusion="gated").describe(num_classes=3)
    assert description["fusion"] == "gated"
    return build_network(description).clone(stage_repeats=(1, 1, 1))


def test_its_parts_stand_beside_the_branches_and_learn(gated):
    variables = init_variables(gated, jax.random.key(0))
    assert {"audio_gate", "video_gate", "audio_model"} < set(variables["params"])
    rng = np.random.default_rng(0)
    mfcc = jnp.asarray(rng.standard_normal((2, 16, 10)), jnp.float32)
    frames = jnp.asarray(rng.random((2, 1, 64, 64, 3)), jnp.float32)

    @jax.jit
    def gradients(params):
        def loss(params):
            state = {**variables, "params": params}
            outputs, _ = gated.apply(state, mfcc, frames, True, mutable="batch_stats")
            return gated.losses(outputs, jnp.array([0, 2])).sum()

        return jax.grad(loss)(params)

    reached = gradients(variables["params"])
    for name in ("audio_gate", "video_gate"):
        assert np.any(reached[name]["kernel"] != 0)
        assert gated.trained(variables["params"])[name]["kernel"]


@pytest.mark.usefixtures("gated")
def test_it_has_no_names_in_pytorch():
    with pytest.raises(InputError, match="no map to PyTorch for fusion 'gated'"):
        network_layers({"kind": "audio_visual", "fusion": "gated"})


@pytest.mark.parametrize("fusion", FUSIONS)
def test_heads_must_divide_its_widths(fusion):
    with pytest.raises(InputError, match="num_heads=3 does not divide the attention width"):
        ModelConfig(fusion=fusion, num_heads=3)
