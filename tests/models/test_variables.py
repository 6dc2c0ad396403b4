"""Initial variables: PyTorch's distributions, drawn by path, the same as from `net.init`."""

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.network import Inputs, Network
from avjax.models.networks import NETWORKS
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables, variable_shapes

INPUTS = np.zeros((1, 20, 10), np.float32), np.zeros((1, 1, 64, 64, 3), np.float32)


@pytest.mark.parametrize("kind", NETWORKS)
def test_init_variables_equals_init(kind):
    net = NETWORKS[kind][0]()
    fresh = init_variables(net, jax.random.key(5))
    assert set(fresh) == {"params", "batch_stats"}
    jax.tree.map(np.testing.assert_array_equal, fresh, net.init(jax.random.key(5), *INPUTS))
    rngs = {"params": jax.random.key(5)}
    jax.tree.map(np.testing.assert_array_equal, fresh, net.init(rngs, *INPUTS))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), fresh)
    assert shapes == variable_shapes(net)


def test_kernels_and_biases_follow_pytorch_and_norms_are_the_identity():
    net = AudioVisualNet(8, "it")
    params = flatten_dict(init_variables(net, jax.random.key(0))["params"])
    large = 0
    for path, x in params.items():
        kernel = params.get((*path[:-1], "kernel"))
        if kernel is None:
            np.testing.assert_array_equal(x, path[-1] == "scale")
        else:
            bound = np.prod(kernel.shape[:-1]) ** -0.5
            assert np.abs(x).max() <= bound, path
            if x.size > 1000:
                large += 1
                assert np.abs(x).max() > 0.95 * bound, path
                assert np.std(x) == pytest.approx(bound / 3**0.5, rel=0.1), path
    assert large > 50


def test_parameters_depend_only_on_path_and_key():
    def kernel(net, seed):
        params = init_variables(net, jax.random.key(seed))["params"]
        return np.asarray(params["audio_model"]["conv1d_0"]["conv"]["kernel"])

    audio = kernel(AudioNet(3), 0)
    np.testing.assert_array_equal(audio, kernel(AudioVisualNet(5, stage_repeats=(1, 1, 1)), 0))
    assert not np.array_equal(audio, kernel(AudioNet(3), 1))


def test_other_parameters_use_their_initialisers():
    class Gated(Network):
        num_classes: int = 2

        @property
        def inputs(self):
            return Inputs(("audio",))

        @nn.compact
        def __call__(self, audio, frames, train=False, **_):
            gate = self.param("gate", nn.initializers.constant(0.25), (10,))
            return nn.Dense(self.num_classes)(audio.mean(1) * gate)

    params = init_variables(Gated(), jax.random.key(0))["params"]
    np.testing.assert_array_equal(params["gate"], np.full(10, 0.25, np.float32))


def test_rbg_keys_draw_within_the_bound():
    fresh = init_variables(AudioNet(3), jax.random.key(5, impl="rbg"))
    kernel = fresh["params"]["audio_model"]["conv1d_0"]["conv"]["kernel"]
    bound = (3 * 10) ** -0.5
    assert np.abs(kernel).max() <= bound and np.std(kernel) > bound / 2
