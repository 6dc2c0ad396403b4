"""Several devices train as one does: same masks, global statistics, same gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet, trained_parameters
from avjax.training.optimizer import sgd
from avjax.training.parallel import Parallel
from avjax.training.step import Recipe, create_state, init_variables, train_step


def batch_of_four():
    rng = np.random.default_rng(0)
    return {
        "frames": rng.integers(0, 256, (4, 2, 64, 64, 3)).astype(np.uint8),
        "mfcc": rng.standard_normal((4, 16, 10)),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.array([True, True, False, True]),
        "has_video": np.array([True, False, True, True]),
        "weight": np.array([1.0, 1.0, 1.0, 0.0]),
    }


def test_two_devices_equal_one():
    if jax.local_device_count() < 2:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    with jax.enable_x64(True):
        net = AudioVisualNet(3, "ia", 1, (1, 1, 1))
        variables = jax.tree.map(
            lambda x: x.astype(jnp.float64), init_variables(net, jax.random.key(0))
        )
        trained = trained_parameters(variables["params"], "ia")
        optimizer = sgd(1.0, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
        recipe = Recipe("softhard", "reference")
        results = []
        for devices in (1, 2):
            parallel = Parallel(4, jax.local_devices()[:devices])
            step = parallel.compile_train_step(
                functools.partial(train_step, net=net, optimizer=optimizer, recipe=recipe)
            )
            start = create_state(jax.tree.map(jnp.copy, variables), optimizer)  # a step donates it
            state = parallel.replicate(start)
            state, sums = step(state, parallel.split(batch_of_four()), jax.random.key(1))
            results.append(jax.device_get((state.params, state.batch_stats, sums)))
    pairs = 3 * 4 - 2  # of the clips that lack a stream, one pair each has none
    assert results[0][2].count == results[1][2].count == pairs
    for one, two in zip(jax.tree.leaves(results[0]), jax.tree.leaves(results[1]), strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-9, atol=1e-9)


def test_a_batch_that_devices_cannot_share_is_refused():
    devices = [jax.local_devices()[0]] * 3
    with pytest.raises(InputError, match="batch_size=8 cannot be split over 3 devices"):
        Parallel(8, devices)
