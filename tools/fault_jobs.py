"""Small jobs of every command that writes, run in child processes whose file calls can be faulty.

A child is forked after the imports, before JAX has started, so that it takes a second or two.
"""

import atexit
import contextlib
import functools
import hashlib
import io
import json
import os
import re
import signal
import sys
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from archive_server import served
from demo import corpus

from avjax import commands, crossval, download, prepare, train
from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, VIDEO_ONLY, speech_clips
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.preparation.zenodo import Record

FOLD = "train: actor=1; validation: actor=2; test: actor=3"
_CLOCK = ("seconds", "clips_per_second", "input_share")  # of metrics.jsonl
_TIMES = ("prepared_now", "seconds", "phases", "digest")  # of prepare.json
_STATUS_OF_A_BUG = 70
CLIPS = 6  # to prepare


class Job(NamedTuple):
    """A command with its input.

    Attributes:
      run: runs the command into a folder, in a child; returns its exit status.
      result: reads what it wrote, comparable and as JSON, in a child.
      environment: variables of the child.
    """

    run: Callable[[Path], int]
    result: Callable[[Path], Any]
    environment: Mapping[str, str] = {}


@contextlib.contextmanager
def made(names: list[str], folder: Path) -> Iterator[dict[str, Job]]:
    """Makes the input of jobs in a folder; serves the archives of a download."""
    _import_all()
    makers = {
        "train": _train_job,
        "train on 4 devices": functools.partial(_train_job, devices=4),
        "prepare": _prepare_job,
        "crossval": _crossval_job,
        "crossval together": functools.partial(_crossval_job, together=True),
    }
    folder.mkdir(exist_ok=True)
    input_job = Job(_write_input, lambda _: None)
    if finish(start(input_job, folder, folder / "log")):
        raise RuntimeError((folder / "log").read_text())
    with contextlib.ExitStack() as stack:
        jobs = {}
        for name in names:
            if name == "download":
                jobs[name] = _download_job(stack.enter_context(served(_archives(), _ACTORS)))
            else:
                jobs[name] = makers[name](folder)
        yield jobs


NAMES = ("train", "train on 4 devices", "prepare", "download", "crossval", "crossval together")


def define_flag(values: flags.FlagValues) -> None:
    """Defines the flag that `chosen` reads."""
    flags.DEFINE_list("jobs", None, "Only these jobs, such as train,prepare.", flag_values=values)


def chosen(values: flags.FlagValues, default: Sequence[str] = NAMES) -> list[str]:
    """Returns the jobs that the flag names, by default those given.

    Raises:
      InputError: there is no such job.
    """
    names = list(default) if values.jobs is None else values.jobs
    if unknown := set(names) - set(NAMES):
        raise InputError(f"there is no job {min(unknown)!r}; choose of {', '.join(NAMES)}")
    return names


def _write_input(folder: Path) -> int:
    """Writes a dataset and clips."""
    write_sounds(folder / "sounds", {1: 24, 2: 8, 3: 8})
    actor = folder / "clips" / "Actor_01"
    actor.mkdir(parents=True)
    for name in corpus.corpus(1, 1)[:CLIPS]:
        corpus.write_clip(actor, name, 0)
    return 0


def _import_all() -> None:
    """Imports what commands import on use, for all children."""
    import librosa.core.convert  # noqa: F401
    import matplotlib.figure  # noqa: F401
    import resampy  # noqa: F401
    import soundfile  # noqa: F401

    import avjax.runs.report  # noqa: F401


# -------------------------------------------------------------------------------------- children


def start(job: Job, out: Path, log: Path, before: Callable[[], None] = lambda: None) -> int:
    """Forks a child that calls ``before`` and runs a job; returns its process id."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = _STATUS_OF_A_BUG
    atexit._clear()  # this process's cleaning up is not the child's
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(job.environment)
        before()
        status = job.run(out)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()  # what the command left to do; errors are seen
        sys.stdout.flush()
        os._exit(status)


def finish(process: int, limit: float = 300.0, kill_after: float = 300.0) -> int:
    """Waits for a child; returns its status, negative if a signal ended it.

    Raises:
      TimeoutError: it has not ended after ``limit`` seconds.
    """
    begin = time.monotonic()
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - begin
        if seconds > min(limit, kill_after):
            os.kill(process, signal.SIGKILL)
            if seconds > limit:
                raise TimeoutError(f"a job takes more than {limit:.0f} s")
        time.sleep(0.002)


def read_result(job: Job, out: Path, log: Path) -> Any:
    """Returns a job's result, read by a child, since JAX must not start in this process."""
    file = log.with_suffix(".result")

    def write(folder: Path) -> int:
        file.write_text(json.dumps(job.result(folder)))
        return 0

    if finish(start(job._replace(run=write), out, log)):
        raise RuntimeError(f"the result cannot be read: {log.read_text()}")
    return json.loads(file.read_text())


def print_difference(expected: Any, actual: Any, place: str) -> None:
    """Prints the parts that differ."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in sorted({*expected, *actual}):
            print_difference(expected.get(key), actual.get(key), f"{place}.{key}")
    elif expected != actual:
        print(f"{place}: {str(expected)[:300]} became {str(actual)[:300]}", file=sys.stderr)


def saved(place: Path) -> int:
    """Returns a number that grows with everything that a job saves durably below a folder."""
    folders = place.glob("**/checkpoints")
    steps = [max([int(x.name) for x in f.iterdir() if x.name.isdecimal()] or [0]) for f in folders]
    clips = len(list(place.glob("**/clips/*.npz")))
    complete = 1000 * len(list(place.glob("**/prepare.json")))
    return sum(steps) + clips + complete + len(list(place.glob("**/Actor_??")))


class FileCalls:
    """Calls a function at every call of this process that changes a folder's files.

    That function gets a number from 1, the call's name and its path, and may raise, so that the
    call fails. Calls of libraries written in C++ (TensorStore, array_record) are not seen.
    """

    def __init__(self, folder: Path, on_call: Callable[[int, str, str], None]) -> None:
        self._folder, self._on_call = str(folder), on_call
        self._number, self._lock = 0, threading.Lock()

    def watch(self) -> None:
        """Watches until the process ends."""
        fsync = os.fsync

        def watched_fsync(file: Any) -> None:
            number = file if isinstance(file, int) else file.fileno()
            self._see("fsync", os.readlink(f"/proc/self/fd/{number}"))
            fsync(file)

        os.fsync = watched_fsync  # the only one of these calls that Python does not audit
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "shutil.rmtree"):
            path = arguments[1] if event == "os.rename" else arguments[0]
        else:
            return
        if isinstance(path, str | bytes | os.PathLike):
            self._see(event.removeprefix("os."), os.path.abspath(os.fsdecode(path)))

    def _see(self, name: str, path: str) -> None:
        if path.startswith(self._folder):
            with self._lock:
                self._number += 1
                number = self._number
            self._on_call(number, name, path[len(self._folder) :])


# -------------------------------------------------------------------------------------- training


def write_sounds(directory: Path, counts: Mapping[int, int]) -> Path:
    """Writes a dataset of sound: number of clips by actor."""
    rng = np.random.default_rng(0)
    records, clips = [], []
    for actor, count in counts.items():
        for number in range(count):
            name, split = f"clip-{actor}-{number}", f"actor_{actor:02d}"
            records.append(ClipRecord(name, split, number % 2, actor, 1, 1, 1, "x", True, False))
            mfcc = np.float32(rng.normal(4 * (number % 2), 1, (16, 10)))
            clips.append(PreparedClip(np.zeros((0, 64, 64, 3), np.uint8), mfcc, True, False))
    metadata = DatasetMetadata("reference", ("low", "high"), 0, 64, 16, {})
    return write_dataset(directory, metadata, records, clips)


def _settings(folder: Path) -> list[str]:
    """Returns flags of a short training of a small network, which saves after every call."""
    (data,) = folder.glob("sounds/*/1*")
    settings = {"data.dir": data, "batch_size": 4, "checkpoint_minutes": 0.0, "steps_per_call": 2}
    return ["--config=audio_only", *(f"--config.{key}={x}" for key, x in settings.items())]


def _train_job(folder: Path, devices: int = 1) -> Job:
    arguments = [*_settings(folder), f"--config.data.fold={FOLD}", "--config.num_epochs=3"]
    environment = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}

    def run(out: Path) -> int:
        return train.main(["train", *arguments, f"--workdir={out}"])

    return Job(run, _read_run, environment)


def _crossval_job(folder: Path, together: bool = False) -> Job:
    folds = f"--config.data.folds={(FOLD, 'train: actor=1; validation: actor=3; test: actor=2')!r}"
    arguments = [*_settings(folder), folds, "--config.num_epochs=2", "--folds=config"]
    arguments += ["--together"] if together else []

    def run(out: Path) -> int:
        return crossval.main(["crossval", *arguments, f"--workdir={out}"])

    def result(out: Path) -> Any:
        runs = {path.name: _read_run(path) for path in sorted(out.iterdir()) if path.is_dir()}
        return {"summary": (out / "crossval.json").read_text(), "runs": runs, "left": _left(out)}

    return Job(run, result, {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"})


def _read_run(run: Path) -> Any:
    """Returns all of a run but its times: its newest state is restored and checked."""
    from avjax.config import run_config
    from avjax.runs.checkpoints import named_arrays
    from avjax.runs.metrics_log import read_metrics
    from avjax.runs.run_folder import RunFolder
    from avjax.runtime.sealed import digest_arrays

    config = run_config(run)
    with RunFolder(run) as opened:
        progress = opened.restore(train.build(config).start)
    return {
        "state": digest_arrays(named_arrays(progress)),
        "step": int(progress.state.step),
        "model": _digest(run / "best" / "model.safetensors"),
        "metrics": [{k: v for k, v in x.items() if k not in _CLOCK} for x in read_metrics(run)],
        "config": (run / "config.json").read_text(),
        "evaluation": (run / "evaluation.json").read_text(),
        "report": (run / "report.html").exists(),
        "left": _left(run),
    }


def _left(folder: Path) -> list[str]:
    """Returns what killed saves left behind."""
    return sorted(p.name for p in folder.rglob("*") if re.search(r"tmp|unfinished", p.name))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ----------------------------------------------------------------------------------- preparation


def _prepare_job(folder: Path) -> Job:
    arguments = [f"--source={folder / 'clips'}", "--num_frames=2", "--image_size=64", "--workers=1"]

    def run(out: Path) -> int:
        return prepare.main(["prepare", *arguments, f"--out={out}"])

    def result(out: Path) -> Any:
        summary = json.loads((out / "prepare.json").read_text())
        files = {p.name: _digest(p) for p in sorted(out.iterdir()) if p.name != "prepare.json"}
        beside = sorted(path.name for path in out.parent.iterdir() if path != out)
        return {
            "files": files,
            "summary": {k: v for k, v in summary.items() if k not in _TIMES},
            "beside": beside,
        }

    return Job(run, result)


# -------------------------------------------------------------------------------------- download

_ACTORS = (1, 2)


def _archives() -> dict[str, bytes]:
    """Returns zips of two actors' clips, some kilobytes each."""
    rng = np.random.default_rng(0)

    def archive(actors: tuple[int, ...], suffix: str, *modalities: str) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for actor in actors:
                for clip in (c for m in modalities for c in speech_clips(actor, m)):
                    file.writestr(f"Actor_{actor:02d}/{clip.clip_id}{suffix}", rng.bytes(20_000))
        return buffer.getvalue()

    videos = {f"{a}.zip": archive((a,), ".mp4", AUDIO_VIDEO, VIDEO_ONLY) for a in _ACTORS}
    return videos | {"audio.zip": archive(_ACTORS, ".wav", AUDIO_ONLY)}


def _download_job(record: Record) -> Job:
    def run(out: Path) -> int:
        os.environ["no_proxy"] = "127.0.0.1"
        original = download.download
        download.download = functools.partial(original, record=record)
        arguments = ["--actors=1,2", f"--out={out}"]
        return commands.run("download", ["download", *arguments])

    def result(out: Path) -> Any:
        return {str(p.relative_to(out)): p.is_file() and _digest(p) for p in out.rglob("*")}

    return Job(run, result)
