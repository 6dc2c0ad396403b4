"""Times the start of training, up to the end of the first step, with a cold and a warm cache.

python tools/benchmark.py startup --data DATA [--config configs/ia_softhard.py]
python tools/benchmark.py startup --data DATA --against CHECKOUT

DATA is a prepared dataset; its clips determine the shapes (the published ones are 15 frames of
224 x 224 pixels). Every start is a separate process, killed after its first step. Cold means an
empty compilation cache, warm the cache left by a cold start. --against compares with
another checkout of avjax and its configs, in turn.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from absl import flags
from benchmarks import against, sides

from avjax.errors import InputError

# Trains like the command and prints a line after the first step.
PROGRAM = """
import sys
from avjax import train
import jax
class Loop(train.TrainingLoop):
    def compile_call(self, step):
        call = super().compile_call(step)
        def run(*inputs):
            results = jax.block_until_ready(call(*inputs))
            print("first step done", flush=True)
            return results
        return run
train.TrainingLoop = Loop
sys.exit(train.main(sys.argv))
"""

# Replaces --once in checkouts that lack it.
BEFORE_ONCE = """
import json, sys, tempfile
from pathlib import Path
sys.path.insert(0, "tools")
from absl import flags
from benchmarks import startup
values = flags.FlagValues()
startup.define_flags(values)
values(sys.argv)
with tempfile.TemporaryDirectory() as scratch:
    seconds = {kind: startup._first_step(values, Path(scratch), kind) for kind in ("cold", "warm")}
print(json.dumps(seconds))
"""


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    sides.define_run_flags(values)
    against.define_flags(values)
    flags.DEFINE_bool("once", False, "Measure this checkout once.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints the figures."""
    sides.begin_run(values, positional)
    if values.once:
        return print(json.dumps(measure(values)), flush=True)
    checkouts = [_side(name, root, values) for name, root in against.checkouts(values).items()]
    results = sides.alternate(checkouts, against.rounds(values))
    for name, rounds in results.items():
        if reason := sides.failure(rounds):
            raise InputError(f"{name}: {reason}")
        for kind in rounds[0]:
            seconds = [result[kind] for result in rounds]
            spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
            text = f"{median(seconds):.1f} s to the end of the first step {spread}"
            print(f"{name}, {kind} cache: {text}")
    figures = {"cold": lambda result: result["cold"], "warm": lambda result: result["warm"]}
    print("\n".join(against.report(results, figures)))


def _side(name: str, root: Path, values: flags.FlagValues) -> sides.Side:
    settings = {key: values[key].value for key in ("config", "fold", "batch", "threads")}
    settings["data"] = Path(values.data).resolve()
    arguments = [f"--{key}={value}" for key, value in settings.items()]
    if '"once"' in (root / "tools" / "benchmarks" / "startup.py").read_text():
        return sides.checkout(name, root, "startup", "--once", *arguments)
    return sides.Side(name, [sys.executable, "-c", BEFORE_ONCE, *arguments], root=root)


def measure(values: flags.FlagValues) -> dict[str, float]:
    """Returns the seconds of a cold and of a warm start."""
    with tempfile.TemporaryDirectory() as scratch:
        return {kind: _first_step(values, Path(scratch), kind) for kind in ("cold", "warm")}


def _first_step(values: flags.FlagValues, scratch: Path, kind: str) -> float:
    command = [sys.executable, "-c", PROGRAM, *sides.run_flags(values, scratch / kind)]
    environment = sides.environment(JAX_COMPILATION_CACHE_DIR=str(scratch / "cache"))
    with (scratch / "messages").open("w+") as messages:
        start = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env=environment,
            cwd=sides.ROOT,  # first in Python's path
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - start
            process.send_signal(signal.SIGKILL)
        messages.seek(0)
        if "first step done" not in line:
            raise InputError(f"no first step: {sides.last_line(messages.read())}")
    return seconds
