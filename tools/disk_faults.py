"""Lets the disk fail at each write of every command, and counts what happens.

python tools/disk_faults.py --tries 20

Each command is run undisturbed once, which lists its calls that change files. Then it is run with
one fault: from a chosen call on, all such calls fail because the disk is full (ENOSPC), the quota
is used up (EDQUOT), permission is lost (EACCES) or the disk is read-only (EROFS). Where users may
mount a small disk of their own, it is also run on ones that are really full after a share of what
the command needs, which libraries in C++ feel too. Then it is run again without the fault. A fault
must end the command with status 1 and one line that names a file, and lose nothing that was saved;
the next run must give the undisturbed result. Prints a Markdown table; the exit status is 1 if a
fault did not.
"""

import contextlib
import errno
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    import fault_jobs

NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
_NEED_SPACE = (errno.ENOSPC, errno.EDQUOT)  # removing and renaming files still works
SIZES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1)  # of a full disk, as a share of the result's size
_NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]
COLUMNS = ("one line", "goes on", "no line", "traceback", "lost", "different", "failed")
FAULTS = COLUMNS[2:]


class Call(NamedTuple):
    """A call that changes files: its number, name and path."""

    number: int
    name: str
    path: str

    @property
    def kind(self) -> str:
        """The call without what differs between its repetitions."""
        return f"{self.name} {re.sub(r'[0-9a-f]{8,}|[0-9]+', 'N', self.path)}"


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return cli.run(argv, define_flags, job, __doc__ or "")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer("tries", 20, "Calls that fail in each job.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the choice.", 0, flag_values=values)
    fault_jobs.define_flag(values)
    flags.DEFINE_bool("full_disks", True, "Also fill small disks.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prints the table; returns 1 if a fault was not handled."""
    cli.no_arguments(positional)
    names = fault_jobs.chosen(values, [x for x in fault_jobs.NAMES if x != "train on 4 devices"])
    has_disks = values.full_disks and _enter_namespace()
    if values.full_disks and not has_disks:
        print("note: the system lets users mount nothing; no disk is filled", file=sys.stderr)
    print(f"| job | fault | tries | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 3)}")
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="avjax-disk-") as text:
        folder = Path(text)
        os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder / "jax"))
        with fault_jobs.made(names, folder / "input") as jobs:
            for name, each in jobs.items():
                rng = np.random.default_rng([values.seed, fault_jobs.NAMES.index(name)])
                faulty = Faulty(name, each, folder / "work")
                rows = {"failing calls": faulty.failing_calls(values.tries, rng)}
                if has_disks:
                    rows["full disks"] = faulty.full_disks()
                for kind, counts in rows.items():
                    cells = [name, kind, str(counts.total()), *(str(counts[x]) for x in COLUMNS)]
                    print(f"| {' | '.join(cells)} |", flush=True)
                    total += counts
    return int(any(total[name] for name in FAULTS))


def _enter_namespace() -> bool:
    """Starts this program again as one that may mount, if the system lets users do so."""
    if os.environ.get("AVJAX_MAY_MOUNT"):
        return True
    if not shutil.which("unshare") or subprocess.run([*_NAMESPACE, "true"]).returncode:
        return False
    os.environ["AVJAX_MAY_MOUNT"] = "1"
    os.execvp(_NAMESPACE[0], [*_NAMESPACE, sys.executable, *sys.argv])


class Faulty:
    """A job whose disk fails."""

    def __init__(self, name: str, each: fault_jobs.Job, folder: Path) -> None:
        """Runs the job undisturbed."""
        self._name, self._job, self._folder = name, each, folder
        self._place, self._log = folder / "place", folder / "log"
        self._out = self._place / "out"
        self._clear()
        calls = folder / "calls"

        def note(number: int, call: str, path: str) -> None:
            with calls.open("a") as file:
                file.write(f"{number}\t{call}\t{path}\n")

        if status := self._run(fault_jobs.FileCalls(self._place, note).watch):
            raise InputError(f"{name} fails undisturbed ({status}): {self._log.read_text()[:2000]}")
        rows = [line.split("\t") for line in calls.read_text().splitlines()]
        self._calls = [Call(int(number), *rest) for number, *rest in rows]
        self._expected = fault_jobs.read_result(each, self._out, self._log)
        files = [path for path in self._place.rglob("*") if path.is_file()]
        self._bytes = sum(-(-path.stat().st_size // 4096) * 4096 for path in files)

    def failing_calls(self, tries: int, rng: np.random.Generator) -> Counter[str]:
        """Lets calls fail: one of each kind, in random order, then others."""
        order = [self._calls[i] for i in rng.permutation(len(self._calls))]
        first = {call.kind: call for call in reversed(order)}
        chosen = [*first.values(), *(call for call in order if call not in first.values())]
        counts: Counter[str] = Counter()
        for index, call in enumerate(chosen[:tries]):
            number = NUMBERS[(index + int(rng.integers(2))) % len(NUMBERS)]
            fault = f"{errno.errorcode[number]} from call {call.number} on: {call.kind}"
            self._clear()
            counts[self._try(self._failing(call.number, number), fault)] += 1
        return counts

    def _failing(self, first: int, number: int) -> Callable[[], None]:
        def fail(call: int, name: str, path: str) -> None:
            if call == first:
                saved = fault_jobs.saved(self._place)
                self._log.with_name("saved").write_text(str(saved))
            if call >= first and (number not in _NEED_SPACE or name in ("open", "mkdir", "fsync")):
                # As the system's errors: those of a file that is open name none.
                where = () if name == "fsync" else (f"{self._place}{path}",)
                raise OSError(number, os.strerror(number), *where)

        return fault_jobs.FileCalls(self._place, fail).watch

    def full_disks(self) -> Counter[str]:
        """Runs the job on disks that are too small, then on ones that have grown."""
        counts: Counter[str] = Counter()
        for share in SIZES:
            size = int(share * self._bytes) + 4096
            self._clear()
            subprocess.run(
                ["mount", "-t", "tmpfs", f"-osize={size}", "disk", self._place], check=True
            )
            grow = ["mount", "-o", f"remount,size={64 * self._bytes}", self._place]
            try:
                fault = f"a full disk of {size} bytes ({share:.0%})"
                counts[
                    self._try(lambda: None, fault, lambda g=grow: subprocess.run(g, check=True))
                ] += 1
            finally:
                subprocess.run(["umount", self._place], check=True)
        return counts

    def _try(
        self, before: Callable[[], None], fault: str, mend: Callable[[], Any] = lambda: None
    ) -> str:
        """Runs the job with a fault, mends that, runs it again; returns the outcome."""
        saved = self._log.with_name("saved")
        status = self._run(before)
        text = self._log.read_text()
        outcome = self._judge(status, text)
        if saved.exists() and fault_jobs.saved(self._place) < int(saved.read_text()):
            outcome = "lost"
        mend()
        again = self._run(lambda: None)
        if again:
            outcome, text = "failed", text + self._log.read_text()
        elif (result := fault_jobs.read_result(self._job, self._out, self._log)) != self._expected:
            outcome = "different"
            fault_jobs.print_difference(self._expected, result, "result")
        if outcome in FAULTS:
            print(f"{outcome}: {self._name}, {fault}\n{text[-2500:]}", file=sys.stderr, flush=True)
        elif outcome == "one line" and os.environ.get("AVJAX_SHOW"):
            print(f"{fault}\n  {text.splitlines()[-1]}", file=sys.stderr, flush=True)
        return outcome

    def _judge(self, status: int, text: str) -> str:
        """Returns the outcome of a run with a fault."""
        errors = [line for line in text.splitlines() if line.startswith("error: ")]
        if "Traceback" in text or status not in (0, 1):
            return "traceback"
        if not status:
            return "goes on"
        return "one line" if len(errors) == 1 and str(self._place) in errors[0] else "no line"

    def _run(self, before: Callable[[], None]) -> int:
        return fault_jobs.finish(fault_jobs.start(self._job, self._out, self._log, before))

    def _clear(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self._folder)
        self._place.mkdir(parents=True)


if __name__ == "__main__":
    sys.exit(main())
