"""Measures everything that matters on a GPU in one go, the most telling first.

python tools/benchmark.py gpu --out DIR --reference CLONE
python tools/benchmark.py gpu --out DIR --quick

Each measurement is a separate process with a time limit. Results are written to DIR/results.jsonl
as they come, and DIR/report.md and DIR/report.png are made anew after each, so that nothing is lost
when the --minutes are over; what was left out is named. Needs JAX, Flax, Optax and Matplotlib, and
PyTorch for --reference; avjax need not be installed. --quick makes every measurement with tiny
shapes, on a CPU too: it tries the program, not the device.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags
from benchmarks import gpu_plan, gpu_report, gpu_tasks, sides

from avjax.errors import InputError


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""

    def text(name: str, help_: str) -> None:
        flags.DEFINE_string(name, None, help_, flag_values=values)

    text("out", "Folder for the results.")
    text("reference", "Clone of the reference's repository.")
    text("reference_python", "Python that runs the reference (default: this one).")
    text("task", "Measurement as JSON: measure it in this process.")
    flags.DEFINE_list("only", [], "Measurements whose names contain these.", flag_values=values)
    flags.DEFINE_float("minutes", 8, "Time for all of them.", 0.1, flag_values=values)
    flags.DEFINE_bool("quick", False, "Tiny shapes.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Runs the plan, or one task of it."""
    if values.task:
        return gpu_tasks.run(json.loads(values.task))
    if positional or not values.out:
        raise InputError("give --out, a folder for the results, and no argument without a flag")
    end = time.monotonic() + 60 * values.minutes
    out = Path(values.out)
    out.mkdir(parents=True, exist_ok=True)
    results = _Results(out / "results.jsonl")
    with tempfile.TemporaryDirectory() as cache:  # so that the first programs start cold
        for task in gpu_plan.plan(values.quick, bool(values.reference)):
            if values.only and not any(part in task["name"] for part in values.only):
                continue
            if task["kind"] == "trace":
                task["program"] = str((out / "program.txt.gz").resolve())
            task = gpu_plan.resolved(task, results.by_name)
            seconds = min(task["limit"], end - time.monotonic())
            results.add(task, _measure(task, seconds, values, cache))
            gpu_report.write(results.all, out)
    print((out / "report.md").read_text())


class _Results:
    """Results so far, and their file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.all: list[dict[str, Any]] = []
        path.write_text("")

    @property
    def by_name(self) -> dict[str, Any]:
        return {entry["task"]["name"]: entry["result"] for entry in self.all}

    def add(self, task: dict[str, Any], result: dict[str, Any]) -> None:
        self.all.append({"task": task, "result": result})
        with self._path.open("a") as file:
            file.write(json.dumps(self.all[-1]) + "\n")
        print(f"{task['name']}: {gpu_report.summary(result)}", flush=True)


def _measure(
    task: dict[str, Any], seconds: float, values: flags.FlagValues, cache: str
) -> dict[str, Any]:
    """Measures a task in a process of its own; returns its result, or ``{"failed": reason}``."""
    if seconds < 5:
        return {"failed": "no time left"}
    start = time.perf_counter()
    environment = sides.environment(
        **_flags(task), TF_CPP_MIN_LOG_LEVEL="2", JAX_COMPILATION_CACHE_DIR=cache
    )
    try:
        process = subprocess.run(
            _command(task, values),
            capture_output=True,
            text=True,
            timeout=seconds,
            env=environment,
        )
    except subprocess.TimeoutExpired as late:
        reason = f"not done within {seconds:.0f} s"
        result = _last_result((late.stdout or b"").decode(errors="replace"))
        return {**result, "unfinished": reason} if result else {"failed": reason}
    wall = time.perf_counter() - start
    result = _last_result(process.stdout)
    if process.returncode == 0 and result:
        return {**result, "wall": wall}
    if "RESOURCE_EXHAUSTED" in process.stderr or "OutOfMemory" in process.stderr:
        return {"failed": "does not fit", "wall": wall}
    reason = sides.last_line(process.stderr)[:300] or f"status {process.returncode}"
    return {"failed": reason, "wall": wall}


def _last_result(output: str) -> dict[str, Any] | None:
    """Returns the last whole line of JSON of a process that may have been stopped while writing."""
    for line in reversed(output.splitlines()):
        with contextlib.suppress(ValueError):
            return dict(json.loads(line))
    return None


def _flags(task: dict[str, Any]) -> dict[str, str]:
    """Environment variables that a task asks for, added to those set."""
    added = dict(task.get("environment", {}))
    if "XLA_FLAGS" in added:
        added["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {added['XLA_FLAGS']}".strip()
    return added


def _command(task: dict[str, Any], values: flags.FlagValues) -> Sequence[str]:
    if task["kind"] != "reference":
        return sides.command("gpu", f"--task={json.dumps(task)}", f"--out={values.out}")
    python = values.reference_python or sys.executable
    clone = str(Path(values.reference).resolve())
    return [python, str(gpu_tasks.PEER), clone, json.dumps(task["setting"]), task["form"]]
