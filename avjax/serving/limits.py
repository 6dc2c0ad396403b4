"""What a clip of a stranger may be, and the check before any of it is decoded."""

import dataclasses
from pathlib import Path
from typing import Any

import av

from avjax.errors import InputError

# Formats that hold what they show. Playlists and scripts, such as HLS and concat, name other files,
# which FFmpeg would open.
FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "asf", "flv", "mpeg", "mpegts", "mxf", "dv", "rm"),
    *("wav", "w64", "aiff", "au", "caf", "flac", "ogg", "mp3", "aac", "ac3", "eac3", "amr"),
)
_OPTIONS = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one clip and of all clips together.

    Attributes:
      upload_bytes: size of a file.
      upload_seconds: time that an upload may take.
      clip_seconds: length of a clip.
      frames: number of packets of a clip: frames of pictures, blocks of sound.
      pixels: size of a frame.
      answer_seconds: time that decoding and judging may take.
      memory_bytes: memory that judging one clip may take, beside the model's.
      waiting: clips that wait while one is judged.
    """

    upload_bytes: int = 100_000_000
    upload_seconds: float = 120.0
    clip_seconds: float = 180.0
    frames: int = 50_000
    pixels: int = 4096 * 2304
    answer_seconds: float = 120.0
    memory_bytes: int = 2_000_000_000
    waiting: int = 8

    @property
    def too_large(self) -> str:
        """Why a file above `upload_bytes` is refused."""
        return f"the file is larger than {self.upload_bytes / 1e6:g} MB; send a smaller one"


def check_media(path: Path, limits: Limits) -> None:
    """Reads a file's header and packets, decodes nothing, and refuses what is too much.

    Args:
      path: a file that was uploaded.
      limits: see `Limits`.

    Raises:
      InputError: no media file that `FORMATS` lists, or it exceeds a limit.
    """
    if not path.stat().st_size:
        raise InputError(f"{path} is empty; send a video or sound file")
    try:
        with av.open(f"file:{path}", options=_OPTIONS, metadata_errors="ignore") as container:
            _check_frames(container, path, limits)
            _check_packets(container, path, limits)
    except (av.FFmpegError, OSError) as error:
        reason = error.strerror or "unknown format"
        raise InputError(
            f"{path} is no video or sound file that can be read ({reason}); send another"
        ) from error


def _check_frames(container: Any, path: Path, limits: Limits) -> None:
    if not (container.streams.video or container.streams.audio):
        raise InputError(f"{path} has neither video nor sound; send another file")
    for track in container.streams.video:
        context = track.codec_context
        if context is not None and context.width * context.height > limits.pixels:
            raise InputError(
                f"{path} has frames of {context.width}x{context.height}; send one of up to "
                f"{limits.pixels / 1e6:.1f} million pixels a frame"
            )


def _check_packets(container: Any, path: Path, limits: Limits) -> None:
    """Counts packets and looks at their times; headers may say anything."""
    count, zero = 0, (container.start_time or 0) / 1e6
    for packet in container.demux([*container.streams.video, *container.streams.audio]):
        count += bool(packet.size)
        if count > limits.frames:
            raise InputError(
                f"{path} has more than {limits.frames} frames and blocks of sound; "
                "send a shorter clip"
            )
        ticks = packet.dts if packet.pts is None else packet.pts
        if ticks is None:
            continue
        if float((ticks + (packet.duration or 0)) * packet.time_base) - zero > limits.clip_seconds:
            raise InputError(
                f"{path} is longer than {limits.clip_seconds:.0f} s; send a shorter clip"
            )
