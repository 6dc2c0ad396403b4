"""Small video and sound files for tests."""

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile

from avjax.preparation.publish import SUMMARY_FILE


def frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """Returns a grey RGB frame; higher numbers are brighter."""
    return np.full((height, width, 3), 20 + 2 * number, np.uint8)


def tone(seconds: float, rate: int = 48000, hertz: float = 440.0) -> np.ndarray:
    """Returns a float32 sine at half of full scale."""
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype("f4")


def write_sound(path: Path, samples: np.ndarray, rate: int = 48000) -> Path:
    """Writes a 16-bit wav or flac, chosen by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="PCM_16")
    return path


def write_video(
    path: Path,
    frames: int | Sequence[np.ndarray] = 30,
    *,
    sound: np.ndarray | None = None,
    rate: int = 30,
    times: Sequence[float] | None = None,
    faststart: bool = False,
) -> Path:
    """Writes an H.264 mp4, with an AAC track at 48 kHz if sound is given.

    ``frames`` are RGB images, or a number of `frame`s. ``times`` are the frames' start times in
    seconds, for an uneven rate.
    """
    images = [frame(i) for i in range(frames)] if isinstance(frames, int) else frames
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if faststart else {}
    with av.open(str(path), "w", options=options) as container:
        video = container.add_stream("libx264", rate=rate, options={"qp": "4", "threads": "1"})
        video.height, video.width = images[0].shape[:2]
        video.pix_fmt = "yuv420p"
        audio = None if sound is None else container.add_stream("aac", rate=48000, layout="mono")
        for number, image in enumerate(images):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                picture.time_base = video.codec_context.time_base = Fraction(1, 1000)
                picture.pts = round(1000 * times[number])
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        if audio is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate = 48000
            container.mux(audio.encode(block))
            container.mux(audio.encode(None))
    return path


def encode(
    path: Path,
    images: Sequence[np.ndarray],
    pixel_format: str = "yuv420p",
    set_up: Callable[[Any], None] = lambda track: None,
    **options: str,
) -> Path:
    """Writes H.264 at 25 frames a second; ``set_up`` changes the track, ``options`` the encoder."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=25, options=options)
        track.height, track.width = images[0].shape[:2]
        track.pix_fmt = pixel_format
        set_up(track)
        for image in images:
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            container.mux(track.encode(picture.reformat(format=pixel_format)))
        container.mux(track.encode(None))
    return path


class WholeFrame:
    """A detector that returns the whole frame as the only face, or no face; counts its calls."""

    def __init__(self, faces: bool = True) -> None:
        self.count = int(faces)
        self.calls = 0

    def faces(self, frames: np.ndarray, thorough: bool = False) -> list[np.ndarray]:
        self.calls += 1
        height, width = frames.shape[1:3]
        boxes = np.array([[0, 0, width, height]], np.float64)
        return [boxes[: self.count] for _ in frames]


def read_files(dataset: Path) -> dict[str, bytes]:
    """Returns the content of a dataset's files except the summary, which holds times."""
    paths = sorted(path for path in dataset.iterdir() if path.name != SUMMARY_FILE)
    return {path.name: path.read_bytes() for path in paths}
