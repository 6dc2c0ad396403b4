"""Fresh variables: those that Flax's own `init` would draw, drawn together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models.networks import NETWORKS
from avjax.models.single_modality import AudioNet
from avjax.models.variables import init_variables, smallest_inputs, variable_shapes
from tests.small_networks import small_network


def zeros(net):
    return [jnp.zeros(x.shape, x.dtype) for x in smallest_inputs(net)]


@pytest.mark.parametrize("kind", NETWORKS)
def test_drawn_together_are_those_of_init(kind):
    net = small_network(kind)
    key = jax.random.fold_in(jax.random.key(5), 1)
    found = init_variables(net, key)
    expected = jax.jit(net.init)(key, *zeros(net))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, dict(expected))
    same = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), found)
    assert same == variable_shapes(net)


def test_intermediates_are_none_but_those_of_layers():
    """What `init` postpones stays out of Flax's own collections."""
    net, key = AudioNet(3), jax.random.key(0)
    inputs = zeros(net)
    variables = init_variables(net, key)
    assert set(variables) == set(net.init(key, *inputs)) == {"params", "batch_stats"}
    whole = net.init(key, *inputs, mutable=True)
    for drawn, own in zip(*map(jax.tree.leaves, (variables, whole)), strict=True):
        np.testing.assert_allclose(drawn, own, rtol=1e-6)
    logits, captured = net.apply(variables, *inputs, capture_intermediates=True)
    seen = jax.tree.leaves(captured)
    assert any(np.array_equal(value, logits) for value in seen)
    assert all(isinstance(value, jax.Array) and np.isfinite(value).all() for value in seen)


def test_another_key_draws_others():
    first, second = (init_variables(AudioNet(3), jax.random.key(seed)) for seed in (0, 1))
    kernels = [v["params"]["audio_model"]["classifier_1"]["kernel"] for v in (first, second)]
    assert not np.array_equal(*kernels)


def test_keys_of_another_implementation_draw_within_the_bound():
    found = init_variables(AudioNet(3), jax.random.key(5, impl="rbg"))
    kernel = found["params"]["audio_model"]["conv1d_0"]["conv"]["kernel"]
    bound = (3 * 10) ** -0.5
    assert np.abs(kernel).max() <= bound and np.std(kernel) > bound / 2
