"""Writes a video with a prediction drawn into it, and the original sound."""

from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from avjax.errors import InputError
from avjax.predictions.drawing import Drawing, Image
from avjax.predictions.outputs import check_suffix
from avjax.predictions.prediction import Prediction
from avjax.preparation import container
from avjax.preparation.clip import explained
from avjax.preparation.frames import shown_images
from avjax.runtime.files import atomic_file, explain_unwritable

_SHORTER_SIDE = (360, 720)  # least and most lines; in between, the video's own
_CLOCK = 90000  # ticks a second, which no frame rate strains
_SOUND_RATE = 48000
_H264 = {"preset": "veryfast", "crf": "20"}


def annotate(path: Path, out: Path, prediction: Prediction) -> None:
    """Writes a file's video as H.264 with AAC in MP4, with the prediction of every moment drawn in.

    Frames are upright and shown when the original's are; the shorter side has 360 to 720 pixels,
    and both are even. The sound is that of the default track. At each moment the window is shown
    whose middle is nearest; boxes move in a straight line from one frame that the model saw to the
    next.

    Args:
      path: the video.
      out: file to write; replaced once complete.
      prediction: of that file.

    Raises:
      InputError: the file has no video or cannot be read, or ``out`` is no .mp4 or cannot be
        written.
    """
    check_suffix("annotate", out)
    if out.exists() and out.samefile(path):
        raise InputError(f"--annotate={out} would replace the clip itself; name another file")
    with explained(path):
        if not container.has_video(path):
            raise InputError(f"{path} has no video to draw into; leave out --annotate")
    with (
        explain_unwritable(out, "choose another --annotate"),
        atomic_file(out) as file,
        explained(path),
        av.open(file, "w", format="mp4") as target,
    ):
        _write(path, target, Drawing(prediction))


def _write(path: Path, target: Any, drawing: Drawing) -> None:
    sound = _Sound(path, target)
    video: Any = None
    last = -1
    for second, image in shown_images(path, {}):
        if video is None:
            size = _even_size(image)
            video = target.add_stream("libx264", rate=30, options=_H264)
            video.width, video.height, video.pix_fmt = *size, "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, _CLOCK)
        picture = av.VideoFrame.from_ndarray(drawing.drawn(image, size, second), format="rgb24")
        last = max(round(max(second, 0.0) * _CLOCK), last + 1)
        picture.pts, picture.time_base = last, Fraction(1, _CLOCK)
        sound.write_until(second)
        target.mux(video.encode(picture))
    if video is None:
        raise InputError(f"{path} holds no frame that can be decoded; replace the file")
    target.mux(video.encode(None))
    sound.write_until(None)


def _even_size(image: Image) -> tuple[int, int]:
    """Returns width and height to write."""
    height, width = image.shape[:2]
    shorter = min(height, width)
    least, most = _SHORTER_SIDE
    scale = min(max(shorter, least), most) / shorter
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


class _Sound:
    """A file's default sound track, written beside the video."""

    def __init__(self, path: Path, target: Any) -> None:
        self._target = target
        self._blocks = self._read(path)
        self._next: Any = next(self._blocks, None)
        self._track: Any = None
        if self._next is not None:
            self._track = target.add_stream("aac", rate=_SOUND_RATE, layout="stereo")

    @staticmethod
    def _read(path: Path) -> Generator[tuple[float, Any]]:
        kind: Any = None
        for second, block in container.frames_from(path, container.default_sound, 0.0, []):
            if kind != (block.format.name, block.layout.name, block.sample_rate):
                kind = (block.format.name, block.layout.name, block.sample_rate)
                resampler = av.AudioResampler("fltp", "stereo", _SOUND_RATE)
            block.pts, block.time_base = round(second * block.sample_rate), Fraction(1, block.rate)
            for part in resampler.resample(block):
                yield second, part

    def write_until(self, second: float | None) -> None:
        """Writes the blocks that begin up to a second; None writes the rest."""
        while self._next is not None and (second is None or self._next[0] <= second):
            if self._next[0] >= 0:
                self._target.mux(self._track.encode(self._next[1]))
            self._next = next(self._blocks, None)
        if second is None and self._track is not None:
            self._target.mux(self._track.encode(None))
