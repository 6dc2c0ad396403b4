"""Clips per second of face extraction: decoding, search, crops, files; no sound.

python tools/benchmark.py prepare --source FOLDER [--reference CLONE [--reference_python PYTHON]]

FOLDER is what avjax.prepare takes. With a clone of the reference's repository its own script runs
on the same clips, in turn with avjax, each time in a process of its own (PYTHON needs torch,
facenet-pytorch 2.5.3, OpenCV and tqdm). Both sides first warm up; the figure from a cold start
(imports, compilation) stands beside. Decoding alone is what the same frames take to read.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from absl import flags
from benchmarks import sides

from avjax.errors import InputError
from avjax.preparation import face_detector, media
from avjax.preparation import ravdess_files as raw
from avjax.preparation.clip import even_indices
from avjax.preparation.clip_store import PreparationSettings, open_clip_store
from avjax.prepare import prepare_clips

PEER = sides.ROOT / "tools" / "peers" / "extract_faces.py"
SETTINGS = PreparationSettings("fixed", 15, 224, pair_video_only=False)


def videos(source: Path) -> list[raw.RawClip]:
    """The folder's videos, without sound."""
    found, *_ = raw.find_raw(source, pair_video_only=False)
    silent = [clip._replace(audio=None) for clip in found if clip.video is not None]
    if not silent:
        raise InputError(f"{source} holds no videos; name another folder")
    return silent


def measure(clips: Sequence[raw.RawClip], threads: int) -> None:
    """Prepares the clips cold, then warm, then only decodes; prints a line of JSON after each."""
    detector = None
    for temperature in ("cold", "warm"):
        with (
            tempfile.TemporaryDirectory() as scratch,
            open_clip_store(Path(scratch), SETTINGS) as store,
        ):
            detector = detector or face_detector.default_detector()
            began = time.perf_counter(), time.process_time()
            summary = prepare_clips(
                store,
                clips,
                skipped={},
                settings=SETTINGS,
                make_detector=lambda: detector,  # noqa: B023 (called at once)
                workers=threads,
            )
            _tell(temperature, began, phases=summary.phases)
        if summary.skipped:
            raise InputError(f"clips cannot be prepared: {summary.skipped}; remove them")
    chosen = [even_indices(media.frame_times(clip.video), SETTINGS.num_frames) for clip in clips]
    began = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(_decode, clips, chosen):
            pass
    _tell("decoding", began)


def _decode(clip: raw.RawClip, indices: Sequence[int]) -> None:
    assert clip.video is not None
    media.read_frames(clip.video, indices, threads=1)


def _tell(what: str, began: tuple[float, float], **more: object) -> None:
    seconds, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    print(json.dumps({"what": what, "seconds": seconds, "cpu": cpu, **more}), flush=True)


def measure_apart(source: Path, threads: int) -> dict[str, dict[str, Any]]:
    """Runs `measure` in a process of its own; adds the time from its start to the cold pass."""
    command = sides.command("prepare", "--once", f"--source={source}", f"--threads={threads}")
    began = time.perf_counter()
    found: dict[str, dict[str, Any]] = {}
    pipe, environment = subprocess.PIPE, sides.environment()
    with subprocess.Popen(command, stdout=pipe, text=True, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            told = json.loads(line)
            told["since_start"] = time.perf_counter() - began
            found[told.pop("what")] = told
    if process.returncode:
        raise InputError(f"{' '.join(command)} failed; its message is above")
    return found


def measure_reference(
    python: str, clone: Path, clips: Sequence[raw.RawClip], threads: int
) -> dict[str, float]:
    """Wall and processor seconds of the reference's script on the same clips."""
    with tempfile.TemporaryDirectory() as scratch:
        for clip in clips:
            assert clip.video is not None
            link = Path(scratch, "clips", f"ACTOR{clip.record.actor:02d}", clip.video.name)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(clip.video.resolve())
        command = [python, str(PEER), str(clone.resolve()), f"{scratch}/clips", str(threads)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise InputError(f"{' '.join(command)} failed; its message is above")
    return dict(json.loads(result.stdout))


def define_flags(values: flags.FlagValues) -> None:
    """The subject's flags."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    text("source", None, "Folder of raw clips.")
    text("reference", None, "A clone of the reference's repository, to run its script in turn.")
    text("reference_python", sys.executable, "The Python that runs it.")
    flags.DEFINE_integer("threads", 2, "Cores each side may use.", 1, flag_values=values)
    flags.DEFINE_integer("rounds", 3, "Repetitions; medians are told.", 1, flag_values=values)
    flags.DEFINE_bool("once", False, "Measure avjax once, in this process.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints."""
    if positional or not values.source:
        raise InputError("give --source, a folder of raw clips, and no argument without a flag")
    source, threads = Path(values.source), values.threads
    clips = videos(source)
    if values.once:
        return measure(clips, threads)
    sides.bind(threads)  # inherited by both sides
    ours, theirs = [], []
    for number in range(values.rounds):
        ours.append(measure_apart(source, threads))
        if values.reference:
            clone, python = Path(values.reference), values.reference_python
            theirs.append(measure_reference(python, clone, clips, threads))
        print(f"round {number + 1} of {values.rounds} done, load {os.getloadavg()[0]:.1f}")
    print_figures(len(clips), threads, ours, theirs)


def print_figures(
    count: int,
    threads: int,
    ours: Sequence[dict[str, dict[str, Any]]],
    theirs: Sequence[dict[str, float]],
) -> None:
    """Prints the medians of all rounds: speed, processor time, time by phase."""

    def middle(what: str, key: str = "seconds") -> float:
        return median(found[what][key] for found in ours)

    def line(name: str, seconds: Sequence[float], cpu: float, more: str = "") -> None:
        low, high = count / max(seconds), count / min(seconds)
        print(
            f"{name:10} {count / median(seconds):6.3f} clips/s ({low:.3f} to {high:.3f}), "
            f"{cpu / count:.2f} processor seconds a clip{more}"
        )

    print(f"{count} clips on {threads} cores, medians of {len(ours)} rounds")
    line("avjax", [found["warm"]["seconds"] for found in ours], middle("warm", "cpu"))
    print(f"           {count / middle('cold', 'since_start'):6.3f} clips/s from a cold start")
    ratio = middle("warm") / middle("decoding")
    more = f"; avjax takes {ratio:.2f} times as long"
    decoding = [found["decoding"]["seconds"] for found in ours]
    line("decoding", decoding, middle("decoding", "cpu"), more)
    phases = {
        name: median(found["warm"]["phases"][name] for found in ours) / count
        for name in ours[0]["warm"]["phases"]
    }
    shown = ", ".join(f"{name} {seconds:.3f}" for name, seconds in phases.items())
    print(f"seconds of a thread for a clip, by store: {shown}")
    if theirs:
        seconds = [found["seconds"] for found in theirs]
        ratio = median(seconds) / middle("warm")
        cpu = median(found["cpu"] for found in theirs)
        line("reference", seconds, cpu, f"; avjax is {ratio:.1f} times as fast")
