"""Training steps of the recipe for sound: its loss, and the same on two devices as on one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from avjax.models.mel_net import MelNet
from avjax.models.variables import init_variables
from avjax.runtime.devices import Parallel
from avjax.training.sound_augment import SoundAugmentation
from avjax.training.step import Recipe, create_state, train_step

NET = MelNet(num_classes=3, num_mels=6, coefficients=(3, 6), dropout=0.3)
SGD = optax.sgd(1.0)
PLAIN = Recipe("nodropout", "reference")
FULL = PLAIN._replace(
    sound=SoundAugmentation(0.1, 2.0, 0.05, 0.3, 4.0, 2.0, 0.2), label_smoothing=0.1
)


def batch_of_four():
    rng = np.random.default_rng(0)
    return {
        "frames": np.zeros((4, 0, 64, 64, 3), np.uint8),
        "mfcc": rng.uniform(0, 9, (4, 16, 6)),
        "label": np.array([0, 1, 2, 1], np.int32),
        "has_audio": np.ones(4, bool),
        "has_video": np.zeros(4, bool),
        "weight": np.array([1.0, 1.0, 1.0, 0.0]),
    }


def stepped(recipe, devices=1, net=NET):
    """Variables, and the metric sums of one step from them."""
    fresh = init_variables(net, jax.random.key(0))
    variables = jax.tree.map(lambda x: x.astype(jnp.float64), fresh)
    parallel = Parallel(4, jax.local_devices()[:devices])
    step = parallel.compile_train_step(
        functools.partial(train_step, net=net, optimizer=SGD, recipe=recipe)
    )
    state = parallel.replicate(create_state(jax.tree.map(jnp.copy, variables), SGD))
    state, sums = step(state, parallel.split(batch_of_four()), jax.random.key(1))
    return variables, jax.device_get((state.params, state.batch_stats, sums))


def test_two_devices_equal_one():
    if jax.local_device_count() < 2:
        pytest.skip("needs two devices: XLA_FLAGS=--xla_force_host_platform_device_count=2")
    with jax.enable_x64(True):
        (_, one), (_, two) = (stepped(FULL, devices) for devices in (1, 2))
    for first, second in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_allclose(second, first, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_every_member_learns_from_its_own_loss_with_smoothed_labels(smoothing):
    net = NET.clone(dropout=0.0)
    with jax.enable_x64(True):
        recipe = PLAIN._replace(label_smoothing=smoothing)
        variables, (params, _, sums) = stepped(recipe, net=net)
        batch = batch_of_four()
        wanted = (1 - smoothing) * np.eye(3)[batch["label"][:3]] + smoothing / 3

        def loss(params):
            logits, _ = net.apply(
                {**variables, "params": params},
                batch["mfcc"][:3],
                batch["frames"][:3],
                True,
                mutable="batch_stats",
            )
            return -(wanted[:, None] * jax.nn.log_softmax(logits)).sum(-1).mean()

        gradients = jax.device_get(jax.jit(jax.grad(loss))(variables["params"]))
        variables = jax.device_get(variables)
    assert sums.count == 3
    for before, after, gradient in zip(
        *map(jax.tree.leaves, (variables["params"], params, gradients)), strict=True
    ):
        np.testing.assert_allclose(before - after, gradient, rtol=1e-6, atol=1e-8)
