"""Prepares one raw clip, both for datasets and for prediction."""

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
REFERENCE_FRAMES = 108  # 3.6 s at 30 frames per second


class Detector(Protocol):
    """A face detector, such as `avjax.preparation.face_detector.search.FaceDetector`."""

    def largest_boxes(self, frames: UInt8[np.ndarray, "n h w 3"]) -> list[np.ndarray | None]:
        """Returns the bounding box of each frame's largest face, or None without a face."""
        ...


def check_profile(profile: str) -> str:
    """Returns ``profile``, or raises InputError if it is unknown."""
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
    """Reads one clip, selects its window and frames, and crops the faces.

    Args:
      video: video file, or None.
      audio: sound file, or video with a sound track, or None.
      profile: `fixed` or `reference`.
      num_frames: number of frames to select.
      image_size: side of the square crops in pixels.
      detector: the face detector; not needed without a video.
      watch: times the phases `sound`, `decode`, `detect` and `crop`.
      threads: decoder threads, see `avjax.preparation.media.read_frames`.
      seconds: length of the window.
      start: start of the clip within its files, in seconds.
      end: end of the clip within its files, in seconds; None for the end of the files.
      log_mels: mel bands of the log-mel spectrogram; 0 computes only MFCCs.

    Raises:
      InputError: a file cannot be read, or ends before ``start``.
    """
    watch = watch or Stopwatch()
    with watch.phase("sound"):
        samples = None if audio is None else media.read_audio(audio, start=start, end=end)
        sound = sound_features(samples, seconds, log_mels)
    black = np.zeros((num_frames, image_size, image_size, 3), np.uint8)
    if video is None:
        return PreparedClip(black, sound.mfcc, sound.has_audio, False, 0, sound.log_mel)
    assert detector is not None, "frames need a face detector"
    with watch.phase("decode"):
        times = media.frame_times(video, start, end)
        if profile == "reference":
            indices = _reference_indices(video, len(times), num_frames)
        else:
            length = None if samples is None else len(samples) / SAMPLE_RATE
            window_start = None if length is None else _window_start(length, seconds)
            indices = even_indices(times, num_frames, window_start, seconds)
        images = media.read_frames(video, indices, threads=threads, start=start)
    with watch.phase("detect"):
        image_boxes = detector.largest_boxes(images)
    order = np.unique(indices, return_inverse=True)[1]  # a short clip repeats frames
    boxes = [image_boxes[i] for i in order]
    faceless = sum(box is None for box in boxes)
    try:
        crop = reference_crops if profile == "reference" else fixed_crops
        with watch.phase("crop"):
            frames = crop([images[i] for i in order], boxes, image_size)
    except NoFaceError:
        return PreparedClip(black, sound.mfcc, sound.has_audio, False, faceless, sound.log_mel)
    missing = num_frames - len(frames)
    frames = np.concatenate([frames, black[:missing]]) if missing else frames
    return PreparedClip(frames, sound.mfcc, sound.has_audio, True, faceless, sound.log_mel)


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


def _reference_indices(video: Path, available: int, num_frames: int) -> list[int]:
    indices = [i for i in reference_indices(num_frames) if i < available]
    if not indices:
        raise InputError(f"{video} has only {available} frames; replace the file")
    return indices


def reference_indices(num_frames: int) -> list[int]:
    """Returns the reference's frame numbers: the middles of equal parts of the first 108 frames."""
    half = REFERENCE_FRAMES // (2 * num_frames)
    return [i * REFERENCE_FRAMES // num_frames + half for i in range(num_frames)]


def even_indices(
    times: Float[np.ndarray, "n"],
    num_frames: int,
    start: float | None = None,
    seconds: float = WINDOW_SECONDS,
) -> list[int]:
    """Returns the frame numbers at the middles of equal parts of a window.

    Args:
      times: start time of each frame in seconds.
      num_frames: number of frames to select; a shorter clip repeats frames.
      start: start of the window in seconds; None centres the window in the video.
      seconds: length of the window.
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
    """Returns the start of the centre window, 0 if the clip is shorter than it."""
    return max(0.0, (length - seconds) / 2)
