"""Reads frames: those that a player shows, at the times at which it shows them."""

import contextlib
import itertools
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import av
import av.filter
import numpy as np
from av.container import InputContainer
from jaxtyping import Float, UInt8

from avjax.errors import InputError
from avjax.preparation import container, notes, pixels

_TOLERANCE = 1e-3  # seconds; Matroska's times are rounded to that
_NUMBER_TOLERANCE = 1e-6


class Timeline(NamedTuple):
    """When the frames of a clip are shown, in seconds from its start.

    Attributes:
      times: sorted start times; the first may lie before the clip, if it is still shown then.
      end: when the last frame ceases to be shown.
      announced: when the video should end by its header, if it breaks off before.
      origin: when the file's video begins, from the start of the file.
    """

    times: Float[np.ndarray, "n"]
    end: float
    announced: float | None
    origin: float

    @property
    def begin(self) -> float:
        """When the first frame is shown, at least 0."""
        return max(0.0, float(self.times[0]))


def read_timeline(path: Path, start: float = 0.0, end: float | None = None) -> Timeline:
    """Reads when frames are shown, without decoding them.

    Args:
      path: a video.
      start: of the clip on the file's clock, in seconds; earlier frames are not read.
      end: of the clip, in seconds; None reads to the end of the file.

    Raises:
      NoVideoError: the file has no video track.
      InputError: it cannot be read, or shows no frame in that range.
    """
    for margin in container.SEEK_MARGINS:
        spans, announced, origin = _spans(path, start - margin, end)
        if start - margin <= 0 or (spans and min(spans)[0] <= start):
            break
    if not spans:
        raise InputError(f"{path} holds no video frames; replace the file")
    times = np.array([time for time, _ in spans])
    order = np.argsort(times, kind="stable")
    times, lengths = times[order], np.array([length for _, length in spans])[order]
    last = float(times[-1] + (lengths[-1] or np.diff(times[-2:]).sum()))
    if last <= start or (end is not None and times[0] >= end):
        raise InputError(
            f"{path} has no frame from {start:g} s on; correct the clip's start and end"
        )
    announced = container.broken_at(last, announced, end)
    inside = times > start - _NUMBER_TOLERANCE
    if end is not None:
        inside &= times < end
        last = min(last, end)
    shown_at_start = times[times <= start + _NUMBER_TOLERANCE][-1:]  # and from before it
    times = np.union1d(shown_at_start, times[inside])
    announced = None if announced is None else announced - start
    return Timeline(times - start, last - start, announced, origin)


def _spans(
    path: Path, start: float, end: float | None
) -> tuple[list[tuple[float, float]], float | None, float]:
    """Returns the times and lengths of shown frames, the announced end, the video's beginning."""
    spans: list[tuple[float, float]] = []
    with container.open_media(path) as file:
        track: Any = file.streams[container.video_track(file, path).track]
        zero, length = container.origin(file), container.frame_seconds(track)
        begin = (track.start_time or 0) * float(track.time_base) - zero if track.start_time else 0.0
        for packet in container.packets(file, track, start):
            unit = float(packet.time_base)
            if end is not None and packet.dts is not None and packet.dts * unit - zero >= end:
                break  # a packet is decoded before it is shown
            ticks = packet.dts if packet.pts is None else packet.pts
            if packet.size and not packet.is_discard:
                time = spans[-1][0] + length if ticks is None and spans else 0.0
                time = time if ticks is None else ticks * unit - zero
                spans.append((time, (packet.duration or 0) * unit))
        return spans, container.announced_end(file, track), max(0.0, begin)


def frame_times(path: Path, start: float = 0.0, end: float | None = None) -> Float[np.ndarray, "n"]:
    """Returns the sorted start times of all frames in seconds, without decoding them.

    Args:
      path: a video.
      start: origin of the times on the file's clock, in seconds; earlier frames are left out.
      end: where to stop, in seconds; None reads to the end.

    Raises:
      InputError: the file is not a readable video, has no frames in that range, or ends before its
        header says.
    """
    timeline = read_timeline(path, start, end)
    if timeline.announced is not None:
        raise InputError(broken_off(path, timeline.end, timeline.announced))
    return timeline.times[timeline.times > -_NUMBER_TOLERANCE]


def broken_off(path: Path | None, second: float, announced: float) -> str:
    """Tells of a file that ends before its header says, too early for the clip."""
    return f"{path} breaks off after {second:.1f} of {announced:.1f} seconds; replace the file"


class Selection(NamedTuple):
    """Selected frames of a clip.

    Attributes:
      images: each selected frame once, in order, of one size unless the video changes it.
      order: number of the image for every time that was asked for.
      notes: what was decided about them.
      decoded: number of frames up to the last one that was needed, by `frames_numbered`.
    """

    images: list[UInt8[np.ndarray, "h w 3"]]
    order: list[int]
    notes: tuple[str, ...]
    decoded: int = 0


def frames_at(
    path: Path, times: Sequence[float], *, threads: int = 0, start: float = 0.0
) -> Selection:
    """Decodes the RGB frames that are shown at some times, each once.

    Args:
      path: a video.
      times: ascending, in seconds from ``start``. Before the first frame, the first is taken, and
        behind the last, the last.
      threads: decoder threads; 0 uses every core, 1 is cheapest when other videos are being
        decoded.
      start: of the clip on the file's clock, in seconds.

    Raises:
      InputError: the video cannot be decoded.
    """
    taken = _Taken("rgb24", len(times))
    with contextlib.closing(_shown(path, start + times[0], threads, taken)) as shown:
        last = None
        for time, frame in shown:
            while len(taken.order) < len(times) and (
                times[len(taken.order)] + start < time - _TOLERANCE
            ):
                taken.add(frame if last is None else last)
            if len(taken.order) == len(times):
                break
            last = frame
        if last is None and not taken.order:
            raise InputError(f"{path} holds no frame that can be decoded; replace the file")
        while len(taken.order) < len(times):
            taken.add(last)
    return taken.selection()


def frames_numbered(
    path: Path,
    numbers: Sequence[int],
    *,
    pixel_format: str = "rgb24",
    threads: int = 0,
    start: float = 0.0,
) -> Selection:
    """Decodes frames by their ascending numbers; those behind the last frame are left out.

    Args:
      path: a video.
      numbers: from 0, which is the first frame that begins at ``start`` or later.
      pixel_format: `rgb24` or `bgr24`.
      threads: as in `frames_at`.
      start: in seconds.

    Raises:
      InputError: the video cannot be decoded.
    """
    taken = _Taken(pixel_format, len(numbers))
    with contextlib.closing(_shown(path, start, threads, taken)) as shown:
        inside = (f for time, f in shown if not start or time > start - _NUMBER_TOLERANCE)
        for number, frame in enumerate(inside):
            while len(taken.order) < len(numbers) and numbers[len(taken.order)] == number:
                taken.add(frame)
            taken.decoded = number + 1
            if len(taken.order) == len(numbers):
                break
    return taken.selection()


def read_frames(
    path: Path,
    indices: Sequence[int],
    pixel_format: str = "rgb24",
    threads: int = 0,
    start: float = 0.0,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes the frames at ``indices``, each once, in order.

    Args:
      path: a video.
      indices: frame numbers from 0, below the length of `frame_times` with the same ``start``.
      pixel_format: `rgb24` or `bgr24`.
      threads: as in `frames_at`.
      start: time of frame 0 in seconds; the first frame from there on counts as 0.

    Raises:
      InputError: the video cannot be decoded up to the last index, or changes its size.
    """
    numbers = sorted(set(indices))
    selection = frames_numbered(
        path, numbers, pixel_format=pixel_format, threads=threads, start=start
    )
    if len(selection.order) < len(numbers):
        raise InputError(f"{path} breaks off after {selection.decoded} frames; replace the file")
    sizes = list(dict.fromkeys(image.shape[1::-1] for image in selection.images))
    if len(sizes) > 1:
        texts = " to ".join(f"{width}x{height}" for width, height in sizes)
        raise InputError(f"{path} changes its size from {texts}; replace the file")
    return batches(selection.images)[0]


def batches(images: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[UInt8[np.ndarray, "n h w 3"]]:
    """Groups successive images of one size; `_Taken` wrote them into common arrays already."""
    groups = [list(group) for _, group in itertools.groupby(images, lambda image: image.shape)]
    blocks: list[Any] = [group[0].base for group in groups]
    return [block[: len(group)] for block, group in zip(blocks, groups, strict=True)]


class _Taken:
    """Images taken from a video; those of one size share one array, so none is copied twice."""

    def __init__(self, pixel_format: str, most: int) -> None:
        self._pixel_format, self._most = pixel_format, most
        self._last: Any = None
        self._kind: tuple[int, int, int] | None = None
        self._matrix: bytes | None = None
        self._block = np.zeros((0, 0, 0, 3), np.uint8)
        self._used = 0
        self.aspect: Any = None
        self.images: list[np.ndarray] = []
        self.order: list[int] = []
        self.told: dict[str, None] = {}
        self.decoded = 0

    def add(self, frame: Any) -> None:
        """Takes a frame once more; one that was taken just before is not converted again."""
        if frame is not self._last:
            kind = (frame.width, frame.height, frame.rotation)
            if kind != self._kind:
                self._kind, self._matrix = kind, pixels.display_matrix(frame)
            image = pixels.shown(frame, self._pixel_format, self.aspect, self._matrix, self.told)
            if image.shape != self._block.shape[1:]:
                if self.images:
                    self.told[notes.SIZE_CHANGES] = None
                # Pages that are never written take no memory.
                self._block = np.empty((self._most - len(self.images), *image.shape), np.uint8)
                self._used = 0
            self._block[self._used] = image
            self.images.append(self._block[self._used])
            self._used += 1
            self._last = frame
        self.order.append(len(self.images) - 1)

    def selection(self) -> Selection:
        return Selection(self.images, self.order, tuple(self.told), self.decoded)


def _shown(
    path: Path, start: float, threads: int, taken: _Taken
) -> Generator[tuple[float, av.VideoFrame]]:
    """Yields times and frames from the one shown at ``start`` on, or from an earlier one."""

    def choose(file: InputContainer) -> int:
        choice = container.video_track(file, path)
        if choice.note:
            taken.told[choice.note] = None
        track: Any = file.streams[choice.track]
        taken.aspect = track.sample_aspect_ratio
        return choice.track

    faults: list[str] = []
    graph = None
    zero: float | None = None
    for time, frame in container.frames_from(path, choose, start, faults, threads):
        if graph is None and frame.interlaced_frame:
            graph, zero = _deinterlacer(frame), time - float(frame.time or 0.0)
            taken.told[notes.DEINTERLACED] = None
        if graph is None:
            yield time, frame
            continue
        graph.vpush(frame)
        yield from _pulled(graph, zero or 0.0)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph, zero or 0.0)
    if faults:
        taken.told[notes.damaged(len(faults))] = None


def _deinterlacer(frame: av.VideoFrame) -> av.filter.Graph:
    """Builds a filter that makes one frame of the two fields of each interlaced frame."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    bwdif = graph.add("bwdif", "mode=send_frame:deint=interlaced")
    sink = graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph, zero: float) -> Iterator[tuple[float, av.VideoFrame]]:
    with contextlib.suppress(av.BlockingIOError, EOFError):
        while True:
            frame = graph.vpull()
            yield float(frame.time or 0.0) + zero, frame
