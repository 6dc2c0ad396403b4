"""Planned channel shuffles against shuffles that move every channel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.models import shuffle


def alternate(first, second):
    return jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)


def plainly(first, second, weights):
    """Units of one matrix each, with every shuffle carried out."""
    x = alternate(first, second)
    for matrix in weights:
        kept, x = jnp.split(x, 2, axis=-1)
        x = alternate(kept, jnp.tanh(x @ matrix))
    return x


def planned(first, second, weights):
    """The same by a plan; and the last map's channels as they come, with their order."""
    plan = shuffle.plan(len(weights) + 1, first.shape[-1])
    maps = [shuffle.cut(x, cuts) for x, cuts in zip((first, second), plan.cuts, strict=False)]
    for matrix, reading, cuts in zip(weights, plan.units, plan.cuts[2:], strict=True):
        y = jnp.tanh(shuffle.gathered(maps, reading) @ matrix[reading.order])
        maps.append(shuffle.cut(y, cuts))
    return shuffle.in_order(maps, plan.end), shuffle.gathered(maps, plan.end), plan.end.order


@pytest.mark.parametrize(("units", "half"), [(1, 6), (2, 58), (4, 58), (8, 116), (4, 232), (5, 2)])
def test_a_plan_shuffles(units, half):
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 3, 2, half))
    weights = list(rng.normal(size=(units - 1, half, half)) / half**0.5)
    with jax.enable_x64(True):
        first, second, *weights = map(jnp.asarray, (first, second, *weights))
        expected = plainly(first, second, weights)
        found, gathered, order = planned(first, second, weights)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gathered, expected[..., order], rtol=1e-9, atol=1e-12)


def test_its_derivative_is_the_shuffles_own():
    rng = np.random.default_rng(0)
    first, second, seen = rng.normal(size=(3, 4, 58))
    seen = np.concatenate([seen, -2 * seen], axis=-1)
    weights = list(rng.normal(size=(3, 58, 58)) / 8)
    with jax.enable_x64(True):
        first, second, *weights = map(jnp.asarray, (first, second, *weights))
        expected = jax.grad(lambda *x: (plainly(*x) * seen).sum(), (0, 1, 2))(
            first, second, weights
        )
        found = jax.grad(lambda *x: (planned(*x)[0] * seen).sum(), (0, 1, 2))(
            first, second, weights
        )
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        assert np.abs(one).max() > 0.01
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-12)


def test_a_plan_serves_32_bit_and_64_bit_programs():
    """JAX remembers signed indices by their 32-bit form and then refuses them in 64 bits."""
    order = shuffle.plan(3, 6).units[0].order
    for wide in (False, True, False):
        with jax.enable_x64(wide):
            x = jnp.asarray(np.eye(6))
            found = jax.jit(lambda x: x[order])(x)
        np.testing.assert_array_equal(found, np.eye(6)[order])
