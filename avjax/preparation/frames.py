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
from jaxtyping import UInt8

from avjax.errors import InputError
from avjax.preparation import container, notes, pixels
from avjax.preparation.timeline import NUMBER_TOLERANCE

_TOLERANCE = 1e-3  # seconds; Matroska's times are rounded to that


class Selection(NamedTuple):
    """Selected frames of a clip.

    Attributes:
      images: each selected frame once, in order, of one size unless the video changes it.
      order: number of the image for every time that was asked for.
      notes: what was decided about them.
      decoded: number of frames up to the last one that was needed, by `frames_numbered`.
      times: the times, in seconds from the clip's start; those of frames by `frames_numbered`.
    """

    images: list[UInt8[np.ndarray, "h w 3"]]
    order: list[int]
    notes: tuple[str, ...]
    decoded: int = 0
    times: tuple[float, ...] = ()


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
    with contextlib.closing(_shown(path, start + times[0], threads, taken.screen)) as shown:
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
    taken.times = list(times)
    return taken.selection()


def stream_frames(
    path: Path, times: Sequence[float], told: dict[str, None], *, threads: int = 0
) -> Generator[UInt8[np.ndarray, "h w 3"]]:
    """Yields the RGB frame shown at each time, as `frames_at`, without keeping any.

    Args:
      path: a video.
      times: ascending, in seconds.
      told: receives notes.
      threads: as in `frames_at`.

    Yields:
      Images; the same array again where the same frame is still shown.

    Raises:
      InputError: the video cannot be decoded.
    """
    screen, count = _Screen("rgb24", told), 0
    last = image = None
    with contextlib.closing(_shown(path, times[0], threads, screen)) as shown:
        for time, frame in shown:
            while count < len(times) and times[count] < time - _TOLERANCE:
                image = screen.image(frame if last is None else last) if image is None else image
                yield image
                count += 1
            if count == len(times):
                return
            image = image if last is None else None
            last = frame
        if last is None:
            raise InputError(f"{path} holds no frame that can be decoded; replace the file")
        image = screen.image(last)
        for _ in range(count, len(times)):
            yield image


def shown_images(
    path: Path, told: dict[str, None]
) -> Generator[tuple[float, UInt8[np.ndarray, "h w 3"]]]:
    """Yields the second and the RGB image of every frame.

    Args:
      path: a video.
      told: receives notes.

    Raises:
      InputError: the video cannot be decoded.
    """
    screen = _Screen("rgb24", told)
    with contextlib.closing(_shown(path, 0.0, 0, screen)) as shown:
        for time, frame in shown:
            yield time, screen.image(frame)


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
    with contextlib.closing(_shown(path, start, threads, taken.screen)) as shown:
        inside = ((t, f) for t, f in shown if not start or t > start - NUMBER_TOLERANCE)
        for number, (time, frame) in enumerate(inside):
            while len(taken.order) < len(numbers) and numbers[len(taken.order)] == number:
                taken.add(frame)
                taken.times.append(time - start)
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


class _Screen:
    """Converts a video's frames to what is shown."""

    def __init__(self, pixel_format: str, told: dict[str, None]) -> None:
        self._pixel_format = pixel_format
        self._kind: tuple[int, int, int] | None = None
        self._matrix: bytes | None = None
        self.aspect: Any = None
        self.told = told

    def image(self, frame: Any) -> UInt8[np.ndarray, "h w 3"]:
        kind = (frame.width, frame.height, frame.rotation)
        if kind != self._kind:
            if self._kind is not None and kind[:2] != self._kind[:2]:
                self.told[notes.SIZE_CHANGES] = None
            self._kind, self._matrix = kind, pixels.display_matrix(frame)
        return pixels.shown(frame, self._pixel_format, self.aspect, self._matrix, self.told)


class _Taken:
    """Images taken from a video; those of one size share one array, so none is copied twice."""

    def __init__(self, pixel_format: str, most: int) -> None:
        self._most = most
        self._last: Any = None
        self._block = np.zeros((0, 0, 0, 3), np.uint8)
        self._used = 0
        self.screen = _Screen(pixel_format, {})
        self.images: list[np.ndarray] = []
        self.order: list[int] = []
        self.times: list[float] = []
        self.decoded = 0

    def add(self, frame: Any) -> None:
        """Takes a frame once more; one that was taken just before is not converted again."""
        if frame is not self._last:
            image = self.screen.image(frame)
            if image.shape != self._block.shape[1:]:
                # Pages that are never written take no memory.
                self._block = np.empty((self._most - len(self.images), *image.shape), np.uint8)
                self._used = 0
            self._block[self._used] = image
            self.images.append(self._block[self._used])
            self._used += 1
            self._last = frame
        self.order.append(len(self.images) - 1)

    def selection(self) -> Selection:
        told, times = tuple(self.screen.told), tuple(self.times)
        return Selection(self.images, self.order, told, self.decoded, times)


def _shown(
    path: Path, start: float, threads: int, screen: _Screen
) -> Generator[tuple[float, av.VideoFrame]]:
    """Yields times and frames from the one shown at ``start`` on, or from an earlier one."""

    def choose(file: InputContainer) -> int:
        choice = container.video_track(file, path)
        if choice.note:
            screen.told[choice.note] = None
        track: Any = file.streams[choice.track]
        screen.aspect = track.sample_aspect_ratio
        return choice.track

    faults: list[str] = []
    graph = None
    zero: float | None = None
    for time, frame in container.frames_from(path, choose, start, faults, threads):
        if graph is None and frame.interlaced_frame:
            graph, zero = _deinterlacer(frame), time - float(frame.time or 0.0)
            screen.told[notes.DEINTERLACED] = None
        if graph is None:
            yield time, frame
            continue
        graph.vpush(frame)
        yield from _pulled(graph, zero or 0.0)
    if graph is not None:
        graph.vpush(None)
        yield from _pulled(graph, zero or 0.0)
    if faults:
        screen.told[notes.damaged(len(faults))] = None


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
