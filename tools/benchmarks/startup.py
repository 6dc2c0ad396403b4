"""Seconds from the command to the end of the first training step, cold and with a warm cache.

python tools/benchmark.py startup --data DATA [--config configs/ia_softhard.py]

DATA is a prepared dataset; its clips give the step's shapes (15 frames of 224 x 224 pixels are the
published ones). Each time is that of a process of its own, which is stopped once its first step is
done. Cold means an empty compilation cache, warm the one that a cold start has left.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from absl import flags
from benchmarks import sides

from avjax.errors import InputError

# Trains as the command does, and tells when the first step's sums are there.
PROGRAM = """
import sys
from avjax import epochs, train
import jax
compiled = epochs.compile_step
def compile_step(*arguments):
    step = compiled(*arguments)
    def run(*inputs):
        found = jax.block_until_ready(step(*inputs))
        print("first step done", flush=True)
        return found
    return run
train.compile_step = compile_step
sys.exit(train.main(sys.argv))
"""


define_flags = sides.define_run_flags


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints."""
    sides.begin_run(values, positional)
    times: dict[str, list[float]] = {"cold": [], "warm": []}
    for number in range(values.rounds):
        with tempfile.TemporaryDirectory() as scratch:
            for kind in times:
                times[kind].append(_first_step(values, Path(scratch), kind))
        print(f"round {number + 1} of {values.rounds} done, load {os.getloadavg()[0]:.1f}")
    for kind, seconds in times.items():
        spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
        print(f"{kind} cache: {median(seconds):.1f} s to the end of the first step {spread}")


def _first_step(values: flags.FlagValues, scratch: Path, kind: str) -> float:
    command = [sys.executable, "-c", PROGRAM, *sides.run_flags(values, scratch / kind)]
    environment = sides.environment(JAX_COMPILATION_CACHE_DIR=str(scratch / "cache"))
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        seconds = time.perf_counter() - began
        process.send_signal(signal.SIGKILL)
    if "first step done" not in line:
        raise InputError(f"{' '.join(command[3:])} ended before its first step; see above")
    return seconds
