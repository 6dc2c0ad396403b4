"""avjax's side of the subjects `step` and `forward`: one setting, measured in this process."""

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
from avjax.runtime.devices import Parallel, spread
from avjax.training.conditions import eval_step
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, create_state, train_step

PRECISIONS = {"highest": "highest", "tf32": "tensorfloat32"}  # as JAX names them


class Setting(NamedTuple):
    """What is measured.

    Attributes:
      what: `step` or `forward`.
      fusion: as ``config.model.fusion``.
      mask: as ``config.mask``.
      batch: clips.
      frames: of each clip.
      size: of a frame, pixels.
      dtype: as ``config.dtype``.
      precision: of float32 products on a GPU, `highest` or `tf32`.
      threads: cores.
      steps: timed ones, at least; two calls come before them.
      devices: parts of a CPU, or GPUs, over which the batch is spread.
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
    """The setting itself.

    Raises:
      InputError: its mask, type or precision is unknown.
    """
    StepConfig(setting.mask, dtype=setting.dtype)
    if setting.precision not in PRECISIONS:
        raise InputError(
            f"unknown --precision={setting.precision}; choose {' or '.join(PRECISIONS)}"
        )
    return setting


def random_batch(setting: Setting) -> dict[str, np.ndarray]:
    """Clips of noise, both streams present."""
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
    """Prints one line of JSON: seconds of each step, peak memory, time of the first call."""
    check(setting)
    compilation.keep_compiled_programs()  # as commands do, and torch.compile
    _set_precision(setting.precision)
    began = time.perf_counter()
    run, together = _train(setting) if setting.what == "step" else (_forward(setting), 1)
    run()
    first = time.perf_counter() - began
    run()
    peak_memory.start()
    times = []
    for _ in range(-(-setting.steps // together)):
        began = time.perf_counter()
        run()
        times.append((time.perf_counter() - began) / together)
    told = {"seconds": times, "memory": _peak(), "first": first, "jax": jax.__version__}
    print(json.dumps(told), flush=True)


def _set_precision(precision: str) -> None:
    """Of float32 products, where the device has a choice."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])


def _fresh_network(setting: Setting) -> tuple[Network, Any]:
    network = {"kind": "audio_visual", "fusion": setting.fusion, "num_heads": 1, "num_classes": 8}
    net = build_network(network)
    return net, init_variables(net, jax.random.key(0))


def _train(setting: Setting) -> tuple[Callable[[], None], int]:
    """A call as training makes it, and how many steps it takes."""
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
    together = parallel.steps_per_call
    if together == 1:
        batch, step = parallel.split(batch), parallel.compile_train_step(single)
    else:
        batch = parallel.split_steps(jax.tree.map(lambda x: np.stack([x] * together), batch))
        several = parallel.compile_train_steps(single, lambda resident, part: part)
        step = functools.partial(several, resident=None, count=np.int32(together))

    def run() -> None:
        nonlocal state
        state, sums = step(state, batch, key)
        jax.block_until_ready((state, sums))

    return run, together


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
        raise InputError(f"{setting.devices} devices are wanted, {jax.device_count()} are there")
    return spread("jit", setting.batch, jax.devices()[: setting.devices])


def _peak() -> int:
    """Bytes: of the device where it tells, else of the process since its first steps."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    return peak_memory.bytes_since_start()


def ceilings(dtype: str, precision: str) -> None:
    """Prints what the device reaches, as one line of JSON."""
    from benchmarks import limits

    _set_precision(precision)
    reached = limits.measure_ceilings(jnp.dtype(dtype).name)
    print(json.dumps(reached._asdict()), flush=True)
