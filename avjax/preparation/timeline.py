"""When a video's frames are shown, read from its packets without decoding."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from avjax.errors import InputError
from avjax.preparation import container

NUMBER_TOLERANCE = 1e-6  # seconds


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
    inside = times > start - NUMBER_TOLERANCE
    if end is not None:
        inside &= times < end
        last = min(last, end)
    shown_at_start = times[times <= start + NUMBER_TOLERANCE][-1:]  # and from before it
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
    return timeline.times[timeline.times > -NUMBER_TOLERANCE]


def broken_off(path: Path | None, second: float, announced: float) -> str:
    """Tells of a file that ends before its header says, too early for the clip."""
    return f"{path} breaks off after {second:.1f} of {announced:.1f} seconds; replace the file"
