"""Kills commands at any moment, starts them again, and compares the results.

python tools/kills.py --kills 25

Each command is run undisturbed once. Then it is killed (SIGKILL) again and again: half of the times
at a random moment, half at a chosen call that changes a file (opening, renaming, removing, fsync,
new folder), or some milliseconds later, which is inside a save. After at most three kills in a row
it runs to its end, and its result must be that of the undisturbed run: the same bytes of datasets
and downloads; the same bits of parameters, optimizer state and best model; the same figures but
times; nothing left over. Prints a Markdown table; the exit status is 1 if anything differs.
"""

import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    import fault_jobs

IN_A_ROW = 3
LONGEST_DELAY = 0.03  # seconds after a call
COLUMNS = ("kills", "in a save", "runs to the end", "same", "different", "failed", "seconds")


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return cli.run(argv, define_flags, job, __doc__ or "")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer("kills", 25, "Kills of each job.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the moments.", 0, flag_values=values)
    fault_jobs.define_flag(values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prints the table; returns 1 if a result differs."""
    cli.no_arguments(positional)
    names = fault_jobs.chosen(values)
    print(f"| job | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 1)}", flush=True)
    faults = 0
    with tempfile.TemporaryDirectory(prefix="avjax-kills-") as text:
        folder = Path(text)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        with fault_jobs.made(names, folder / "input") as jobs:
            for name, each in jobs.items():
                rng = np.random.default_rng([values.seed, fault_jobs.NAMES.index(name)])
                counts = Killed(name, each, folder / "work", rng).times(values.kills)
                print(f"| {name} | {' | '.join(str(counts[x]) for x in COLUMNS)} |", flush=True)
                faults += counts["different"] + counts["failed"]
    return int(faults > 0)


class Killed:
    """A job that is killed and started again."""

    def __init__(self, name: str, each: Any, folder: Path, rng: np.random.Generator) -> None:
        self._name, self._job, self._folder, self._rng = name, each, folder, rng
        self._out, self._log = folder / "place" / "out", folder / "log"

    def times(self, kills: int) -> dict[str, int]:
        """Kills the job so many times; returns the counts of `COLUMNS`."""
        counts = dict.fromkeys(COLUMNS, 0)
        begin = time.monotonic()
        expected, num_calls, seconds = self._undisturbed()
        while counts["kills"] < kills:
            self._clear()
            moments = []
            for number in range(IN_A_ROW + 1):
                is_last = number == IN_A_ROW or counts["kills"] >= kills
                moment, status, in_save = self._run(is_last, num_calls, seconds)
                moments.append(moment)
                if status != -signal.SIGKILL:
                    break
                counts["kills"] += 1
                counts["in a save"] += in_save
            counts["runs to the end"] += 1
            outcome = self._outcome(status, expected)
            counts[outcome] += 1
            if outcome != "same":
                print(f"{outcome}: {self._name}, killed {', '.join(moments)}", file=sys.stderr)
                print(self._log.read_text()[-2000:], file=sys.stderr, flush=True)
        counts["seconds"] = round(time.monotonic() - begin)
        return counts

    def _clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._out.parent.mkdir(parents=True)

    def _undisturbed(self) -> tuple[Any, int, float]:
        """Returns the result, the number of file calls, and the seconds of a run."""
        calls = self._folder / "calls"

        def count(number: int, *_: object) -> None:
            calls.write_text(str(number))

        for _ in range(2):  # the first one compiles
            self._clear()
            begin = time.monotonic()
            watch = fault_jobs.FileCalls(self._out.parent, count).watch
            status = fault_jobs.finish(fault_jobs.start(self._job, self._out, self._log, watch))
            seconds = time.monotonic() - begin
            if status:
                raise InputError(
                    f"{self._name} fails undisturbed ({status}): {self._log.read_text()[:3000]}"
                )
        return (
            fault_jobs.read_result(self._job, self._out, self._log),
            int(calls.read_text()),
            seconds,
        )

    def _run(self, is_last: bool, num_calls: int, seconds: float) -> tuple[str, int, bool]:
        """Runs the job, killed at some moment; returns moment, status, and whether in a save."""
        if is_last:
            status = fault_jobs.finish(fault_jobs.start(self._job, self._out, self._log))
            return "not", status, False
        if self._rng.random() < 0.5:
            moment = float(self._rng.uniform(0, seconds))
            process = fault_jobs.start(self._job, self._out, self._log)
            return f"at {moment:.2f} s", fault_jobs.finish(process, kill_after=moment), False
        number = int(self._rng.integers(1, num_calls + 1))
        delay = float(self._rng.choice([0, self._rng.uniform(0, LONGEST_DELAY)]))

        def kill(call: int, *_: object) -> None:
            if call == number and not delay:
                os.kill(os.getpid(), signal.SIGKILL)
            if call == number:
                threading.Timer(delay, os.kill, [os.getpid(), signal.SIGKILL]).start()

        watch = fault_jobs.FileCalls(self._out.parent, kill).watch
        process = fault_jobs.start(self._job, self._out, self._log, watch)
        return f"{delay:.3f} s after call {number}", fault_jobs.finish(process), True

    def _outcome(self, status: int, expected: Any) -> str:
        if status:
            return "failed"
        try:
            result = fault_jobs.read_result(self._job, self._out, self._log)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            return "failed"
        if result != expected:
            fault_jobs.print_difference(expected, result, "result")
        return "same" if result == expected else "different"


if __name__ == "__main__":
    sys.exit(main())
