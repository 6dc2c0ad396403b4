"""Measures prediction: the first answer, further ones, and a long talk.

python tools/benchmark.py predict [--checkpoint RUN] [--clip CLIP] [--minutes 10] [--hop 1.2]
                                  [--reference CLONE [--reference_python PYTHON]]

By default the network has random weights and its full size, and the clip is a synthetic actor of
4 s at 1280x720; the talk repeats the clip. The first answer is timed from the start of `avjax
predict`, with a warm compilation cache (medians of five); then clips follow in one process; then
the talk, with the process's peak memory. With a clone of the reference's repository, its script for
faces runs on the same clip, warm, without sound and network (PYTHON needs torch, facenet-pytorch,
OpenCV and tqdm).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import jax
import numpy as np
from absl import flags
from benchmarks import sides
from benchmarks.prepare import measure_reference
from peers import peak_memory

from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.predict import Model
from avjax.preparation.raw_clip import RawClip
from avjax.runs.saved_model import ModelCard, save_model
from avjax.runtime import compilation

RATE, SOUND_RATE, BLOCK = 30, 48000, 1024
WIDTH, HEIGHT = 1280, 720
CLIP_SECONDS = 4.0
FIRST, FURTHER = 5, 8


def write_model(folder: Path) -> Path:
    """Writes an audio-visual model with random weights; returns its folder."""
    classes = ["neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised"]
    network = {"kind": "audio_visual", "fusion": "ia", "num_heads": 1, "num_classes": len(classes)}
    card = ModelCard(network, classes, "fixed", 15, 224, 156)
    net = build_network(network)
    mfcc, frames = np.zeros((1, 156, 10), "f4"), np.zeros((1, 15, 224, 224, 3), "f4")
    variables = net.init(jax.random.key(0), mfcc, frames)
    save_model(folder, jax.tree.map(np.asarray, variables), card)
    return folder


def write_clip(path: Path, seconds: float = CLIP_SECONDS) -> Path:
    """Writes a synthetic actor at 1280x720."""
    from demo import corpus

    name = corpus.corpus(1, 1)[3]
    frames, speech = corpus.make_clip(name, seconds=seconds, size=HEIGHT)
    left = (WIDTH - HEIGHT) // 2
    wide = (np.pad(f, ((0, 0), (left, left), (0, 0)), mode="edge") for f in frames)
    _encode(path, wide, speech.samples)
    return path


def write_talk(path: Path, clip: Path, seconds: float) -> Path:
    """Repeats a clip up to a length."""
    with av.open(str(clip)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    with av.open(str(clip)) as file:
        resampler = av.AudioResampler("fltp", "mono", SOUND_RATE)
        parts = [p.to_ndarray()[0] for f in file.decode(audio=0) for p in resampler.resample(f)]
    count = int(seconds * RATE)
    repeated = (frames[i % len(frames)] for i in range(count))
    _encode(path, repeated, np.resize(np.concatenate(parts), int(seconds * SOUND_RATE)))
    return path


def _encode(path: Path, frames: Any, samples: np.ndarray) -> None:
    with av.open(str(path), "w", format="mp4") as target:
        options = {"preset": "veryfast", "crf": "23"}
        video: Any = target.add_stream("libx264", rate=RATE, options=options)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio: Any = target.add_stream("aac", rate=SOUND_RATE, layout="mono")
        place = 0
        for number, frame in enumerate(frames):
            target.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            while place < min((number + 1) * SOUND_RATE // RATE, len(samples)):
                data = samples[None, place : place + BLOCK].astype(np.float32)
                block = av.AudioFrame.from_ndarray(data, format="fltp", layout="mono")
                block.sample_rate, block.pts = SOUND_RATE, place
                block.time_base = Fraction(1, SOUND_RATE)
                target.mux(audio.encode(block))
                place += BLOCK
        target.mux(video.encode(None))
        target.mux(audio.encode(None))


def first_answer(model: str, clip: Path) -> dict[str, float]:
    """Times `avjax predict` from its start; wall and CPU seconds."""
    command = [sys.executable, "-m", "avjax.predict", "--checkpoint", model, str(clip)]
    before, start = os.times(), time.perf_counter()
    result = subprocess.run(
        command, cwd=sides.ROOT, env=sides.environment(), capture_output=True, text=True
    )
    if result.returncode:
        raise InputError(f"{' '.join(command)} failed: {sides.last_line(result.stderr)}")
    after, seconds = os.times(), time.perf_counter() - start
    cpu = after.children_user + after.children_system
    return {"seconds": seconds, "cpu": cpu - before.children_user - before.children_system}


def timed(model: Model, clips: list[Path], hop: float | None = None) -> dict[str, float]:
    """Predicts clips in this process; returns wall and CPU seconds, and peak memory in bytes."""
    start, cpu = time.perf_counter(), time.process_time()
    for path, result in model.predict_many(clips, hop=hop):
        if isinstance(result, InputError):
            raise InputError(f"{path} cannot be predicted: {result}")
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "memory": peak_memory.bytes_since_start(),
    }


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""

    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    text("checkpoint", None, "A run or a model; by default one with random weights.")
    text("clip", None, "Video to predict; by default a synthetic one.")
    text("reference", None, "Clone of the reference's repository, to compare with.")
    text("reference_python", sys.executable, "Python that runs the reference.")
    flags.DEFINE_float("minutes", 10.0, "Length of the talk.", 0.0, flag_values=values)
    flags.DEFINE_float("hop", 1.2, "Seconds from window to window.", 0.0, flag_values=values)
    flags.DEFINE_integer("threads", 2, "Cores.", 1, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Measures and prints the figures."""
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; give the clip by --clip")
    sides.bind(values.threads)  # the children inherit it
    compilation.keep_compiled_programs()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = values.checkpoint or str(write_model(folder / "m"))
        if Path(checkpoint).exists():  # else the name of a carried model
            checkpoint = str(Path(checkpoint).resolve())
        clip = (Path(values.clip) if values.clip else write_clip(folder / "clip.mp4")).resolve()
        first_answer(checkpoint, clip)  # warms the cache
        answers = [first_answer(checkpoint, clip) for _ in range(FIRST)]
        report("first answer", {key: median(a[key] for a in answers) for key in answers[0]})
        model = Model.load(checkpoint)
        timed(model, [clip])
        further = timed(model, [clip] * FURTHER)
        report("each further clip", {key: further[key] / FURTHER for key in ("seconds", "cpu")})
        if values.reference:
            raw = RawClip(ClipRecord("clip", "", 0, actor=1), "clip", clip, None)
            clone, python = Path(values.reference), values.reference_python
            result = measure_reference(python, clone, [raw], values.threads)
            report("reference, faces alone", result)
        if values.minutes:
            seconds = 60 * values.minutes
            talk = write_talk(folder / "talk.mp4", clip, seconds)
            peak_memory.start()
            result = timed(model, [talk], values.hop)
            report("talk", {**result, "times real time": seconds / result["seconds"]})


def report(what: str, figures: dict[str, float]) -> None:
    """Prints a line of JSON."""
    rounded = {key: float(f"{value:.4g}") for key, value in figures.items()}
    print(json.dumps({"what": what, **rounded, "load": round(os.getloadavg()[0], 1)}), flush=True)
