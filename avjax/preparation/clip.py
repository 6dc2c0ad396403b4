"""From a raw clip to the network's stored inputs: the same code for datasets and prediction."""

from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from avjax.data.records import (
    SAMPLE_RATE,
    WINDOW_SECONDS,
    PreparedClip,
    audio_steps,
    window_samples,
)
from avjax.errors import InputError
from avjax.preparation import media
from avjax.preparation.crops import NoFaceError, fixed_crops, reference_crops
from avjax.preparation.stopwatch import Stopwatch

PROFILES = ("fixed", "reference")
REFERENCE_FRAMES = 108  # 3.6 s at 30 frames a second


class Detector(Protocol):
    """What finds faces; see `avjax.preparation.face_detector.search.FaceDetector`."""

    def largest_boxes(self, frames: UInt8[np.ndarray, "n h w 3"]) -> list[np.ndarray | None]:
        """The box of the largest face of each frame, None where there is no face."""
        ...


def check_profile(profile: str) -> str:
    """Returns ``profile``, or raises InputError where there is none of that name."""
    if profile not in PROFILES:
        raise InputError(f"unknown profile {profile!r}; choose one of {', '.join(PROFILES)}")
    return profile


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
) -> PreparedClip:
    """Reads, cuts and crops one clip.

    Args:
      video: its video, or None.
      audio: its sound, a sound file or a video with a sound track, or None.
      profile: `fixed` or `reference`.
      num_frames: frames to keep.
      image_size: side of the square crops in pixels.
      detector: finds the faces; not needed where there is no video.
      watch: receives the time of the phases `sound`, `decode`, `detect` and `crop`.
      threads: that decode, see `avjax.preparation.media.read_frames`.
      seconds: of the window to keep.
      start: second at which the clip begins in its files.
      end: second at which it ends; None for the files' own end.
      log_mels: bands of a log-mel spectrum to compute beside the MFCCs; 0 for none.

    Raises:
      InputError: a file that cannot be read, or ends before ``start``.
    """
    watch = watch or Stopwatch()
    with watch.phase("sound"):
        samples = None if audio is None else media.read_audio(audio, start=start, end=end)
        heard = sound_features(samples, seconds, log_mels)
    blank = np.zeros((num_frames, image_size, image_size, 3), np.uint8)
    if video is None:
        return PreparedClip(blank, heard.mfcc, heard.has_audio, False, 0, heard.log_mel)
    assert detector is not None, "frames need a face detector"
    with watch.phase("decode"):
        times = media.frame_times(video, start, end)
        if profile == "reference":
            indices = _reference_indices(video, len(times), num_frames)
        else:
            length = None if samples is None else len(samples) / SAMPLE_RATE
            begins = None if length is None else _window_start(length, seconds)
            indices = even_indices(times, num_frames, begins, seconds)
        images = media.read_frames(video, indices, threads=threads, start=start)
    with watch.phase("detect"):
        found = detector.largest_boxes(images)
    order = np.unique(indices, return_inverse=True)[1]  # a short clip repeats frames
    boxes = [found[i] for i in order]
    faceless = sum(box is None for box in boxes)
    try:
        crop = reference_crops if profile == "reference" else fixed_crops
        with watch.phase("crop"):
            frames = crop([images[i] for i in order], boxes, image_size)
    except NoFaceError:
        return PreparedClip(blank, heard.mfcc, heard.has_audio, False, faceless, heard.log_mel)
    missing = num_frames - len(frames)
    frames = np.concatenate([frames, blank[:missing]]) if missing else frames
    return PreparedClip(frames, heard.mfcc, heard.has_audio, True, faceless, heard.log_mel)


class SoundFeatures(NamedTuple):
    """What networks read of a clip's sound; as in `PreparedClip`."""

    mfcc: Float[np.ndarray, "t 10"]
    has_audio: bool
    log_mel: Float[np.ndarray, "t m"] | None


def sound_features(
    samples: Float[np.ndarray, "s"] | None,
    seconds: float = WINDOW_SECONDS,
    log_mels: int = 0,
) -> SoundFeatures:
    """Features of the window in the centre of a sound; zeros where there is none or silence.

    Args:
      samples: mono at 22050 Hz, or None.
      seconds: of the window.
      log_mels: bands of the log-mel spectrum; 0 for none.
    """
    if samples is None or media.is_silent(samples):
        blank = np.zeros((audio_steps(seconds), log_mels), np.float32) if log_mels else None
        return SoundFeatures(media.no_mfcc(seconds), False, blank)
    window = media.fit_audio(samples, window_samples(seconds))
    spectrum = media.log_mel(window, log_mels) if log_mels else None
    return SoundFeatures(media.mfcc(window), True, spectrum)


def _reference_indices(video: Path, available: int, num_frames: int) -> list[int]:
    indices = [i for i in reference_indices(num_frames) if i < available]
    if not indices:
        raise InputError(f"{video} has only {available} frames; replace the file")
    return indices


def reference_indices(num_frames: int) -> list[int]:
    """Frame numbers of the reference: middles of equal parts of the first 108 frames."""
    half = REFERENCE_FRAMES // (2 * num_frames)
    return [i * REFERENCE_FRAMES // num_frames + half for i in range(num_frames)]


def even_indices(
    times: Float[np.ndarray, "n"],
    num_frames: int,
    start: float | None = None,
    seconds: float = WINDOW_SECONDS,
) -> list[int]:
    """Numbers of the frames in the middles of equal parts of the clip's centre window.

    Args:
      times: start of each frame in seconds.
      num_frames: frames to choose; a clip of fewer frames repeats some.
      start: of the window in seconds; None centres it in the video.
      seconds: of the window.
    """
    frame_seconds = (times[-1] - times[0]) / max(1, len(times) - 1)
    if start is None:
        start = _window_start(times[-1] + frame_seconds, seconds)
    inside = np.flatnonzero((times >= start) & (times < start + seconds))
    if not len(inside):
        inside = np.array([np.abs(times - start).argmin()])
    middles = (np.arange(num_frames) + 0.5) / num_frames * len(inside)
    return inside[middles.astype(int)].tolist()


def _window_start(length: float, seconds: float) -> float:
    """Start of the window in the centre of a recording, 0 where that is shorter."""
    return max(0.0, (length - seconds) / 2)
