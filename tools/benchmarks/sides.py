"""Sides of a comparison, measured in turn, each in a separate process."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from absl import flags

from avjax.errors import InputError
from avjax.runtime.compilation import available_cores

ROOT = Path(__file__).resolve().parents[2]
Result = dict[str, Any]  # one JSON line of a side


class Side(NamedTuple):
    """A program to measure.

    Attributes:
      name: name in tables.
      command: its last line of output is JSON.
      environment: variables added to this process's.
      root: checkout to run in and import from; None for the current folder and this checkout.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = {}
    root: Path | None = None


def checkout(
    name: str, root: Path, subject: str, *arguments: str, environment: Mapping[str, str] = {}
) -> Side:
    """Returns a checkout of avjax as a side, measured by the checkout's own benchmark."""
    return Side(name, command(subject, *arguments, root=root), environment, root)


def command(subject: str, *arguments: str, root: Path = ROOT) -> list[str]:
    """Returns the command that runs a subject of a checkout's benchmark."""
    return [sys.executable, str(root / "tools" / "benchmark.py"), subject, *arguments]


def bind(threads: int) -> None:
    """Binds this process and its children to ``threads`` cores.

    Raises:
      InputError: there are fewer cores.
    """
    if threads > available_cores():
        raise InputError(f"--threads={threads}, but there are {available_cores()} cores; give less")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def environment(root: Path = ROOT, **added: str) -> dict[str, str]:
    """Returns this process's environment with a checkout first in PYTHONPATH."""
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **added}


def measure(side: Side) -> Result:
    """Measures a side once; returns its result, or ``{"failed": reason}``."""
    variables = environment(side.root or ROOT, **side.environment)
    process = subprocess.run(
        side.command, capture_output=True, text=True, env=variables, cwd=side.root
    )
    lines = process.stdout.strip().splitlines()
    if process.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    if process.returncode in (-9, 137) or "RESOURCE_EXHAUSTED" in process.stderr:
        return {"failed": "does not fit"}
    return {"failed": last_line(process.stderr)[:160] or f"status {process.returncode}"}


def last_line(text: str) -> str:
    """Returns the last line of a program's output, without ``error: ``."""
    return ["", *text.strip().splitlines()][-1].removeprefix("error: ")


def alternate(sides: Sequence[Side], rounds: int) -> dict[str, list[Result]]:
    """Measures all sides in turn, every second round in reverse order.

    Skips a side once it has failed.
    """
    results: dict[str, list[Result]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            if not failure(results[side.name]):
                results[side.name].append(measure(side))
        print(f"round {number + 1} of {rounds} done, load {os.getloadavg()[0]:.1f}", flush=True)
    return results


def failure(rounds: Sequence[Result]) -> str | None:
    """Returns why a side could not be measured, if so."""
    return next((result["failed"] for result in rounds if "failed" in result), None)


def seconds(rounds: Sequence[Result]) -> list[float]:
    """Returns the median of each round."""
    return [median(result["seconds"]) for result in rounds]


def table(results: Mapping[str, Sequence[Result]], clips: int, unit: str = "step") -> list[str]:
    """Returns lines of text: time, clips per second, memory, and ratios to the first side."""
    lines = [f"{'':24}{f's/{unit}':>10}{'range':>18}{'clips/s':>10}{'peak GB':>9}{'ratio':>7}"]
    lines[0] += f"{'memory':>8}"
    baseline = next(iter(results.values()))
    for name, rounds in results.items():
        reason = failure(rounds)
        if reason:
            lines.append(f"{name:24}{reason}")
            continue
        times = seconds(rounds)
        middle, memory = median(times), median(result["memory"] for result in rounds)
        spread = f"{min(times):.3f} to {max(times):.3f}"
        line = f"{name:24}{middle:10.3f}{spread:>18}{clips / middle:10.2f}{memory / 1e9:9.2f}"
        if rounds is not baseline and not failure(baseline):
            line += f"{middle / median(seconds(baseline)):6.2f}x"
            line += f"{median(result['memory'] for result in baseline) / memory:7.2f}x"
        lines.append(line)
    lines.append(f"ratio: time over that of {next(iter(results))}; memory: the inverse ratio")
    return lines


def define_run_flags(values: flags.FlagValues) -> None:
    """Defines the flags of subjects that train on a prepared dataset."""
    flags.DEFINE_string("data", None, "Prepared dataset.", flag_values=values)
    flags.DEFINE_string("config", "configs/ia_softhard.py", "Configuration.", flag_values=values)
    flags.DEFINE_string("fold", "published", "Fold.", flag_values=values)
    flags.DEFINE_integer("batch", 8, "Clips in a batch.", 1, flag_values=values)
    flags.DEFINE_integer("threads", 2, "Cores.", 1, flag_values=values)


def begin_run(values: flags.FlagValues, positional: Sequence[str]) -> None:
    """Checks the flags of `define_run_flags` and binds the cores.

    Raises:
      InputError: no dataset, or an argument without a flag, is given.
    """
    if positional or not values.data:
        raise InputError("give --data, a prepared dataset, and no argument without a flag")
    bind(values.threads)


def run_flags(values: flags.FlagValues, workdir: Path) -> list[str]:
    """Returns the flags of `avjax.train` for one run."""
    return [
        f"--config={(ROOT / values.config).resolve()}",
        f"--workdir={workdir}",
        f"--config.data.dir={Path(values.data).resolve()}",
        f"--config.batch_size={values.batch}",
        f"--config.data.fold={values.fold}",
    ]
