"""avjax's side of the subjects `step` and `forward`: measures one setting in this process."""

import functools
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from peers import peak_memory

from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.models.variables import init_variables
from avjax.runtime import compilation
from avjax.runtime.devices import Parallel, make_parallel
from avjax.training.conditions import eval_step
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step

PRECISIONS = {"highest": "highest", "tf32": "tensorfloat32"}  # JAX's names


class Setting(NamedTuple):
    """A setting to measure.

    Attributes:
      what: `step` or `forward`.
      fusion: see ``config.model.fusion``.
      mask: see ``config.mask``.
      batch: clips in a batch.
      frames: frames in a clip.
      size: height and width of a frame in pixels.
      dtype: see ``config.dtype``.
      precision: precision of float32 products on a GPU, `highest` or `tf32`.
      threads: number of cores.
      steps: minimum number of timed steps, after two warm-up calls.
      devices: number of GPUs, or of virtual CPU devices, that share the batch.
    """

    what: str = "step"
    fusion: str = "ia"
    mask: str = "softhard"
    batch: int = 8
    frames: int = 15
    size: int = 224
    dtype: str = "float32"
    precision: str = "highest"
    threads: int = 2
    steps: int = 5
    devices: int = 1


AUDIO_STEPS = 156


def check(setting: Setting) -> Setting:
    """Returns the setting.

    Raises:
      InputError: its mask, dtype or precision is unknown.
    """
    StepConfig(setting.mask, dtype=setting.dtype)
    if setting.precision not in PRECISIONS:
        raise InputError(
            f"unknown --precision={setting.precision}; choose {' or '.join(PRECISIONS)}"
        )
    return setting


def random_batch(setting: Setting) -> dict[str, np.ndarray]:
    """Returns a batch of noise with both streams present."""
    rng, rows = np.random.default_rng(0), setting.batch
    shape = (rows, setting.frames, setting.size, setting.size, 3)
    return {
        "frames": rng.integers(0, 256, shape).astype(np.uint8),
        "audio": rng.standard_normal((rows, AUDIO_STEPS, 10)).astype(np.float32),
        "label": rng.integers(0, 8, rows).astype(np.int32),
        "has_audio": np.ones(rows, bool),
        "has_video": np.ones(rows, bool),
        "weight": np.ones(rows, np.float32),
    }


def measure(setting: Setting) -> None:
    """Prints one line of JSON: seconds per step, peak memory, time of the first call."""
    check(setting)
    compilation.keep_compiled_programs()  # like the commands and torch.compile
    _set_precision(setting.precision)
    start = time.perf_counter()
    run, steps = _train(setting) if setting.what == "step" else (_forward(setting), 1)
    run()
    first = time.perf_counter() - start
    run()
    peak_memory.start()
    times = []
    for _ in range(-(-setting.steps // steps)):
        start = time.perf_counter()
        run()
        times.append((time.perf_counter() - start) / steps)
    result = {"seconds": times, "memory": _peak(), "first": first, "jax": jax.__version__}
    print(json.dumps(result), flush=True)


def _set_precision(precision: str) -> None:
    """Sets the precision of float32 products where the device has a choice."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])


def _fresh_network(setting: Setting) -> tuple[Network, Any]:
    network = {"kind": "audio_visual", "fusion": setting.fusion, "num_heads": 1, "num_classes": 8}
    net = build_network(network)
    return net, init_variables(net, jax.random.key(0))


def _train(setting: Setting) -> tuple[Callable[[], None], int]:
    """Returns a training call and its number of steps."""
    net, variables = _fresh_network(setting)
    trained = net.trained(variables["params"])
    optimizer = sgd(1e-3, momentum=0.9, dampening=0.9, weight_decay=1e-3, trained=trained)
    config = StepConfig(setting.mask, augment="", dtype=setting.dtype)
    parallel = _parallel(setting)
    single = functools.partial(
        train_step, net=net, optimizer=optimizer, config=config, profile="reference"
    )
    state = parallel.replicate(create_state(variables, optimizer))
    batch, key = random_batch(setting), parallel.replicate(jax.random.key(1))
    steps = parallel.steps_per_call
    if steps == 1:
        batch, step = parallel.split(batch), parallel.compile_train_step(single)
    else:
        batch = parallel.split_steps(jax.tree.map(lambda x: np.stack([x] * steps), batch))
        several = parallel.compile_train_steps(single, lambda resident, part: part)
        step = functools.partial(several, resident=None, count=np.int32(steps))

    def run() -> None:
        nonlocal state
        state, sums = step(state, batch, key)
        jax.block_until_ready((state, sums))

    return run, steps


def _forward(setting: Setting) -> Callable[[], None]:
    if setting.dtype != "float32":
        raise InputError("avjax evaluates in float32; give --dtypes=float32")
    net, variables = _fresh_network(setting)
    parallel = _parallel(setting)
    clean = functools.partial(eval_step, net=net, profile="reference")
    step = parallel.compile_eval_step(clean, by_row=True)
    variables, batch = parallel.replicate(variables), parallel.split(random_batch(setting))
    return lambda: step(variables, batch)


def _parallel(setting: Setting) -> Parallel:
    if setting.devices > jax.device_count():
        raise InputError(f"--devices={setting.devices}: only {jax.device_count()} exist; give less")
    return make_parallel("jit", setting.batch, jax.devices()[: setting.devices])


def _peak() -> int:
    """Returns the device's peak bytes if known, else the process's since warm-up."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return peak_memory.bytes_since_start()


def ceilings(dtype: str, precision: str) -> None:
    """Prints the device's measured peaks as one line of JSON."""
    from benchmarks import limits

    _set_precision(precision)
    measured = limits.measure_ceilings(jnp.dtype(dtype).name)
    print(json.dumps(measured._asdict()), flush=True)
