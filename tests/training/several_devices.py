"""Trains a few steps on chosen numbers of devices and writes what came of it, for test_parallel.

Run as a process of its own, for it needs more devices than the other tests:
``python several_devices.py OUT.npz MASK DTYPE STEPS jit:1 jit:8 pmap:2 ...``.
"""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np

from avjax.models.audio_visual import AudioVisualNet, trained_parameters
from avjax.training.optimizer import sgd
from avjax.training.parallel import spread
from avjax.training.step import Recipe, create_state, init_variables, train_step

BATCH_SIZE, PADDING = 8, 3


def batch_of_eight(number, dtype):
    """Clips that have both streams, or one of them, and padding in the last batch of the three."""
    rng = np.random.default_rng(number)
    weight = np.ones(BATCH_SIZE, dtype)
    if number == 2:
        weight[-PADDING:] = 0
    return {
        "frames": rng.integers(0, 256, (BATCH_SIZE, 4, 64, 64, 3)).astype(np.uint8),
        "mfcc": rng.standard_normal((BATCH_SIZE, 16, 10)).astype(dtype),
        "label": rng.integers(0, 3, BATCH_SIZE).astype(np.int32),
        "has_audio": np.arange(BATCH_SIZE) != 2,
        "has_video": np.arange(BATCH_SIZE) != 1,
        "weight": weight,
    }


@functools.cache
def job(mask, dtype):
    """A network's variables, the step and the optimizer: plain descent, so that the first change of
    a parameter is its gradient.
    """
    net = AudioVisualNet(3, "ia", 1, (1, 1, 1))
    variables = jax.tree.map(lambda x: x.astype(dtype), init_variables(net, jax.random.key(0)))
    trained = trained_parameters(variables["params"], "ia")
    optimizer = sgd(0.1, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
    recipe = Recipe(mask, "reference")
    step = functools.partial(train_step, net=net, optimizer=optimizer, recipe=recipe)
    return variables, optimizer, step


def results(mode, devices, mask, dtype, steps):
    """Losses of all steps; gradients and statistics of the first."""
    variables, optimizer, step = job(mask, dtype)
    before = jax.device_get(variables["params"])
    parallel = spread(mode, BATCH_SIZE, jax.local_devices()[:devices])
    step = parallel.compile_train_step(step)
    state, key = parallel.replicate((create_state(variables, optimizer), jax.random.key(1)))
    found, losses = {}, []
    for number in range(steps):
        state, sums = step(state, parallel.split(batch_of_eight(number, dtype)), key)
        sums = parallel.single(sums)
        losses.append(sums.loss / sums.count)
        if number == 0:
            after = parallel.single(state)
            changes = jax.tree.map(lambda a, b: (a - b) / 0.1, before, after.params)
            found |= {f"gradient{i}": np.asarray(x) for i, x in enumerate(jax.tree.leaves(changes))}
            statistics = jax.tree.leaves(after.batch_stats)
            found |= {f"statistics{i}": x for i, x in enumerate(statistics)}
    return found | {"losses": np.array(losses), "count": sums.count}


def main(out, mask, dtype, steps, *cases):
    with jax.enable_x64(dtype == "float64"):
        content = {}
        for case in cases:
            mode, _, devices = case.partition(":")
            found = results(mode, int(devices), mask, jnp.dtype(dtype), int(steps))
            content |= {f"{case}/{name}": value for name, value in found.items()}
    np.savez(out, **content)


if __name__ == "__main__":
    main(*sys.argv[1:])
