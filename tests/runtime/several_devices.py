"""Trains a few steps on several numbers of devices and writes the results, for test_devices.

Runs as a separate process, since it needs more devices than other tests:
``python several_devices.py OUT.npz NETWORK MASK DTYPE jit:1 jit:8 pmap:2 ...``, with the number of
this process's devices, or ``all`` for those of all processes. With several processes, three more
arguments follow ``--``: the coordinator, the number of processes and the process's index.
"""

import functools
import sys

import jax
import numpy as np

from avjax.models.audio_visual import AudioVisualNet
from avjax.models.networks import build_network
from avjax.models.variables import init_variables
from avjax.runtime.devices import make_parallel
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step

BATCH_SIZE, PADDING, STEPS, RATE = 8, 3, 3, 0.1


def batch_of_eight(number, dtype):
    """Returns clips with both streams or one of them; batch 2 has padding."""
    rng = np.random.default_rng(number)
    weight = np.ones(BATCH_SIZE, dtype)
    if number == 2:
        weight[-PADDING:] = 0
    return {
        "frames": rng.integers(0, 256, (BATCH_SIZE, 4, 64, 64, 3)).astype(np.uint8),
        "audio": rng.standard_normal((BATCH_SIZE, 16, 10)).astype(dtype),
        "label": rng.integers(0, 3, BATCH_SIZE).astype(np.int32),
        "has_audio": np.arange(BATCH_SIZE) != 2,
        "has_video": np.arange(BATCH_SIZE) != 1,
        "weight": weight,
    }


@functools.cache
def job(network, mask, dtype):
    """Returns variables, optimizer and step; plain SGD, so the first update is the gradient."""
    small = AudioVisualNet(3, "ia", 1, (1, 1, 1))
    net = small if network == "audio_visual" else build_network({"kind": network, "num_classes": 3})
    variables = init_variables(net, jax.random.key(0))
    variables = jax.tree.map(lambda x: np.asarray(x, dtype), jax.device_get(variables))
    trained = net.trained(variables["params"])
    optimizer = sgd(RATE, momentum=0.0, dampening=0.0, weight_decay=0.0, trained=trained)
    config = StepConfig(mask)
    step = functools.partial(
        train_step, net=net, optimizer=optimizer, config=config, profile="reference"
    )
    return variables, optimizer, step


def results(mode, devices, network, mask, dtype):
    """Returns losses of all steps; gradients and statistics of the first."""
    variables, optimizer, step = job(network, mask, dtype)
    parallel = make_parallel(mode, BATCH_SIZE, devices)
    step = parallel.compile_train_step(step)
    state, key = parallel.replicate((create_state(variables, optimizer), jax.random.key(1)))
    losses, first = [], None
    for number in range(STEPS):
        state, sums = step(
            state, parallel.split(share(parallel, batch_of_eight(number, dtype))), key
        )
        sums = parallel.single(sums)
        losses.append(sums.loss / sums.count)
        first = first or parallel.single(state)
    gradients = jax.tree.map(lambda a, b: (a - b) / RATE, variables["params"], first.params)
    return {
        "losses": np.array(losses),
        "count": sums.count,
        "gradients": flat(gradients),
        "statistics": flat(first.batch_stats),
    }


def share(parallel, batch):
    """Returns the rows that this process would read."""
    index, count = parallel.share.values()
    rows = BATCH_SIZE // count
    return {name: column[index * rows : (index + 1) * rows] for name, column in batch.items()}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def main(arguments):
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if arguments[end:]:
        coordinator, count, index = arguments[end + 1 :]
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(coordinator, int(count), int(index))
    out, network, mask, dtype, *cases = arguments[:end]
    content = {}
    with jax.enable_x64(dtype == "float64"):
        for case in cases:
            mode, _, number = case.partition(":")
            devices = None if number == "all" else jax.local_devices()[: int(number)]
            values = results(mode, devices, network, mask, np.dtype(dtype))
            content |= {f"{case}/{name}": value for name, value in values.items()}
    if jax.process_index() == 0:
        np.savez(out, **content)


if __name__ == "__main__":
    main(sys.argv[1:])
