"""One measurement of the subject `gpu`, in this process."""

import functools
import gzip
import json
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks import gpu_ops, limits, network, sides, trace

from avjax.models import ops
from avjax.models.mel_net import MelNet
from avjax.models.variables import init_variables
from avjax.runtime import compilation
from avjax.training.modality_dropout import draw, enlarge_from_draws
from avjax.training.optimizer import adamw
from avjax.training.step import (
    StepConfig,
    TrainState,
    create_state,
    loss_gradients,
    present_streams,
    train_step,
)
from avjax.training.vmapped import Runs, stack, vmapped_step

PEER = sides.ROOT / "tools" / "peers" / "reference_step.py"
Result = dict[str, Any]


def run(task: dict[str, Any]) -> None:
    """Prints the result of a task as one line of JSON; long tasks also what they have so far."""
    compilation.keep_compiled_programs()
    _print(TASKS[task["kind"]](task))


def _print(result: Result) -> None:
    print(json.dumps(result), flush=True)


def ceilings(task: dict[str, Any]) -> Result:
    """Arithmetic and bandwidth with every type."""
    device = jax.devices()[0]
    result: Result = {"device": device.device_kind, "jax": jax.__version__, "ceilings": {}}
    for name, fields in task["types"].items():
        network.set_precision(fields["precision"])
        result["ceilings"][name] = limits.measure_ceilings(fields["dtype"])._asdict()
        jax.clear_caches()  # programs do not remember the precision
    return result


def step_or_evaluation(task: dict[str, Any]) -> Result:
    """A training step or an evaluation."""
    return network.measured(network.Setting(**task["setting"]))


def kernels(task: dict[str, Any]) -> Result:
    """The kernels of a training step; keeps the compiled program's text."""
    setting = network.Setting(**task["setting"])
    network.set_precision(setting.precision)
    with network.chosen_forms(setting):
        call, program = network.compiled_step(setting)
    with gzip.open(task["program"], "wt") as file:
        file.write(program)
    jax.block_until_ready(call())
    found, totals = trace.kernels(call, task["steps"], program)
    return {"kernels": [kernel._asdict() for kernel in found], "totals": totals}


def operations(task: dict[str, Any]) -> Result:
    """Every form of some operations, in one type."""
    network.set_precision(task["precision"])
    result: Result = {"timed": []}
    for operation in task["operations"]:
        first: dict[str, Any] = {}
        for case in gpu_ops.cases(operation, task["rows"], task["size"], task["dtype"]):
            row: Result = {"operation": operation, "form": case.form, "shape": case.shape}
            result["timed"].append(row)
            call = functools.partial(case.function, *case.arguments)
            try:
                output = jax.block_until_ready(call())
                row["seconds"] = seconds_of(call)
                row["difference"] = gpu_ops.largest_difference(
                    output, first.setdefault(case.shape, output)
                )
            except jax.errors.JaxRuntimeError as error:  # a form may not fit; the others count
                row["failed"] = str(error).splitlines()[0][:200]
            _print(result)
    return result


def seconds_of(call: Callable[[], Any], budget: float = 0.1) -> float:
    """Returns the median time of a compiled call, called back to back."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    calls = max(1, min(200, int(budget / 5 / (time.perf_counter() - start))))
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(calls):
            output = call()
        jax.block_until_ready(output)
        times.append((time.perf_counter() - start) / calls)
    return median(times)


def epoch(task: dict[str, Any]) -> Result:
    """An epoch of random clips kept on the device, with the augmentation of frames."""
    setting = network.Setting(**task["setting"])
    network.set_precision(setting.precision)
    step, state = network.step_of(setting, *network.fresh_network(setting), augment="flip_rotate")
    count, key = task["clips"], jax.random.key(0)
    batch = network.random_batch(setting._replace(batch=1))
    clips = {name: jnp.repeat(jnp.asarray(x), count, axis=0) for name, x in batch.items()}
    clips["frames"] = jax.random.bits(key, clips["frames"].shape, jnp.uint8)

    @functools.partial(jax.jit, donate_argnums=0)
    def step_on(state: Any, clips: Any, rows: Any, key: Any) -> Any:
        return step(state, {name: x[rows] for name, x in clips.items()}, key)

    def all_steps(state: Any) -> Any:
        order = np.random.default_rng(0).permutation(count)
        order = order[: count // setting.batch * setting.batch].reshape(-1, setting.batch)
        for rows in order:
            state, sums = step_on(state, clips, rows, key)
        return jax.block_until_ready((state, sums))

    state, _ = jax.block_until_ready(step_on(state, clips, np.arange(setting.batch), key))
    start = time.perf_counter()
    all_steps(state)
    return {"epoch_seconds": time.perf_counter() - start, "clips": count}


def folds(task: dict[str, Any]) -> Result:
    """A step of six folds of sound alone: together, and one after the other."""
    count, batch, steps = 6, 32, task["steps"]
    net = MelNet(8, 128, tuple(task["coefficients"]))
    rng = np.random.default_rng(0)
    rows = {
        "frames": np.zeros((batch, 0, 0, 0, 3), np.uint8),
        "audio": rng.standard_normal((batch, 156, 128)).astype(np.float32),
        "label": rng.integers(0, 8, batch).astype(np.int32),
        "has_audio": np.ones(batch, bool),
        "has_video": np.zeros(batch, bool),
        "weight": np.ones(batch, np.float32),
    }
    variables = [init_variables(net, key) for key in jax.random.split(jax.random.key(0), count)]
    trained = net.trained(variables[0]["params"])
    optimizer = functools.partial(adamw, weight_decay=0.05, trained=trained)
    config = StepConfig("nodropout", augment="")
    options = {"net": net, "config": config, "profile": "fixed"}
    schedule = optax.constant_schedule(1e-3)
    alone = jax.jit(functools.partial(train_step, optimizer=optimizer(schedule), **options))
    together = jax.jit(
        functools.partial(vmapped_step, optimizer=optimizer, schedules=[schedule], **options)
    )
    states = [create_state(v, optimizer(schedule)) for v in variables]
    keys = jax.random.split(jax.random.key(1), count)
    all_rows = {name: np.stack([x] * count, axis=1) for name, x in rows.items()}
    inputs = jax.device_put((stack(states), all_rows, Runs(keys, jnp.zeros(count, jnp.int32))))
    rows = jax.device_put(rows)

    def one_after_the_other() -> Any:
        return [alone(state, rows, key) for state, key in zip(states, keys, strict=True)]

    seconds = {}
    for name, call in {
        "together": lambda: together(*inputs),
        "one after the other": one_after_the_other,
    }.items():
        jax.block_until_ready(call())
        seconds[name] = seconds_of(call, steps / 50)
    return {"folds": seconds}


def detector(task: dict[str, Any]) -> Result:
    """The face detector on frames of a drawn face."""
    from demo.face import FACES, FaceArtist, Pose, draw_expression, draw_look

    from avjax.preparation.face_detector import default_detector

    rng = np.random.default_rng(0)
    artist = FaceArtist(draw_look(rng, 1), task["size"])
    expression = draw_expression(next(iter(FACES)), 1.0, rng)
    frames = np.stack(
        [artist.draw(expression, Pose(x=0.01 * (i % 5))) for i in range(task["frames"])]
    )
    find = default_detector().largest_boxes
    seen = sum(box is not None for box in find(frames))
    start = time.perf_counter()
    find(frames)
    seconds = time.perf_counter() - start
    return {"frames_per_second": len(frames) / seconds, "seen": seen, "frames": len(frames)}


def accuracy(task: dict[str, Any]) -> Result:
    """Loss and gradients of a step against float64 on the CPU, for every form and type."""
    setting = network.Setting(**task["setting"])
    net, variables = network.fresh_network(setting)
    cpu = jax.local_devices(backend="cpu")[0]
    batch = network.random_batch(setting)
    with jax.default_device(cpu):
        coefficients = np.asarray(
            draw(setting.mask, jax.random.key(1), batch["audio"], batch["frames"])[0]
        )

    def loss_and_gradients(dtype: str) -> Any:
        wide = jnp.float64 if dtype == "float64" else jnp.float32
        inputs = jax.tree.map(
            lambda x: np.asarray(x, wide) if x.dtype == np.float32 else np.asarray(x),
            (variables, batch, (coefficients,)),
        )

        @jax.jit
        def compute(variables: Any, batch: Any, draws: Any) -> Any:
            state = TrainState(0, **variables, opt_state=None)
            audio, frames = present_streams(batch, "reference")
            enlarged = enlarge_from_draws(
                setting.mask, draws, audio, frames.normalised(), batch["weight"]
            )
            if dtype == "bfloat16":
                low = (x.astype(dtype) for x in (enlarged.audio, enlarged.frames))
                enlarged = enlarged._replace(**dict(zip(("audio", "frames"), low, strict=True)))
            gradients, _, sums = loss_gradients(state, enlarged, batch["label"], net=net)
            return sums.loss / sums.count, gradients

        loss, gradients = jax.device_get(compute(*inputs))
        return float(loss), np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradients)])

    with jax.enable_x64(True), jax.default_device(cpu):
        true_loss, truth = loss_and_gradients("float64")
    result: Result = {"accuracy": []}
    for others in [{}, *_single_forms()][: task["sets"]]:
        for name, fields in task["types"].items():
            network.set_precision(fields["precision"])
            jax.clear_caches()
            with ops.forms("gpu", **others):
                loss, gradients = loss_and_gradients(fields["dtype"])
            deviation = np.linalg.norm(gradients - truth) / np.linalg.norm(truth)
            row = {"type": name, "forms": others, "loss": abs(loss / true_loss - 1)}
            result["accuracy"].append({**row, "gradients": float(deviation)})
            _print(result)
    return result


def _single_forms() -> Iterator[dict[str, str]]:
    """Every form that is not a GPU's, but for those that take one image after the other."""
    for operation, alternatives in ops.ALTERNATIVES.items():
        for form in alternatives:
            if form not in ("by_image", ops.FORMS["gpu"][operation]):
                yield {operation: form}


TASKS: dict[str, Callable[[dict[str, Any]], Result]] = {
    "ceilings": ceilings,
    "network": step_or_evaluation,
    "trace": kernels,
    "operations": operations,
    "epoch": epoch,
    "folds": folds,
    "detector": detector,
    "accuracy": accuracy,
}
