"""Writes the clips that ``avjax serve`` offers: synthetic actors, so free of licences.

python tools/make_examples.py
"""

import itertools
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from absl import flags
from demo import corpus
from demo.voice import SAMPLE_RATE

from avjax import cli
from avjax.data.ravdess import AUDIO_VIDEO, EMOTIONS, SPEECH, ClipName

USAGE = "Writes the example clips that avjax carries for its page."
OUT = Path(__file__).parents[1] / "avjax" / "serving" / "examples"
# By file: parts of emotion, actor, and which streams they keep.
CLIPS = {
    "happy.mp4": [("happy", 3, "sound picture")],
    "angry-no-face.mp4": [("angry", 5, "sound")],
    "sad-no-sound.mp4": [("sad", 8, "picture")],
    "mixed.mp4": [
        ("happy", 2, "sound picture"),
        ("angry", 2, "sound"),
        ("sad", 2, "picture"),
    ],
}
H264 = {"preset": "veryslow", "crf": "28"}
_SIZE = 224


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_string("out", str(OUT), "Folder for the clips.", flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Writes the clips."""
    for name, parts in CLIPS.items():
        path = Path(values.out) / name
        write(path, parts)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def write(path: Path, parts: list[tuple[str, int, str]]) -> None:
    """Writes one clip; a part without a picture shows an empty grey scene."""
    made = [_part(*part) for part in parts]
    kept = " ".join(part[2] for part in parts)
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        video = container.add_stream("libx264", corpus.FRAME_RATE, options=H264)
        video.height = video.width = _SIZE
        video.pix_fmt = "yuv420p"
        video.codec_context.thread_count = 1  # the same bytes on any machine
        sound = container.add_stream("aac", SAMPLE_RATE, layout="mono") if "sound" in kept else None
        for image in itertools.chain.from_iterable(frames for frames, _ in made):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        if sound is not None:
            samples = np.concatenate([samples for _, samples in made])[None].astype(np.float32)
            block = av.AudioFrame.from_ndarray(samples, "fltp", "mono")
            block.sample_rate, block.pts = SAMPLE_RATE, 0
            block.time_base = Fraction(1, SAMPLE_RATE)
            container.mux(sound.encode(block))
            container.mux(sound.encode())


def _part(emotion: str, actor: int, kept: str) -> tuple[Iterator[np.ndarray], np.ndarray]:
    label = EMOTIONS.index(emotion) + 1
    name = ClipName.parse(f"{AUDIO_VIDEO}-{SPEECH}-{label:02d}-02-01-01-{actor:02d}")
    frames, speech = corpus.make_clip(name, size=_SIZE)
    if "picture" not in kept:
        count = round(corpus.SECONDS * corpus.FRAME_RATE)
        frames = itertools.repeat(np.full((_SIZE, _SIZE, 3), 128, np.uint8), count)
    samples = np.asarray(speech.samples)
    return iter(frames), samples if "sound" in kept else np.zeros_like(samples)


if __name__ == "__main__":
    sys.exit(cli.run(None, define_flags, job, USAGE))
