"""Opens media files: tracks, clock, and packets from any second on.

Contents decide what a file is, not its name. Seconds are those of the clip's clock: the container's
clock, on which sound and frames share their moments, counted from the container's start.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import av
from av.container import InputContainer
from av.stream import Disposition

from avjax.errors import InputError
from avjax.preparation import notes
from avjax.runtime.impostors import HEAD_BYTES, impostor

_CUT_SECONDS = 0.5  # a track shorter than its header's duration by more than this is broken off
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails  # covers, chapter images
_HAS_JOINTS = cast(int, av.format.Flags.ts_discont.value)
SEEK_MARGINS = (0.0, 2.0, 15.0, math.inf)  # seconds to go back when a seek lands too late
_JUMP_BACK, _JUMP_AHEAD = 0.5, 10.0  # seconds after which a joined recording's clock starts anew
# Formats whose headers tell a duration; others are estimated from the rate of bits.
_ANNOUNCING = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "avi", "asf", "flv", "wav", "flac")
LARGE_FRAME = 4096 * 2304  # pixels; larger ones are decoded and searched with less memory
_Track = TypeVar("_Track", bound=Any)


class NoVideoError(InputError):
    """The file has no video track."""


@contextlib.contextmanager
def open_media(path: Path) -> Iterator[InputContainer]:
    """Opens a media file by its contents.

    Args:
      path: any name, also one that looks like a protocol, or is not UTF-8.

    Raises:
      InputError: the file cannot be read; also raised for FFmpeg's errors inside the block.
    """
    try:
        # Tags may be in any encoding, and a colon in the name is no protocol.
        with av.open(f"file:{path}", metadata_errors="ignore") as container:
            if not (container.streams.video or container.streams.audio):
                raise InputError(_unreadable(path, "it has neither video nor sound"))
            yield container
    except (av.FFmpegError, OSError) as error:
        raise InputError(_unreadable(path, error.strerror or error)) from error


def _unreadable(path: Path, reason: object) -> str:
    what = None
    with contextlib.suppress(OSError), path.open("rb") as file:
        what = impostor(file.read(HEAD_BYTES))
    return f"{path} {what or f'cannot be decoded ({reason}); replace the file'}"


# ---------------------------------------------------------------------------------------- tracks


class Choice(NamedTuple):
    """One of a file's tracks of a kind, and a note if there was a choice."""

    track: int
    note: str | None


def has_video(path: Path) -> bool:
    """Whether a file has a video track; a cover is none.

    Raises:
      InputError: the file cannot be read.
    """
    with open_media(path) as container:
        return bool(_videos(container))


def video_track(container: InputContainer, path: Path) -> Choice:
    """Chooses the default video track.

    Raises:
      NoVideoError: there is none.
      InputError: its codec is unknown.
    """
    tracks = _videos(container)
    if not tracks:
        raise NoVideoError(f"{path} has no video track; give a video file")
    choice = by_default("video", tracks)[0]
    check_codec(container.streams[choice.track], path)
    return choice


def by_default(kind: str, tracks: Sequence[Any]) -> list[Choice]:
    """Orders tracks: the default first, as the file declares it, then as they stand."""
    numbered = list(enumerate(tracks, 1))
    ordered = sorted(numbered, key=lambda item: not item[1].disposition & Disposition.default)
    is_default = bool(ordered) and bool(ordered[0][1].disposition & Disposition.default)
    choices = []
    for place, (number, track) in enumerate(ordered):
        reason = "it is the first" if not is_default else "it is the default"
        reason = reason if place == 0 else "those before it are silent"
        note = notes.track(kind, number, len(tracks), reason) if len(tracks) > 1 else None
        choices.append(Choice(track.index, note))
    return choices


def check_codec(track: Any, path: Path) -> None:
    """Raises InputError if FFmpeg has no decoder for a track."""
    if track.codec_context is None:
        raise InputError(
            f"{path} has a {track.type} track in a codec that FFmpeg does not know; convert it to "
            "H.264 and AAC"
        )


def _videos(container: InputContainer) -> list[Any]:
    return [track for track in container.streams.video if not track.disposition & _PICTURES]


# ----------------------------------------------------------------------------------------- clock


def origin(container: InputContainer) -> float:
    """Returns where the container's clock starts, in seconds."""
    return (container.start_time or 0) / 1e6


def announced_end(container: InputContainer, track: Any) -> float | None:
    """Returns when a track ends by the file's header; None if the header does not say."""
    if container.format.name not in _ANNOUNCING:
        return None
    if track.duration is not None:
        start = float((track.start_time or 0) * track.time_base) - origin(container)
        return start + float(track.duration * track.time_base)
    tag = track.metadata.get("DURATION", "")  # Matroska's, as 00:00:03.600000000
    try:
        hours, minutes, seconds = map(float, tag.split(":"))
    except ValueError:
        streams = len(container.streams.video) + len(container.streams.audio)
        return container.duration / 1e6 if container.duration and streams == 1 else None
    return 3600 * hours + 60 * minutes + seconds - origin(container)


def broken_at(there: float, announced: float | None, end: float | None) -> float | None:
    """Returns the announced end if a track breaks off before it and before the clip's end."""
    if announced is None:
        return None
    lacks = (announced if end is None else min(announced, end)) - there
    return announced if lacks > _CUT_SECONDS else None


class Extent(NamedTuple):
    """When a track begins and ends, in seconds, and when it should by its header if it is cut."""

    begin: float
    end: float
    announced: float | None


def extent(path: Path, choose: Callable[[InputContainer], int | None]) -> Extent | None:
    """Reads a track's packets, without decoding them, to see how long it is.

    Args:
      path: a media file.
      choose: returns the track's index in the container, or None for none.

    Returns:
      None without such a track, or if it is empty.

    Raises:
      InputError: the file cannot be read.
    """
    begin, end = math.inf, -math.inf
    with open_media(path) as container:
        index = choose(container)
        if index is None:
            return None
        track: Any = container.streams[index]
        zero, usual = origin(container), frame_seconds(track)
        for packet in packets(container, track, 0.0):
            ticks = packet.dts if packet.pts is None else packet.pts
            if not packet.size or packet.is_discard:
                continue
            unit = float(packet.time_base)
            time = max(end, 0.0) if ticks is None else ticks * unit - zero
            begin = min(begin, time)
            end = max(end, time + ((packet.duration or 0) * unit or usual))
        if end <= 0:
            return None
        announced = broken_at(end, announced_end(container, track), None)
    return Extent(max(0.0, begin), end, announced)


def default_video(container: InputContainer, path: Path) -> int | None:
    """Returns the index of the track that `video_track` chooses, or None if there is none."""
    return video_track(container, path).track if _videos(container) else None


def default_sound(container: InputContainer) -> int | None:
    """Returns the index of the default sound track, or None if there is none."""
    choices = by_default("sound", container.streams.audio)
    return choices[0].track if choices else None


# --------------------------------------------------------------------------------------- packets


def packets(container: InputContainer, track: _Track, start: float) -> Iterator[av.Packet]:
    """Reads a track's packets, in decoding order, from a keyframe on.

    Args:
      container: just opened.
      track: one of its tracks.
      start: the keyframe is the last one up to here, in seconds; where a file's index is wrong,
        it may lie later. Nothing is skipped at 0 and before.
    """
    if container.format.flags & _HAS_JOINTS:
        # These formats have no index and may be joined of recordings with clocks of their own.
        yield from _from_keyframe(_continuous(container, track), start + origin(container))
        return
    if start > 0:
        offset = int((start + origin(container)) / track.time_base)
        container.seek(offset, stream=track)
    yield from container.demux(track)


def _from_keyframe(stream: Iterator[av.Packet], start: float) -> Iterator[av.Packet]:
    """Drops packets before the last keyframe up to ``start``, on the container's clock."""
    waiting: list[av.Packet] = []
    for packet in stream:
        time = None if packet.pts is None else float(packet.pts * packet.time_base)
        if packet.is_keyframe and time is not None and time <= start:
            waiting = []
        waiting.append(packet)
        if packet.dts is None or float(packet.dts * packet.time_base) > start:
            break
    yield from waiting
    yield from stream


def _continuous(container: InputContainer, track: _Track) -> Iterator[av.Packet]:
    """Reads a track's packets, and moves those of joined recordings behind one another."""
    tracks = [*container.streams.video, *container.streams.audio]
    offsets = [0.0]  # of each recording
    recording = {t.index: 0 for t in tracks}
    clocks: dict[int, float] = {}
    end = 0.0
    for packet in container.demux(tracks):
        if packet.dts is None:
            if packet.stream_index == track.index:
                yield packet
            continue
        i, time = packet.stream_index, float(packet.dts * packet.time_base)
        if i in clocks and not -_JUMP_BACK < time - clocks[i] < _JUMP_AHEAD:
            recording[i] += 1
            if recording[i] == len(offsets):
                offsets.append(end - time)
        clocks[i], offset = time, offsets[recording[i]]
        end = max(end, time + offset + float((packet.duration or 0) * packet.time_base))
        if i == track.index:
            if offset:
                _shift(packet, round(offset / packet.time_base))
            yield packet


def _shift(packet: av.Packet, ticks: int) -> None:
    packet.dts = (packet.dts or 0) + ticks
    if packet.pts is not None:
        packet.pts += ticks


def frames_from(
    path: Path,
    choose: Callable[[InputContainer], int | None],
    start: float,
    faults: list[str],
    threads: int = 1,
) -> Iterator[tuple[float, Any]]:
    """Decodes a track's frames from the one at ``start`` on, or from an earlier one.

    Args:
      path: a media file.
      choose: returns the track's index in the container, or None to read nothing.
      start: in seconds.
      faults: receives what could not be decoded; damaged packets are skipped.
      threads: decoder threads; 0 uses every core, but two at most where frames are large.

    Yields:
      The second at which a frame is shown or heard, and the frame.

    Raises:
      InputError: the file cannot be read.
    """
    for margin in SEEK_MARGINS:
        frames = _decoded(path, choose, start - margin, faults, threads)
        first = next(frames, None)
        if start - margin <= 0 or (first is not None and first[0] <= start):
            break
    if first is not None:
        yield first
        yield from frames


def _decoded(
    path: Path,
    choose: Callable[[InputContainer], int | None],
    start: float,
    faults: list[str],
    threads: int,
) -> Iterator[tuple[float, Any]]:
    faults.clear()
    with open_media(path) as container:
        index = choose(container)
        if index is None:
            return
        track: Any = container.streams[index]
        zero = origin(container)
        check_codec(track, path)
        if track.type == "video":
            # Each decoder thread holds frames of its own.
            large = track.codec_context.width * track.codec_context.height > LARGE_FRAME
            track.codec_context.thread_count = min(threads or 2, 2) if large else threads
            track.codec_context.thread_type = "AUTO"
        time, began = 0.0, False
        for packet in packets(container, track, start):
            try:
                frames = packet.decode()
            except av.InvalidDataError as error:
                faults.append(str(error))
                continue
            for frame in frames:
                ticks = frame.dts if frame.pts is None else frame.pts
                if ticks is not None:
                    time = ticks * float(frame.time_base or 0) - zero
                elif began:
                    time += frame_seconds(track)
                began = True
                yield time, frame


def frame_seconds(track: Any) -> float:
    """Returns a frame's usual length, for frames without a time."""
    rate = getattr(track, "average_rate", None) or getattr(track, "guessed_rate", None)
    return 1 / float(rate) if rate else 0.0
