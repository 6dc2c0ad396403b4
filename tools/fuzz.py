"""Reads damaged and senseless files of every kind in a child process, and counts what happens.

python tools/fuzz.py --inputs 5000 [--kinds media,weights] [--only media:123]

Makes small valid files of each kind, changes one of them for every input (bytes; or values behind
renewed digests and checksums), and reads it as a command does. "accepted" and "refused", by an
InputError that names the file, are right; "library" is refused with a library's words. Anything
else is a fault, which is told, its file kept in --keep, and sets the exit status: "error" another
exception, "unnamed" an InputError without the place, "memory" more than --megabytes, "hang" more
than --seconds, "crash" the end of the process. --only repeats an input, except for runs, as Orbax
names the files of a training state at random.
"""

import contextlib
import gc
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the tests write .pth files
    import numpy as np
    from fuzzing.kinds import KINDS, Kind, renew_digests
    from fuzzing.mutations import mutate

COLUMNS = ("accepted", "refused", "library", "error", "unnamed", "memory", "hang", "crash")
FAULTS = COLUMNS[3:]
_BETWEEN_COLLECTIONS = 20  # inputs; closed decoders keep threads, with stacks of 8 MB, until one
_START_SECONDS = 300  # that a child may take to import and to read the valid files


class Job(NamedTuple):
    """What a child does.

    Attributes:
      kind: name of the kind of files.
      seed: of all changes.
      numbers: of the inputs.
      corpus: the valid files.
      megabytes: that reading may add.
    """

    kind: str
    seed: int
    numbers: range
    corpus: Path
    megabytes: int


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return cli.run(argv, define_flags, job, __doc__ or "")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer("inputs", 5000, "Inputs of each kind.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the changes.", 0, flag_values=values)
    flags.DEFINE_list("kinds", list(KINDS), "Kinds of files.", flag_values=values)
    flags.DEFINE_string("only", None, "KIND:NUMBER of a single input.", flag_values=values)
    flags.DEFINE_string("keep", "fuzz-faults", "Folder for what failed.", flag_values=values)
    flags.DEFINE_integer("seconds", 20, "Longest time for an input.", 1, flag_values=values)
    flags.DEFINE_integer("megabytes", 1024, "Most memory for one.", 1, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prints the table; returns 1 if there is a fault."""
    cli.no_arguments(positional)
    names, numbers = values.kinds, range(values.inputs)
    if values.only:
        name, _, number = values.only.partition(":")
        if not number.isdecimal():
            raise InputError(f"--only={values.only} is not KIND:NUMBER")
        names, numbers = [name], range(int(number), int(number) + 1)
    unknown = [name for name in names if name not in KINDS]
    if unknown:
        raise InputError(f"unknown kind {unknown[0]!r}; choose some of {', '.join(KINDS)}")
    totals: Counter[str] = Counter()
    print(f"| files | inputs | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    for name in names:
        with tempfile.TemporaryDirectory(prefix="avjax-fuzz-") as folder:
            corpus = Path(folder) / "corpus"
            corpus.mkdir()
            with _quiet():
                KINDS[name].make(corpus)
            task = Job(name, values.seed, numbers, corpus, values.megabytes)
            counts = _fuzz(task, values.seconds, Path(values.keep))
        totals += counts
        print(_row(name, counts), flush=True)
    print(_row("all", totals))
    return int(any(totals[name] for name in FAULTS))


def _row(name: str, counts: Counter[str]) -> str:
    cells = [name, str(counts.total()), *(str(counts[column]) for column in COLUMNS)]
    return f"| {' | '.join(cells)} |"


# ---------------------------------------------------------------------------------------- parent


def _fuzz(task: Job, seconds: float, keep: Path) -> Counter[str]:
    """Reads all inputs in children, of which one that fails is replaced."""
    counts: Counter[str] = Counter()
    kind = KINDS[task.kind]
    remaining = task.numbers
    while remaining:
        last = remaining.start - 1
        for number, outcome, text in _results(task._replace(numbers=remaining), seconds):
            last = number
            counts[outcome] += 1
            if outcome in FAULTS:
                path, content = changed_file(task, kind, number)
                kept = keep / f"{task.kind}-{number}-{path.name}"
                keep.mkdir(parents=True, exist_ok=True)
                kept.write_bytes(content)
                print(
                    f"{outcome}: {task.kind}:{number} {kept}: {text}", file=sys.stderr, flush=True
                )
        remaining = range(last + 1, remaining.stop)
    return counts


def _results(task: Job, seconds: float) -> Iterator[tuple[int, str, str]]:
    """Yields number, outcome and error of inputs, until the child ends."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(task, sender), daemon=True)
    child.start()
    sender.close()
    number, limit = task.numbers.start, float(_START_SECONDS)
    try:
        if not receiver.poll(limit) or (fault := receiver.recv()):
            raise InputError(f"the valid files of {task.kind} are not read: {fault}")
        while number < task.numbers.stop:
            if not receiver.poll(seconds):
                yield number, "hang", f"more than {seconds} s"
                return
            yield number, *receiver.recv()
            number += 1
    except EOFError:
        child.join()
        yield number, "crash", f"exit code {child.exitcode}"
    finally:
        child.kill()
        child.join()


def changed_file(task: Job, kind: Kind, number: int) -> tuple[Path, bytes]:
    """Returns the path and the content of an input."""
    files = _files(task.corpus, kind)
    rng = np.random.default_rng([task.seed, zlib.crc32(task.kind.encode()), number])
    path = files[number % len(files)]
    return path, mutate(path.read_bytes(), [file.read_bytes() for file in files], rng)


def _files(corpus: Path, kind: Kind) -> list[Path]:
    """Returns the files to change; a file that several patterns name comes more often."""
    named = [path for pattern in kind.files for path in sorted(corpus.glob(pattern))]
    return [path for path in named if path.is_file()]


# ----------------------------------------------------------------------------------------- child


def _child(task: Job, sender: Connection) -> None:
    """Reads inputs in a copy of the corpus; sends each one's outcome and error."""
    kind = KINDS[task.kind]
    with _quiet(), tempfile.TemporaryDirectory(prefix="avjax-fuzz-") as folder:
        copy = Path(shutil.copytree(task.corpus, Path(folder) / "corpus"))
        try:
            for path in dict.fromkeys(_files(copy, kind)):
                for time in range(3):
                    kind.read(path, time)
        except Exception:
            sender.send(traceback.format_exc())
            return
        sender.send("")
        _limit_memory(task.megabytes)
        for number in task.numbers:
            path, content = changed_file(task, kind, number)
            path = copy / path.relative_to(task.corpus)
            if number % _BETWEEN_COLLECTIONS == 0:
                gc.collect()
            sender.send(_outcome(kind, path, content, number // len(_files(copy, kind))))


def _outcome(kind: Kind, path: Path, content: bytes, time: int) -> tuple[str, str]:
    """Reads a file, changed for the n-th time, and puts the valid one back."""
    kept = {file: file.read_bytes() for file in path.parent.iterdir() if file.is_file()}
    path.write_bytes(content)
    if time % 4:
        renew_digests(path)
    try:
        kind.read(path, time)
    except Exception as error:
        return judged(error, path)
    finally:
        for file, former in kept.items():
            file.write_bytes(former)
    return "accepted", ""


def judged(error: BaseException, path: Path) -> tuple[str, str]:
    """Returns the outcome of a reading that failed, and the traceback of a fault."""
    text = "".join(traceback.format_exception(error))
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    # FFmpeg says so too of headers that it does not believe.
    if any(isinstance(x, MemoryError) and type(x).__module__ != "av.error" for x in causes):
        return "memory", text
    if not isinstance(error, InputError):
        return "error", text
    # Runs and datasets are named by their folders.
    places = [str(place) for place in (path, *path.parents[:3])]
    if not any(place in str(error) for place in places):
        return "unnamed", text
    return ("library" if "cannot be prepared (" in str(error) else "refused"), ""


def _limit_memory(megabytes: int) -> None:
    """Lets this process take so much more memory."""
    status = Path("/proc/self/status").read_text()
    used = next(int(line.split()[1]) for line in status.splitlines() if "VmData" in line)
    resource.setrlimit(resource.RLIMIT_DATA, ((used << 10) + (megabytes << 20),) * 2)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drops what Python and the libraries write."""
    sys.stdout.flush()
    sys.stderr.flush()
    former = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, kept in zip((1, 2), former, strict=True):
            os.dup2(kept, stream)
            os.close(kept)
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
