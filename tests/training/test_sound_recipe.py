"""Training steps of the sound recipe: losses, and equality on one and two devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.models.mel_net import MelNet
from avjax.models.variables import init_variables
from avjax.runtime.devices import Parallel
from avjax.training.augment import SoundAugmentation
from avjax.training.step import StepConfig, create_state, train_step

NET = MelNet(num_classes=3, num_mels=6, coefficients=(3, 6))
SGD = optax.sgd(1.0)
PLAIN = StepConfig("nodropout")
AUGMENTED = StepConfig("nodropout", sound_augment=SoundAugmentation(2.0, 0.05))


def batch_of_four():
    rng = np.random.default_rng(0)
    return {
        "frames": np.zeros((4, 0, 64, 64, 3), np.uint8),
        "audio": rng.uniform(0, 9, (4, 16, 6)),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.ones(4, bool),
        "has_video": np.zeros(4, bool),
        "weight": np.array([1.0, 1.0, 1.0, 0.0]),
    }


def run_step(config, devices=1):
    """Returns initial variables, and updated variables and metric sums of a step."""
    fresh = init_variables(NET, jax.random.key(0))
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), fresh)
    parallel = Parallel(4, jax.local_devices()[:devices])
    step = parallel.compile_train_step(
        functools.partial(train_step, net=NET, optimizer=SGD, config=config, profile="reference")
    )
    state = parallel.replicate(create_state(jax.tree.map(jnp.copy, variables), SGD))
    state, sums = step(state, parallel.split(batch_of_four()), jax.random.key(1))
    return variables, jax.device_get((state.params, state.batch_stats, sums))


@pytest.mark.slow  # by default, devices are compared in test_devices.py
def test_two_devices_equal_one_device():
    if jax.local_device_count() < 2:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    with jax.enable_x64(True):
        (_, expected), (_, actual) = (run_step(AUGMENTED, devices) for devices in (1, 2))
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-7)


def test_every_member_has_its_own_loss():
    with jax.enable_x64(True):
        variables, (params, _, sums) = run_step(PLAIN)
        batch = jax.tree.map(jnp.asarray, batch_of_four())
        targets = np.eye(3)[batch["label"][:3]]

        def loss(params):
            logits, _ = NET.apply(
                {**variables, "params": params},
                batch["audio"][:3],
                batch["frames"][:3],
                True,
                mutable="batch_stats",
            )
            return -(targets[:, None] * jax.nn.log_softmax(logits)).sum(-1).mean()

        gradients = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
        variables = jax.device_get(variables)
    assert sums.count == 3
    for before, after, gradient in zip(
        *map(jax.tree.leaves, (variables["params"], params, gradients)), strict=True
    ):
        np.testing.assert_allclose(before - after, gradient, rtol=1e-6, atol=1e-8)
