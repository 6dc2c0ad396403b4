"""avjax's side of the subjects `step` and `forward`: measures one setting in this process."""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from peers import peak_memory

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.efficientface import STAGE_REPEATS
from avjax.models.network import Network
from avjax.models.variables import init_variables
from avjax.runtime import compilation
from avjax.runtime.devices import Parallel, make_parallel
from avjax.training.conditions import eval_step
from avjax.training.modality_dropout import draw, enlarge_from_draws, spell_out
from avjax.training.optimizer import sgd
from avjax.training.step import StepConfig, TrainState, create_state, train_step

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
      calls: calls between two looks at the clock; a device waits for the host after each.
      steps_per_call: see ``config.steps_per_call``; 0 chooses what suits the devices.
      deduplicate: whether repeated inputs of the enlarged batch are computed once.
      forms: forms of the operations (`avjax.models.ops.forms`), such as "gpu,conv2d=nhwc"; "" is
        those of the device, "stock" the network in stock Flax layers instead.
      units: units in each stage of EfficientFace.
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
    calls: int = 1
    steps_per_call: int = 0
    deduplicate: bool = True
    forms: str = ""
    units: Sequence[int] = STAGE_REPEATS

    @property
    def text(self) -> str:
        """JSON of what is not at its default, which other checkouts may not know."""
        default = Setting()._asdict()
        return json.dumps({k: v for k, v in self._asdict().items() if v != default[k]})


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
    """Prints one line of JSON; see `measured`."""
    print(json.dumps(measured(setting)), flush=True)


def measured(setting: Setting) -> dict[str, Any]:
    """Returns seconds per step, peak memory and the time of the first call."""
    check(setting)
    compilation.keep_compiled_programs()  # like the commands and torch.compile
    set_precision(setting.precision)
    with chosen_forms(setting):
        start = time.perf_counter()
        run, steps = prepare(setting)
        jax.block_until_ready(run())
        first = time.perf_counter() - start
    jax.block_until_ready(run())
    peak_memory.start()
    times = []
    for _ in range(-(-setting.steps // (steps * setting.calls))):
        start = time.perf_counter()
        for _ in range(setting.calls):
            results = run()
        jax.block_until_ready(results)
        times.append((time.perf_counter() - start) / (steps * setting.calls))
    return {"seconds": times, "memory": _peak(), "first": first, "jax": jax.__version__}


def prepare(setting: Setting) -> tuple[Callable[[], Any], int]:
    """Returns what is to be timed, and how many steps it takes; it compiles at its first call."""
    if setting.what == "forward":
        return _forward(setting), 1
    return _stock_step(setting) if setting.forms == "stock" else _train(setting)


def compiled_step(setting: Setting) -> tuple[Callable[[], Any], str]:
    """Returns a compiled training step of a single device, and the program's text."""
    step, state = step_of(setting, *fresh_network(setting))
    inputs = jax.device_put((state, random_batch(setting), jax.random.key(1)))
    compiled = jax.jit(step).lower(*inputs).compile()
    return lambda: compiled(*inputs), compiled.as_text() or ""


def chosen_forms(setting: Setting) -> contextlib.AbstractContextManager[None]:
    """Context for the first call."""
    if setting.forms in ("", "stock"):
        return contextlib.nullcontext()
    kind, *others = setting.forms.split(",")
    return ops.forms(kind, **dict(other.split("=") for other in others))


def set_precision(precision: str) -> None:
    """Sets the precision of float32 products where the device has a choice."""
    if jax.default_backend() != "cpu":
        jax.config.update("jax_default_matmul_precision", PRECISIONS[precision])


def fresh_network(setting: Setting) -> tuple[AudioVisualNet, Any]:
    """Returns the setting's network and fresh variables."""
    net = AudioVisualNet(8, setting.fusion, stage_repeats=tuple(setting.units))
    return net, init_variables(net, jax.random.key(0))


def step_of(
    setting: Setting, net: Network, variables: Any, augment: str = ""
) -> tuple[Callable[..., Any], TrainState]:
    """Returns a training step, by default without augmentation, and the state before it."""
    trained = net.trained(variables["params"])
    optimizer = sgd(1e-3, momentum=0.9, dampening=0.9, weight_decay=1e-3, trained=trained)
    config = StepConfig(setting.mask, augment, dtype=setting.dtype, deduplicate=setting.deduplicate)
    step = functools.partial(
        train_step, net=net, optimizer=optimizer, config=config, profile="reference"
    )
    return step, create_state(variables, optimizer)


def _train(setting: Setting) -> tuple[Callable[[], Any], int]:
    parallel = _parallel(setting)
    single, state = step_of(setting, *fresh_network(setting))
    state = parallel.replicate(state)
    batch, key = random_batch(setting), parallel.replicate(jax.random.key(1))
    steps = setting.steps_per_call or parallel.steps_per_call
    if steps == 1:
        batch, step = parallel.split(batch), parallel.compile_train_step(single)
    else:
        batch = parallel.split_steps(jax.tree.map(lambda x: np.stack([x] * steps), batch))
        several = parallel.compile_train_steps(single, lambda resident, part: part)
        step = functools.partial(several, resident=None, count=np.int32(steps))

    def run() -> Any:
        nonlocal state
        state, sums = step(state, batch, key)
        return state, sums

    return run, steps


def _stock_step(setting: Setting) -> tuple[Callable[[], Any], int]:
    """A step of the network in stock Flax layers, on the spelled-out enlarged batch."""
    from tests.models import plain

    if setting.dtype != "float32":
        raise InputError("the network in stock layers computes in float32")
    _, variables = fresh_network(setting)
    net = plain.AudioVisualNet(fusion=setting.fusion, stage_repeats=tuple(setting.units))
    variables = plain.from_avjax(variables)
    optimizer = optax.sgd(1e-3, momentum=0.9)
    batch = jax.device_put(random_batch(setting))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(variables: Any, opt_state: Any, batch: Any, key: Any) -> Any:
        video = batch["frames"].astype(jnp.float32) / 255
        draws = draw(setting.mask, key, batch["audio"], video)
        enlarged = enlarge_from_draws(setting.mask, draws, batch["audio"], video, batch["weight"])
        pairs = spell_out(enlarged)
        labels = jnp.tile(batch["label"], pairs.copies)
        loss, gradients, stats = plain.loss_gradients(
            net, variables, pairs.audio, pairs.frames, labels
        )
        updates, opt_state = optimizer.update(gradients, opt_state)
        params = optax.apply_updates(variables["params"], updates)
        return {"params": params, "batch_stats": stats}, opt_state, loss

    opt_state, key = optimizer.init(variables["params"]), jax.random.key(1)

    def run() -> Any:
        nonlocal variables, opt_state
        variables, opt_state, loss = step(variables, opt_state, batch, key)
        return variables, loss

    return run, 1


def _forward(setting: Setting) -> Callable[[], Any]:
    if setting.dtype != "float32":
        raise InputError("avjax evaluates in float32; give --dtypes=float32")
    net, variables = fresh_network(setting)
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

    set_precision(precision)
    measured = limits.measure_ceilings(jnp.dtype(dtype).name)
    print(json.dumps(measured._asdict()), flush=True)
