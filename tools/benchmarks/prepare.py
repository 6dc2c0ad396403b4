"""Measures face extraction in clips per second: decoding, detection, crops, files; no sound.

python tools/benchmark.py prepare --source FOLDER [--reference CLONE [--reference_python PYTHON]]
python tools/benchmark.py prepare --source FOLDER --against CHECKOUT

FOLDER holds raw clips as for avjax.prepare. With a clone of the reference's repository, its script
runs on the same clips in turn with avjax, in separate processes (PYTHON needs torch,
facenet-pytorch 2.5.3, OpenCV and tqdm). Both sides warm up first. A second figure includes avjax's
cold start (imports, compilation), a third is for decoding the same frames only. --against compares
with another checkout of avjax, measured by its own benchmark in turn.
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
from benchmarks import against, sides

from avjax.errors import InputError
from avjax.preparation import face_detector, media
from avjax.preparation import ravdess_files as raw
from avjax.preparation.clip import Window, even_times
from avjax.preparation.clip_store import open_clip_store
from avjax.preparation.frames import frames_at
from avjax.preparation.settings import PreparationSettings
from avjax.prepare import prepare_clips

PEER = sides.ROOT / "tools" / "peers" / "extract_faces.py"
SETTINGS = PreparationSettings("fixed", 15, 224, pair_video_only=False)


def videos(source: Path) -> list[raw.RawClip]:
    """Returns the folder's videos, without sound."""
    clips, *_ = raw.find_raw(source, pair_video_only=False)
    silent = [clip._replace(audio=None) for clip in clips if clip.video is not None]
    if not silent:
        raise InputError(f"{source} holds no videos; name another folder")
    return silent


def measure(clips: Sequence[raw.RawClip], threads: int) -> None:
    """Prepares the clips cold, then warm, then only decodes; prints a line of JSON for each."""
    detector = None
    for temperature in ("cold", "warm"):
        with (
            tempfile.TemporaryDirectory() as scratch,
            open_clip_store(Path(scratch), SETTINGS) as store,
        ):
            detector = detector or face_detector.default_detector()
            start = time.perf_counter(), time.process_time()
            summary = prepare_clips(
                store,
                clips,
                skipped={},
                settings=SETTINGS,
                make_detector=lambda: detector,  # noqa: B023 (called at once)
                workers=threads,
            )
            _report(temperature, start, phases=summary.phases)
        if summary.skipped:
            raise InputError(f"clips cannot be prepared: {summary.skipped}; remove them")
    times = [_frame_times(clip) for clip in clips]
    start = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(_decode, clips, times):
            pass
    _report("decoding", start)


def _frame_times(clip: raw.RawClip) -> list[float]:
    """Returns the times of the frames that are taken from a clip."""
    shown = media.frame_times(clip.video)
    start = max(0.0, (shown[-1] - SETTINGS.seconds) / 2)
    window = Window(start, SETTINGS.seconds)
    return even_times(shown[0], shown[-1], SETTINGS.num_frames, window).tolist()


def _decode(clip: raw.RawClip, times: Sequence[float]) -> None:
    assert clip.video is not None
    frames_at(clip.video, times, threads=1)


def _report(what: str, start: tuple[float, float], **extra: object) -> None:
    seconds, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    print(json.dumps({"what": what, "seconds": seconds, "cpu": cpu, **extra}), flush=True)


def measure_apart(source: Path, threads: int, root: Path = sides.ROOT) -> dict[str, dict[str, Any]]:
    """Runs a checkout's `measure` in a process; adds the time since its start to each result."""
    flags_ = "--once", f"--source={source.resolve()}", f"--threads={threads}"
    command = sides.command("prepare", *flags_, root=root)
    start = time.perf_counter()
    results: dict[str, dict[str, Any]] = {}
    pipe, environment = subprocess.PIPE, sides.environment(root)
    with subprocess.Popen(command, stdout=pipe, text=True, env=environment, cwd=root) as process:
        assert process.stdout is not None
        for line in process.stdout:
            result = json.loads(line)
            result["since_start"] = time.perf_counter() - start
            results[result.pop("what")] = result
    if process.returncode:
        raise InputError(f"{' '.join(command)} failed; its message is above")
    return results


def measure_reference(
    python: str, clone: Path, clips: Sequence[raw.RawClip], threads: int
) -> dict[str, float]:
    """Returns wall and CPU seconds of the reference's script on the same clips."""
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
    """Defines the flags."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    text("source", None, "Folder of raw clips.")
    text("reference", None, "Clone of the reference's repository, to compare with.")
    text("reference_python", sys.executable, "Python that runs the reference.")
    flags.DEFINE_integer("threads", 2, "Cores.", 1, flag_values=values)
    against.define_flags(values)
    flags.DEFINE_bool("once", False, "Measure avjax once in this process.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints the figures."""
    if positional or not values.source:
        raise InputError("give --source, a folder of raw clips, and no argument without a flag")
    source, threads = Path(values.source), values.threads
    clips = videos(source)
    if values.once:
        return measure(clips, threads)
    sides.bind(threads)  # both sides inherit it
    checkouts, rounds = against.checkouts(values), against.rounds(values)
    found: dict[str, list[sides.Result]] = {name: [] for name in checkouts}
    reference_results = []
    for number in range(rounds):
        for name in list(checkouts) if number % 2 == 0 else reversed(checkouts):
            found[name].append(measure_apart(source, threads, checkouts[name]))
        if values.reference:
            clone, python = Path(values.reference), values.reference_python
            reference_results.append(measure_reference(python, clone, clips, threads))
        print(f"round {number + 1} of {rounds} done, load {os.getloadavg()[0]:.1f}", flush=True)
    print_figures(len(clips), threads, found[against.THIS], reference_results)
    figures = {"time": lambda result: result["warm"]["seconds"]}
    figures["processor"] = lambda result: result["warm"]["cpu"]
    print("\n".join(against.report(found, figures)))


def print_figures(
    count: int,
    threads: int,
    results: Sequence[dict[str, dict[str, Any]]],
    reference_results: Sequence[dict[str, float]],
) -> None:
    """Prints the medians of all rounds: speed, CPU time, time by phase."""

    def middle(what: str, key: str = "seconds") -> float:
        return median(result[what][key] for result in results)

    def line(name: str, seconds: Sequence[float], cpu: float, comparison: str = "") -> None:
        low, high = count / max(seconds), count / min(seconds)
        print(
            f"{name:10} {count / median(seconds):6.3f} clips/s ({low:.3f} to {high:.3f}), "
            f"{cpu / count:.2f} CPU seconds per clip{comparison}"
        )

    print(f"{count} clips on {threads} cores, medians of {len(results)} rounds")
    line("avjax", [result["warm"]["seconds"] for result in results], middle("warm", "cpu"))
    print(f"           {count / middle('cold', 'since_start'):6.3f} clips/s from a cold start")
    ratio = middle("warm") / middle("decoding")
    comparison = f"; avjax takes {ratio:.2f} times as long"
    decoding = [result["decoding"]["seconds"] for result in results]
    line("decoding", decoding, middle("decoding", "cpu"), comparison)
    phases = {
        name: median(result["warm"]["phases"][name] for result in results) / count
        for name in results[0]["warm"]["phases"]
    }
    text = ", ".join(f"{name} {seconds:.3f}" for name, seconds in phases.items())
    print(f"thread seconds per clip, by phase: {text}")
    if reference_results:
        seconds = [result["seconds"] for result in reference_results]
        ratio = median(seconds) / middle("warm")
        cpu = median(result["cpu"] for result in reference_results)
        line("reference", seconds, cpu, f"; avjax is {ratio:.1f} times as fast")
