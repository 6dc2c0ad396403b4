"""Prepares one raw clip, both for datasets and for prediction."""

import contextlib
import errno
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from avjax.data.records import (
    SAMPLE_RATE,
    WINDOW_SECONDS,
    PreparedClip,
    audio_steps,
    window_samples,
)
from avjax.errors import InputError
from avjax.preparation import media, notes
from avjax.preparation.container import NoVideoError
from avjax.preparation.crops import Boxes, NoFaceError, fixed_crops, reference_crops
from avjax.preparation.faces import Detector, Face, followed_boxes, largest_boxes
from avjax.preparation.frames import (
    Selection,
    frames_at,
    frames_numbered,
)
from avjax.preparation.sound import Sound, read_sound
from avjax.preparation.stopwatch import Stopwatch
from avjax.preparation.timeline import Timeline, broken_off, read_timeline

PROFILES = ("fixed", "reference")
REFERENCE_FRAMES = 108  # 3.6 s at 30 frames per second
_REACH_TOLERANCE = 0.05  # seconds that a window may lack: a frame, a block of sound
_TELLING_SECONDS = 0.25  # of a window that a stream lacks
_PLAIN_SIZE = (128, 128)
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Insufficient memory")  # as JAX and OpenCV say it


class NoMemoryError(InputError):
    """Memory ran out on a clip, which says little of the clip: fewer at once may do."""


def check_profile(profile: str) -> None:
    """Raises InputError for an unknown profile."""
    if profile not in PROFILES:
        raise InputError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")


def prepare_clip(
    video: Path | None,
    audio: Path | None,
    *,
    profile: str,
    num_frames: int,
    image_size: int,
    detector: Detector | None,
    watch: Stopwatch | None = None,
    threads: int = 0,
    seconds: float = WINDOW_SECONDS,
    start: float = 0.0,
    end: float | None = None,
    log_mels: int = 0,
    face: Sequence[float] | None = None,
    followed: list[Face] | None = None,
) -> PreparedClip:
    """Reads one clip, selects its window and frames, and crops the faces.

    Args:
      video: video file, or None.
      audio: sound file, or video with a sound track, or None.
      profile: `fixed` or `reference`.
      num_frames: number of frames to select.
      image_size: side of the square crops in pixels.
      detector: the face detector; not needed without a video.
      watch: times the phases `sound`, `decode`, `detect` and `crop`.
      threads: decoder threads, see `avjax.preparation.frames.frames_at`.
      seconds: length of the window.
      start: start of the clip within its files, in seconds.
      end: end of the clip within its files, in seconds; None for the end of the files.
      log_mels: mel bands of the log-mel spectrogram; 0 computes only MFCCs.
      face: point x, y or box x, y, width, height in pixels of the clip's first frame, on the person
        to follow; only in profile `fixed`, which else follows the one seen longest and largest.
      followed: receives the followed face in every selected frame.

    Raises:
      InputError: a file cannot be read, ends before ``start`` or has no face at ``face``, or a
        library fails on it.
      NoMemoryError: memory ran out.
      Exception: the detector's, if it fails on any other image too.
    """
    watch = watch or Stopwatch()
    told: dict[str, None] = {}  # in order, each once
    with explained(video or audio):
        timeline = None
        with watch.phase("decode"):
            if video is not None:
                timeline = _timeline(video, audio, start, end, told)
        with watch.phase("sound"):
            # A sound file beside a video begins where the video is first shown.
            lead = timeline.origin if timeline is not None and audio != video else 0.0
            stop = None if end is None else end - lead
            sound = None if audio is None else read_sound(audio, start=start - lead, end=stop)
            window = Window(_window_start(_length(sound, timeline), seconds), seconds)
            samples = None if sound is None else _within(sound, window, audio, told)
            features = sound_features(samples, seconds, log_mels)
        heard = None if sound is None else len(sound.samples) / SAMPLE_RATE
        if sound is not None and heard is not None and features.has_audio:
            seen = None if timeline is None else timeline.end
            _tell_extent("sound", sound.begin, heard, seen, window, told)
        selection = None
        if timeline is not None and video is not None:
            shown = window if profile == "fixed" else Window(0.0, WINDOW_SECONDS)
            _tell_extent("video", timeline.begin, timeline.end, heard, shown, told)
            _check_reach(video, "video", timeline.end, timeline.announced, shown, told)
            with watch.phase("decode"):
                selection = _select(
                    video, timeline, profile, num_frames, shown, threads, start, face is not None
                )
            told.update(dict.fromkeys(selection.notes))
    black = np.zeros((num_frames, image_size, image_size, 3), np.uint8)
    clip = PreparedClip(black, features.mfcc, features.has_audio, False, log_mel=features.log_mel)
    if selection is not None:
        assert detector is not None, "frames need a face detector"
        with watch.phase("detect"), _explained_detection(video, detector):
            if profile == "reference":
                boxes = largest_boxes(selection, detector, told)
            else:
                boxes = followed_boxes(
                    selection, detector, face, told, path=video, cropped=num_frames
                )
        selection = selection._replace(order=selection.order[-len(boxes) :])
        if followed is not None:
            times = selection.times[-len(boxes) :]
            followed += [Face.at(start + t, box) for t, box in zip(times, boxes, strict=True)]
        with watch.phase("crop"), explained(video):
            clip = _with_faces(clip, selection, boxes, profile)
    return clip._replace(notes=tuple(told))


def _select(
    video: Path,
    timeline: Timeline,
    profile: str,
    num_frames: int,
    shown: "Window",
    threads: int,
    start: float,
    from_first: bool,
) -> Selection:
    """Decodes the frames that the profile takes from a window, behind those that lead to it."""
    if profile == "fixed":
        times = even_times(timeline.begin, timeline.end, num_frames, shown)
        lead = _lead(timeline.begin, times) if from_first else []
        return frames_at(video, [*lead, *times.tolist()], threads=threads, start=start)
    numbers = reference_indices(num_frames)
    selection = frames_numbered(video, numbers, threads=threads, start=start)
    if not selection.images:
        raise InputError(f"{video} has only {selection.decoded} frames; replace the file")
    return selection


def _lead(begin: float, times: Float[np.ndarray, "n"]) -> list[float]:
    """Returns the time of the clip's first frame, and of others from there to the selected ones.

    They are as far apart as the selected ones, or farther where they would be more than those.
    """
    apart = times[-1] - times[0]
    steps = (times[0] - begin) * (len(times) - 1) / apart if apart else 1
    count = min(len(times), max(1, math.ceil(steps)))
    return np.linspace(begin, times[0], count, endpoint=False).tolist()


class Window(NamedTuple):
    """A clip's window, in seconds from the clip's start."""

    start: float
    seconds: float

    @property
    def end(self) -> float:
        """Where it ends."""
        return self.start + self.seconds


@contextlib.contextmanager
def explained(path: Path | None) -> Iterator[None]:
    """Makes one InputError of whatever a library raises on one clip's files.

    Raises:
      InputError: names the file and the library's error, which is its cause.
      NoMemoryError: memory ran out.
      OSError: the disk is full.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        text = " ".join(str(error).split())[:200]
        if isinstance(error, MemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            raise NoMemoryError(
                f"memory ran out while {path} was prepared; use fewer --workers, or leave it out"
            ) from error
        raise InputError(
            f"{path} cannot be prepared ({type(error).__name__}: {text}); replace the file, or see "
            "the traceback with --debug"
        ) from error


@contextlib.contextmanager
def _explained_detection(path: Path | None, detector: Detector) -> Iterator[None]:
    """As `explained`, unless the detector fails on a plain image too: then it is no clip's fault.

    With broken weights, for example, every clip would be listed, hours later.
    """
    try:
        with explained(path):
            yield
    except InputError:
        detector.faces(np.zeros((1, *_PLAIN_SIZE, 3), np.uint8))
        raise


def _timeline(
    video: Path, audio: Path | None, start: float, end: float | None, told: dict[str, None]
) -> Timeline | None:
    """Returns when frames are shown; None for sound alone, which need not be a sound file."""
    try:
        return read_timeline(video, start, end)
    except NoVideoError:
        if audio is None:
            raise
        told[notes.NO_VIDEO] = None
        return None


def _length(sound: Sound | None, timeline: Timeline | None) -> float:
    """Returns the clip's length in seconds: its sound's, or without sound its video's."""
    if sound is not None:
        return sound.announced or len(sound.samples) / SAMPLE_RATE
    return 0.0 if timeline is None else timeline.announced or timeline.end


def _within(
    sound: Sound, window: Window, path: Path | None, told: dict[str, None]
) -> Float[np.ndarray, "s"]:
    """Returns samples of which the window is the centre."""
    told.update(dict.fromkeys(sound.notes))
    if sound.announced is None:
        return sound.samples
    found = len(sound.samples) / SAMPLE_RATE
    _check_reach(path, "sound", found, sound.announced, window, told)
    first = round(window.start * SAMPLE_RATE)
    return sound.samples[first : first + window_samples(window.seconds)]


def _check_reach(
    path: Path | None,
    kind: str,
    end: float,
    announced: float | None,
    window: Window,
    told: dict[str, None],
) -> None:
    """Tells of a stream that breaks off, or raises InputError if the window needs the rest."""
    if announced is None:
        return
    if end < min(window.end, announced) - _REACH_TOLERANCE:
        raise InputError(broken_off(path, end, announced))
    told[notes.broken_off(kind, end, announced)] = None


def _tell_extent(
    kind: str,
    begin: float,
    end: float,
    other_end: float | None,
    window: Window,
    told: dict[str, None],
) -> None:
    """Tells of a stream that begins within the window, or ends there before the other does."""
    if begin > window.start + _TELLING_SECONDS:
        told[notes.begins(kind, begin)] = None
    if other_end is not None and end < min(window.end, other_end) - _TELLING_SECONDS:
        told[notes.ends(kind, max(0.0, end - window.start), window.seconds)] = None


def _with_faces(
    clip: PreparedClip, selection: Selection, boxes: Boxes, profile: str
) -> PreparedClip:
    """Crops the faces of selected frames."""
    faceless = sum(box is None for box in boxes)
    num_frames, image_size = clip.frames.shape[:2]
    crop = reference_crops if profile == "reference" else fixed_crops
    try:
        frames = crop([selection.images[i] for i in selection.order], boxes, image_size)
    except NoFaceError:
        return clip._replace(faceless=faceless)
    if len(frames) < num_frames:
        frames = np.concatenate([frames, clip.frames[len(frames) :]])
    return clip._replace(frames=frames, has_video=True, faceless=faceless)


class SoundFeatures(NamedTuple):
    """The sound fields of a `PreparedClip`."""

    mfcc: Float[np.ndarray, "t 10"]
    has_audio: bool
    log_mel: Float[np.ndarray, "t m"] | None


def sound_features(
    samples: Float[np.ndarray, "s"] | None,
    seconds: float = WINDOW_SECONDS,
    log_mels: int = 0,
) -> SoundFeatures:
    """Computes the features of the centre window; zeros if the clip has no sound or is silent.

    Args:
      samples: mono at 22050 Hz, or None.
      seconds: length of the window.
      log_mels: mel bands of the log-mel spectrogram; 0 computes only MFCCs.
    """
    if samples is None or media.is_silent(samples):
        zeros = np.zeros((audio_steps(seconds), log_mels), np.float32) if log_mels else None
        return SoundFeatures(media.no_mfcc(seconds), False, zeros)
    window = media.fit_audio(samples, window_samples(seconds))
    log_mel = media.log_mel(window, log_mels) if log_mels else None
    return SoundFeatures(media.mfcc(window), True, log_mel)


def reference_indices(num_frames: int) -> list[int]:
    """Returns the reference's frame numbers: the middles of equal parts of the first 108 frames."""
    half = REFERENCE_FRAMES // (2 * num_frames)
    return [i * REFERENCE_FRAMES // num_frames + half for i in range(num_frames)]


def even_times(begin: float, end: float, num_frames: int, window: Window) -> Float[np.ndarray, "n"]:
    """Returns the middles of equal parts of what is shown of a window.

    Args:
      begin: when the video is first shown, in seconds.
      end: when it ceases to be shown.
      num_frames: number of parts.
      window: the window; outside the video, its nearest end is returned.
    """
    first = min(max(window.start, begin), end)
    last = max(min(window.end, end), first)
    return first + (np.arange(num_frames) + 0.5) / num_frames * (last - first)


def _window_start(length: float, seconds: float) -> float:
    """Returns the start of the centre window, 0 if the clip is shorter than it."""
    return max(0.0, (length - seconds) / 2)
