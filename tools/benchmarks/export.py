"""Times exported programs beside `avjax.load`, from prepared clips to logits and probabilities.

python tools/benchmark.py export [--checkpoint RUN] [--batch 1] [--rounds 3] [--calls 10]

By default the network has random weights and its full size. Sides run in turn, each in its own
process: `avjax`, the StableHLO program by JAX, and the ONNX program by onnxruntime if it and
jax2onnx are installed; all on the CPU, with the same cores. The first call of a side compiles, and
is not counted; memory is the process's from the second one on.
"""

import importlib.util
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from benchmarks import sides
from benchmarks.predict import write_model
from peers import peak_memory

from avjax.errors import InputError
from avjax.export import OUTPUTS, export_model, signature
from avjax.predict import Model
from avjax.runs.saved_model import load_model

ONNX_PACKAGES = ("jax2onnx", "onnxruntime")
Inputs = dict[str, np.ndarray]


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""

    def number(name: str, default: int, help_: str) -> None:
        flags.DEFINE_integer(name, default, help_, 1, flag_values=values)

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    text("checkpoint", None, "A run or a model; by default one with random weights.")
    number("batch", 1, "Clips at once.")
    number("rounds", 3, "Repetitions.")
    number("calls", 10, "Calls in a round.")
    number("threads", 2, "Cores.")
    text("once", None, "Measure one side once, described in JSON.")


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints a table."""
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; give the model by --checkpoint")
    if values.once:
        return print(json.dumps(measure(**json.loads(values.once))), flush=True)
    sides.bind(values.threads)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = values.checkpoint or str(write_model(folder / "model"))
        programs = {"avjax": checkpoint}
        programs["stablehlo"] = str(export_model(checkpoint, folder / "stablehlo"))
        missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
        if missing:
            print(f"onnx: not measured, since {' and '.join(missing)} are not installed")
        else:
            programs["onnx"] = str(export_model(checkpoint, folder / "onnx", "onnx"))
        setting = {name: values[name].value for name in ("batch", "calls", "threads")}
        setting["checkpoint"] = checkpoint
        compared = [_side(name, path, setting) for name, path in programs.items()]
        results = sides.alternate(compared, values.rounds)
    print(f"{values.batch} clips at once, {values.threads} cores")
    print("\n".join(sides.table(results, values.batch, "call")))


def _side(name: str, program: str, setting: dict[str, Any]) -> sides.Side:
    once = json.dumps({**setting, "kind": name, "program": program})
    return sides.Side(name, sides.command("export", f"--once={once}"))


def measure(
    kind: str, program: str, checkpoint: str, batch: int, calls: int, threads: int
) -> dict[str, Any]:
    """Times one side.

    Args:
      kind: "avjax", "stablehlo" or "onnx".
      program: the model or the exported program.
      checkpoint: the model, for the shapes of its inputs.
      batch: clips at once.
      calls: timed calls.
      threads: cores.

    Returns:
      ``seconds`` of each call and ``memory`` in bytes.
    """
    card = load_model(checkpoint)[1]
    generator = np.random.default_rng(0)
    inputs: Inputs = {}
    for name, (shape, dtype) in signature(card).items():
        x = 255 * generator.random((batch, *shape[1:]), np.float32)
        inputs[name] = x > 0 if dtype == "bool" else x.astype(dtype)
    call = RUNNERS[kind](program, inputs, threads)
    call()
    peak_memory.start()
    seconds = []
    for _ in range(calls):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "memory": peak_memory.bytes_since_start()}


def _avjax(program: str, inputs: Inputs, threads: int) -> Callable[[], Any]:
    model = Model.load(program)
    given = dict(inputs)
    mfcc = given.pop("mfcc", given.pop("log_mel", None))
    return lambda: model.logits(mfcc, given.get("frames"))


def _stablehlo(program: str, inputs: Inputs, threads: int) -> Callable[[], Any]:
    run = jax.jit(jax.export.deserialize(bytearray(Path(program).read_bytes())).call)
    return lambda: jax.block_until_ready(run(*inputs.values()))


def _onnx(program: str, inputs: Inputs, threads: int) -> Callable[[], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(program, options, providers=providers)
    return lambda: session.run(list(OUTPUTS), inputs)


RUNNERS = {"avjax": _avjax, "stablehlo": _stablehlo, "onnx": _onnx}
