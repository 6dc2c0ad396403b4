"""Seconds from the command to the end of the first training step, cold and with a warm cache.

python tools/benchmark.py startup --data DATA [--config configs/ia_softhard.py]
python tools/benchmark.py startup --data DATA --against CHECKOUT

DATA is a prepared dataset; its clips give the step's shapes (15 frames of 224 x 224 pixels are the
published ones). Each time is that of a process of its own, which is stopped once its first step is
done. Cold means an empty compilation cache, warm the one that a cold start has left. With --against
another checkout of avjax, with its own configs, takes turns with this one.
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

# Trains as the command does, and tells when the first step's sums are there.
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

# What --once does, for a checkout from before it.
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
    """The subject's flags."""
    sides.define_run_flags(values)
    against.define_flags(values)
    flags.DEFINE_bool("once", False, "Measure this checkout once.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints."""
    sides.begin_run(values, positional)
    if values.once:
        return print(json.dumps(measure(values)), flush=True)
    both = [_side(name, root, values) for name, root in against.checkouts(values).items()]
    found = sides.alternate(both, against.rounds(values))
    for name, told in found.items():
        if why := sides.failure(told):
            raise InputError(f"{name}: {why}")
        for kind in told[0]:
            seconds = [one[kind] for one in told]
            spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
            text = f"{median(seconds):.1f} s to the end of the first step {spread}"
            print(f"{name}, {kind} cache: {text}")
    figures = {"cold": lambda one: one["cold"], "warm": lambda one: one["warm"]}
    print("\n".join(against.report(found, figures)))


def _side(name: str, root: Path, values: flags.FlagValues) -> sides.Side:
    given = {key: values[key].value for key in ("config", "fold", "batch", "threads")}
    given["data"] = Path(values.data).resolve()
    arguments = [f"--{key}={value}" for key, value in given.items()]
    if '"once"' in (root / "tools" / "benchmarks" / "startup.py").read_text():
        return sides.checkout(name, root, "startup", "--once", *arguments)
    return sides.Side(name, [sys.executable, "-c", BEFORE_ONCE, *arguments], root=root)


def measure(values: flags.FlagValues) -> dict[str, float]:
    """Seconds of a cold start and of a warm one."""
    with tempfile.TemporaryDirectory() as scratch:
        return {kind: _first_step(values, Path(scratch), kind) for kind in ("cold", "warm")}


def _first_step(values: flags.FlagValues, scratch: Path, kind: str) -> float:
    command = [sys.executable, "-c", PROGRAM, *sides.run_flags(values, scratch / kind)]
    environment = sides.environment(JAX_COMPILATION_CACHE_DIR=str(scratch / "cache"))
    with (scratch / "messages").open("w+") as messages:
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=messages,
            text=True,
            env=environment,
            cwd=sides.ROOT,  # Python looks there first
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
            process.send_signal(signal.SIGKILL)
        messages.seek(0)
        if "first step done" not in line:
            raise InputError(f"no first step: {sides.last_line(messages.read())}")
    return seconds
