"""Windows of a model's length that slide over a file.

Each frame that a window needs is decoded, searched for faces and cropped once, though several
windows show it; memory does not depend on the file's length.
"""

import contextlib
import math
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from avjax.data.records import SAMPLE_RATE, window_samples
from avjax.errors import InputError
from avjax.preparation import container, notes
from avjax.preparation.clip import SoundFeatures, sound_features
from avjax.preparation.container import Extent
from avjax.preparation.crops import (
    NoFaceError,
    earlier_boxes,
    fixed_crops,
    nearest_boxes,
    reference_crops,
)
from avjax.preparation.faces import Detector, Face, faces_of, longest_seen
from avjax.preparation.frames import stream_frames
from avjax.preparation.sound import NoSamplesError, read_sound
from avjax.runtime.ahead import ahead

QUIET_DBFS = -70.0  # root mean square; the quietest clip of RAVDESS's speech has -64
_CHUNK_SECONDS = 30.0  # of sound read at once
_FRAMES_AHEAD = 8  # decoded while others are searched
_TOLERANCE = 1e-6  # in frames

Box = Float[np.ndarray, "4"]


class Plan(NamedTuple):
    """The windows of a file: as many as fit into it, centred in it.

    Attributes:
      path: the file.
      first: start of the first window, in seconds.
      hop: seconds from one window to the next.
      total: number of windows, at least 1.
      seconds: length of a window.
      num_frames: frames of a window; 0 if the model reads none.
      end: end of the file's longer track, in seconds.
      sound: extent of the sound that the model reads; None without.
      video: the same of the video.
    """

    path: Path
    first: float
    hop: float
    total: int
    seconds: float
    num_frames: int
    end: float
    sound: Extent | None
    video: Extent | None

    @property
    def stride(self) -> int:
        """Frames from one window to the next."""
        return round(self.hop * self.num_frames / self.seconds)

    def start(self, number: int) -> float:
        """When a window begins, in seconds."""
        return self.first + number * self.hop

    def time(self, frame: int) -> float:
        """When a frame is shown, in seconds: in the middle of its share of a window."""
        return self.first + (frame + 0.5) * self.seconds / self.num_frames


def check_hop(hop: float | None, seconds: float, num_frames: int) -> float:
    """Returns the seconds from one window to the next.

    Args:
      hop: a multiple of ``seconds / num_frames``, so that windows share frames, up to ``seconds``.
        None takes half a window, rounded to such a multiple (half up).
      seconds: length of a window.
      num_frames: frames of a window; with 0, any hop up to ``seconds`` is good.

    Raises:
      InputError: another hop; names the nearest good ones.
    """
    if hop is None:
        return (
            seconds * math.floor(num_frames / 2 + 0.5) / num_frames if num_frames else seconds / 2
        )
    if not num_frames:
        if 0 < hop <= seconds:
            return hop
        raise InputError(f"hop {hop:g} s is out of range; choose more than 0, up to {seconds:g} s")
    share = seconds / num_frames
    multiple = hop / share if math.isfinite(hop) else 0.0
    nearest = min(max(round(multiple), 1), num_frames)
    if abs(multiple - nearest) < _TOLERANCE * num_frames:
        return nearest * share
    below = min(max(math.floor(multiple), 1), num_frames)
    good = sorted({below, min(below + 1, num_frames)} if multiple > 0 else {1})
    good = [num_frames] if multiple > num_frames else good
    choices = " or ".join(f"{round(number * share, 6):g}" for number in good)
    raise InputError(
        f"hop {hop:g} s is no multiple of {round(share, 6):g} s, a frame's share of a window of "
        f"{seconds:g} s, up to that; choose {choices}"
    )


def plan_windows(
    path: Path,
    *,
    streams: Sequence[str],
    seconds: float,
    num_frames: int,
    hop: float | None = None,
) -> Plan:
    """Plans the windows of a file.

    As many windows as fit lie in the file's middle: at both ends less than half a hop is left over,
    and a file shorter than a window and a hop has the one centre window of `prepare_clip`.

    Args:
      path: a media file.
      streams: what the model reads, "audio", "video" or both.
      seconds: length of a window.
      num_frames: frames of a window.
      hop: see `check_hop`.

    Raises:
      InputError: a bad hop, or a file that cannot be read.
    """
    hop = check_hop(hop, seconds, num_frames if "video" in streams else 0)
    sound = container.extent(path, container.default_sound) if "audio" in streams else None
    video = None
    if "video" in streams:
        video = container.extent(path, lambda file: container.default_video(file, path))
    end = max([track.end for track in (sound, video) if track is not None], default=0.0)
    count = 1 + max(0, math.floor((end - seconds) / hop + _TOLERANCE))
    first = max(0.0, (end - seconds - (count - 1) * hop) / 2)
    frames = num_frames if "video" in streams else 0
    return Plan(path, first, hop, count, seconds, frames, end, sound, video)


class Crop:
    """A face crop that windows share.

    Attributes:
      pixels: as in a `PreparedClip`.
      features: its encoding, set by whoever encodes it first.
    """

    __slots__ = ("features", "pixels")

    def __init__(self, pixels: UInt8[np.ndarray, "s s 3"]) -> None:
        self.pixels = pixels
        self.features: Any = None


class ClipWindow(NamedTuple):
    """A prepared window.

    Attributes:
      start: in seconds.
      sound: its features; None if it has no sound or is silent.
      crops: the face in each frame; None if no frame shows one.
      faces: those of frames that no window before it showed.
    """

    start: float
    sound: SoundFeatures | None
    crops: list[Crop] | None
    faces: list[Face]


def read_windows(
    plan: Plan,
    *,
    profile: str,
    image_size: int,
    log_mels: int,
    detector: Detector | None,
    told: dict[str, None],
) -> Generator[ClipWindow]:
    """Prepares the windows of a file, one after the other.

    A window's sound counts as missing if its level is below `QUIET_DBFS`, its video if no frame
    shows a face. Frames lie on one grid: those of a window are the middles of its equal parts, and
    where the video has not begun or has ended, its nearest frame.

    Args:
      plan: the windows.
      profile: `fixed` or `reference`; people are followed, and frames without a face treated, in
        each window as in `avjax.preparation.clip.prepare_clip`.
      image_size: side of the crops in pixels.
      log_mels: mel bands of log-mel spectrograms; 0 computes only MFCCs.
      detector: the face detector; not needed without video.
      told: receives notes, the last ones at the end.

    Raises:
      InputError: the file cannot be read.
    """
    sounds = _Sounds(plan, told)
    pictures = None
    if plan.video is not None and plan.num_frames:
        assert detector is not None, "frames need a face detector"
        pictures = _Pictures(plan, plan.video, profile, image_size, detector, told)
    for kind, track in (("sound", plan.sound), ("video", plan.video)):
        if track is not None and track.announced is not None:
            told[notes.cut_short(kind, track.end, track.announced)] = None
    with contextlib.closing(pictures) if pictures else contextlib.nullcontext():
        for number in range(plan.total):
            start = plan.start(number)
            samples = sounds.window(start)
            sound = None
            if samples is not None:
                sound = sound_features(samples, plan.seconds, log_mels)
            crops, faces = pictures.window(number) if pictures else (None, [])
            yield ClipWindow(start, sound, crops, faces)
    if pictures:
        pictures.tell()


class _Sounds:
    """The sound of windows, read in chunks."""

    def __init__(self, plan: Plan, told: dict[str, None]) -> None:
        self._plan, self._told = plan, told
        self._start, self._end = 0.0, -1.0
        self._samples: np.ndarray | None = None

    def window(self, start: float) -> Float[np.ndarray, "s"] | None:
        """Returns a window's samples, fewer at the end; None without any, or if too quiet."""
        end = start + self._plan.seconds
        if end > self._end:
            self._read(start, end + _CHUNK_SECONDS)
        if self._samples is None:
            return None
        first = round((start - self._start) * SAMPLE_RATE)
        samples = self._samples[first : first + window_samples(self._plan.seconds)]
        power = float(np.square(samples, dtype=np.float64).mean()) if len(samples) else 0.0
        return samples if power >= 10 ** (QUIET_DBFS / 10) else None

    def _read(self, start: float, end: float) -> None:
        track = self._plan.sound
        self._start, self._end, self._samples = start, end, None
        if track is None or end <= track.begin or start >= track.end:
            return
        with contextlib.suppress(NoSamplesError):
            sound = read_sound(self._plan.path, start=start, end=end)
            if sound is not None:
                self._samples = sound.samples
                self._told.update(dict.fromkeys(sound.notes))


class _Frame:
    """A decoded frame with what was found in it."""

    def __init__(self, image: UInt8[np.ndarray, "h w 3"]) -> None:
        self.image = image
        self.faces: dict[bool, Float[np.ndarray, "k 4"]] = {}  # by whether searched thoroughly
        self.crops: dict[bytes, Crop] = {}  # by box


class _Pictures:
    """The frames of windows, from the moment one needs them until none does."""

    def __init__(
        self,
        plan: Plan,
        extent: Extent,
        profile: str,
        image_size: int,
        detector: Detector,
        told: dict[str, None],
    ) -> None:
        self._plan, self._detector, self._told = plan, detector, told
        self._profile, self._image_size = profile, image_size
        total = (plan.total - 1) * plan.stride + plan.num_frames
        inside = [i for i in range(total) if extent.begin <= plan.time(i) < extent.end]
        self._first, self._last = (inside[0], inside[-1]) if inside else (0, -1)
        times = [plan.time(i) for i in inside]
        self._decoded: Generator[Any] | None = None
        if times:
            self._decoded = ahead(stream_frames(plan.path, times, told), _FRAMES_AHEAD)
        self._frames: dict[int, _Frame] = {}
        self._next = self._first  # to be decoded
        self._told_of = self._first - 1  # the last frame whose face was given
        self._seen, self._people = 0, 1

    def close(self) -> None:
        """Stops the decoder."""
        if self._decoded is not None:
            self._decoded.close()

    def window(self, number: int) -> tuple[list[Crop] | None, list[Face]]:
        """Returns the crops of a window, or None without a face, and the faces of new frames."""
        begin = number * self._plan.stride
        numbers = range(begin, begin + self._plan.num_frames)
        if numbers[0] > self._last or numbers[-1] < self._first:
            return None, []
        places = [min(max(i, self._first), self._last) for i in numbers]
        self._load(places[0], places[-1])
        frames = [self._frames[i] for i in places]
        boxes = self._boxes(frames)
        faces = []
        for place, box in zip(places, boxes, strict=True):
            if place > self._told_of:
                self._told_of = place
                self._seen += box is not None
                faces.append(Face.at(self._plan.time(place), box))
        try:
            filled = (earlier_boxes if self._profile == "reference" else nearest_boxes)(boxes)
        except NoFaceError:
            return None, faces
        return [self._crop(*pair) for pair in zip(frames, filled, strict=True)], faces

    def tell(self) -> None:
        """Adds notes on the frames of all windows."""
        total = self._last - self._first + 1
        if self._people > 1:
            self._told[notes.followed(self._people, False, self._seen, total)] = None
        elif self._seen < total:
            self._told[notes.faceless(total - self._seen, total)] = None

    def _load(self, first: int, last: int) -> None:
        """Decodes the frames up to ``last``, and lets go of those before ``first``."""
        self._frames = {i: frame for i, frame in self._frames.items() if i >= first}
        assert self._decoded is not None
        while self._next <= last:
            image, previous = next(self._decoded), self._frames.get(self._next - 1)
            same = previous is not None and previous.image is image
            self._frames[self._next] = previous if same and previous else _Frame(image)
            self._next += 1

    def _boxes(self, frames: Sequence[_Frame]) -> list[Box | None]:
        if self._profile == "reference":
            return [found[0] if len(found) else None for found in self._search(frames, False)]
        sizes = [frame.image.shape[1::-1] for frame in frames]
        person = longest_seen(lambda thorough: self._search(frames, thorough), sizes)
        if person is None:
            return [None] * len(frames)
        self._people = max(self._people, person.people)
        return person.boxes

    def _search(self, frames: Sequence[_Frame], thorough: bool) -> list[Float[np.ndarray, "k 4"]]:
        """Finds the faces of frames, those of one size together, each frame's once."""
        groups: dict[tuple[int, ...], list[_Frame]] = {}
        for frame in dict.fromkeys(frames):
            if thorough not in frame.faces:
                groups.setdefault(frame.image.shape, []).append(frame)
        for group in groups.values():
            images = np.stack([frame.image for frame in group])
            for frame, boxes in zip(group, faces_of(images, self._detector, thorough), strict=True):
                frame.faces[thorough] = boxes
        return [frame.faces[thorough] for frame in frames]

    def _crop(self, frame: _Frame, box: Box) -> Crop:
        key = np.asarray(box).tobytes()
        if key not in frame.crops:
            crop = reference_crops if self._profile == "reference" else fixed_crops
            frame.crops[key] = Crop(crop([frame.image], [box], self._image_size)[0])
        return frame.crops[key]
