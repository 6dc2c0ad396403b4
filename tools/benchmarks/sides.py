"""Sides of a comparison: each measured in a process of its own, one alive at a time, in turn."""

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
Found = dict[str, Any]


class Side(NamedTuple):
    """A program to measure.

    Attributes:
      name: in tables.
      command: prints one line of JSON, its last one.
      environment: added to this process's.
      root: of the checkout that it runs in and imports from; None for this folder and this one.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = {}
    root: Path | None = None


def checkout(
    name: str, root: Path, subject: str, *arguments: str, environment: Mapping[str, str] = {}
) -> Side:
    """A checkout of avjax, measured by its own benchmark."""
    return Side(name, command(subject, *arguments, root=root), environment, root)


def command(subject: str, *arguments: str, root: Path = ROOT) -> list[str]:
    """Runs a subject of a checkout's benchmark in a process of its own."""
    return [sys.executable, str(root / "tools" / "benchmark.py"), subject, *arguments]


def bind(threads: int) -> None:
    """Leaves this process, and those that it starts, so many cores.

    Raises:
      InputError: there are fewer.
    """
    if threads > available_cores():
        raise InputError(f"--threads={threads}, but there are {available_cores()} cores; give less")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def environment(root: Path = ROOT, **added: str) -> dict[str, str]:
    """This process's variables, with a checkout before whatever else Python finds."""
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **added}


def measure(side: Side) -> Found:
    """What a side tells; ``{"failed": why}`` where it dies."""
    variables = environment(side.root or ROOT, **side.environment)
    done = subprocess.run(
        side.command, capture_output=True, text=True, env=variables, cwd=side.root
    )
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        return dict(json.loads(lines[-1]))
    if done.returncode in (-9, 137) or "RESOURCE_EXHAUSTED" in done.stderr:
        return {"failed": "does not fit"}
    return {"failed": last_line(done.stderr)[:160] or f"status {done.returncode}"}


def last_line(text: str) -> str:
    """Where programs say why they failed."""
    return ["", *text.strip().splitlines()][-1].removeprefix("error: ")


def alternate(sides: Sequence[Side], rounds: int) -> dict[str, list[Found]]:
    """Measures all sides in turn, every second round in reverse order.

    One that failed is left out from then on.
    """
    found: dict[str, list[Found]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            if not any("failed" in told for told in found[side.name]):
                found[side.name].append(measure(side))
        print(f"round {number + 1} of {rounds} done, load {os.getloadavg()[0]:.1f}", flush=True)
    return found


def failure(told: Sequence[Found]) -> str | None:
    """Why a side could not be measured."""
    return next((one["failed"] for one in told if "failed" in one), None)


def seconds(told: Sequence[Found]) -> list[float]:
    """The median of each round."""
    return [median(one["seconds"]) for one in told]


def table(found: Mapping[str, Sequence[Found]], clips: int, unit: str = "step") -> list[str]:
    """Lines of text: time, clips a second, memory, and ratios to the first side."""
    lines = [f"{'':24}{f's/{unit}':>10}{'range':>18}{'clips/s':>10}{'peak GB':>9}{'ratio':>7}"]
    lines[0] += f"{'memory':>8}"
    own = next(iter(found.values()))
    for name, told in found.items():
        why = failure(told)
        if why:
            lines.append(f"{name:24}{why}")
            continue
        times = seconds(told)
        middle, memory = median(times), median(one["memory"] for one in told)
        spread = f"{min(times):.3f} to {max(times):.3f}"
        line = f"{name:24}{middle:10.3f}{spread:>18}{clips / middle:10.2f}{memory / 1e9:9.2f}"
        if told is not own and not failure(own):
            line += f"{middle / median(seconds(own)):6.2f}x"
            line += f"{median(one['memory'] for one in own) / memory:7.2f}x"
        lines.append(line)
    lines.append("ratio: time of that side over ours; memory: ours over that side's")
    return lines


def define_run_flags(values: flags.FlagValues) -> None:
    """Flags of subjects that train on a prepared dataset."""
    flags.DEFINE_string("data", None, "Prepared dataset.", flag_values=values)
    flags.DEFINE_string("config", "configs/ia_softhard.py", "Configuration.", flag_values=values)
    flags.DEFINE_string("fold", "published", "Fold of the dataset.", flag_values=values)
    flags.DEFINE_integer("batch", 8, "Clips of a batch.", 1, flag_values=values)
    flags.DEFINE_integer("threads", 2, "Cores.", 1, flag_values=values)


def begin_run(values: flags.FlagValues, positional: Sequence[str]) -> None:
    """Checks those flags and binds the cores.

    Raises:
      InputError: no dataset is given, or arguments without a flag are.
    """
    if positional or not values.data:
        raise InputError("give --data, a prepared dataset, and no argument without a flag")
    bind(values.threads)


def run_flags(values: flags.FlagValues, workdir: Path) -> list[str]:
    """Flags of `avjax.train` for one run of a subject."""
    return [
        f"--config={(ROOT / values.config).resolve()}",
        f"--workdir={workdir}",
        f"--config.data.dir={Path(values.data).resolve()}",
        f"--config.batch_size={values.batch}",
        f"--config.data.fold={values.fold}",
    ]
