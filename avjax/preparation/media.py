"""Reads frames and sound from clips, and computes MFCCs and log-mel spectrograms.

Sound matches the reference exactly: mono, resampled to 22050 Hz with resampy 0.2.2's `kaiser_best`
filter, cut to 3.6 s and rounded to 16 bits, as in the reference's wav files.
"""

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import librosa
import numpy as np
import resampy
import soundfile
from jaxtyping import Float, UInt8

from avjax.data.records import (
    HOP,
    SAMPLE_RATE,
    WINDOW_SECONDS,
    audio_steps,
    window_samples,
)
from avjax.errors import InputError
from avjax.models.network import N_MFCC

WINDOW_SAMPLES = window_samples(WINDOW_SECONDS)
N_FFT = 2048
MEL_GAIN = 4e5  # moves speech beyond log1p's linear range; background noise stays near 0
SILENCE_DBFS = -80.0
SOUND_SUFFIXES = (".wav", ".flac")
_WARM_UP_SECONDS = 0.5  # of sound decoded and discarded before the start
_TIME_TOLERANCE = 1e-6  # seconds
_CUT_SECONDS = 0.5  # a video shorter than its header's duration by more than this is truncated

# `kaiser_best` of resampy 0.2.2; resampy 0.3 changed the filter.
_ZERO_CROSSINGS, _ROLLOFF, _KAISER_BETA = 64, 0.9475937167399596, 14.769656459379492


# ----------------------------------------------------------------------------------------- sound


def read_audio(
    path: Path, sample_rate: int = SAMPLE_RATE, start: float = 0.0, end: float | None = None
) -> Float[np.ndarray, "s"] | None:
    """Reads a file's sound as mono float32 in -1..1 at ``sample_rate``.

    Args:
      path: a wav or flac file, or a video, of which the first sound track is read.
      sample_rate: in hertz.
      start: where to start, in seconds; earlier sound is not decoded.
      end: where to stop, in seconds; None reads to the end.

    Returns:
      The samples, or None if a video has no sound track.

    Raises:
      InputError: the file cannot be read or has no samples in that range.
    """
    if path.suffix.lower() in SOUND_SUFFIXES:
        samples, rate = _read_sound_file(path, start, end)
    else:
        track = _read_sound_track(path, start, end)
        if track is None:
            return None
        samples, rate = track
    if not len(samples):
        where = f" from {start:g} s on; correct the clip's start" if start else "; replace the file"
        raise InputError(f"{path} holds no sound samples{where}")
    mono = samples.mean(axis=1, dtype=np.float32)
    if rate == sample_rate:
        return mono
    return resample(mono, rate, sample_rate)


def resample(
    samples: Float[np.ndarray, "s"], rate: int, new_rate: int
) -> Float[np.ndarray, "ceil(s*new_rate/rate)"]:
    """Changes the sample rate, bit for bit like librosa 0.8.1 with resampy 0.2.2."""
    ratio = new_rate / rate
    window, table_size = _filter()
    window = window * min(1.0, ratio)
    # resampy 0.2.2 accumulates times in a running sum. Its rounding errors decide on which side of
    # an input sample a time falls, and in quiet passages that changes the 16-bit samples.
    times = np.concatenate([[0.0], np.cumsum(np.full(int(len(samples) * ratio) - 1, 1 / ratio))])
    resampled = np.zeros(len(times), samples.dtype)
    slopes = np.diff(window, append=window[-1])
    resampy.interpn.resample_f_s(
        samples, times, window, slopes, table_size, min(1.0, ratio), resampled
    )
    return librosa.util.fix_length(resampled, size=math.ceil(len(samples) * ratio))


@functools.cache
def _filter() -> tuple[Float[np.ndarray, "w"], int]:
    """Right half of the interpolation filter, and its samples per zero crossing."""
    kaiser = functools.partial(np.kaiser, beta=_KAISER_BETA)
    window, table_size, _ = resampy.filters.sinc_window(
        num_zeros=_ZERO_CROSSINGS, window=kaiser, rolloff=_ROLLOFF
    )
    return window, table_size


def _read_sound_file(
    path: Path, start: float, end: float | None
) -> tuple[Float[np.ndarray, "s c"], int]:
    try:
        with soundfile.SoundFile(path) as file:
            rate = file.samplerate
            last = file.frames if end is None else min(int(end * rate), file.frames)
            file.seek(min(int(start * rate), last))
            return file.read(last - file.tell(), dtype="float32", always_2d=True), rate
    except (soundfile.LibsndfileError, OSError) as error:
        raise InputError(f"{path} cannot be read as sound ({error}); replace the file") from error


def _read_sound_track(
    path: Path, start: float, end: float | None
) -> tuple[Float[np.ndarray, "s c"], int] | None:
    blocks: list[np.ndarray] = []
    first_time = 0.0  # of the first block, in seconds
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                return None
            stream = container.streams.audio[0]
            planar = av.AudioResampler(format="fltp", layout=stream.layout)
            rate = stream.rate
            _seek(container, stream, start - _WARM_UP_SECONDS)
            for frame in container.decode(stream):
                time = (frame.time or 0.0) - _origin(stream)
                if end is not None and time >= end:
                    break
                first_time = first_time if blocks or not start else time
                blocks += [block.to_ndarray() for block in planar.resample(frame)]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); replace the file") from error
    samples = np.concatenate(blocks, axis=1).T if blocks else np.zeros((0, 1), np.float32)
    last = len(samples) if end is None else round((end - first_time) * rate)
    return samples[round((start - first_time) * rate) : last], rate


def _seek(container: "av.container.InputContainer", stream: Any, second: float) -> None:
    """Seeks to the last keyframe before ``second``."""
    if second > 0:
        offset = int((second + _origin(stream)) / stream.time_base)
        container.seek(offset, stream=stream)


def _origin(stream: Any) -> float:
    """Returns a stream's start time in seconds."""
    return float((stream.start_time or 0) * stream.time_base)


def is_silent(samples: Float[np.ndarray, "s"]) -> bool:
    """Whether every sample is below -80 dBFS."""
    return float(np.abs(samples).max(initial=0)) < 10 ** (SILENCE_DBFS / 20)


def fit_audio(
    samples: Float[np.ndarray, "s"], length: int = WINDOW_SAMPLES
) -> Float[np.ndarray, "length"]:
    """Crops the centre or appends zeros, then rounds to 16 bits (`extract_audios.py`)."""
    excess = len(samples) - length
    if excess < 0:
        # The reference pads a Python list, which makes it float64.
        samples = np.pad(samples.astype(np.float64), (0, -excess))
    else:
        samples = samples[excess // 2 : excess // 2 + length]
    # Let libsndfile round, since it does so in its own way: one bit moves an MFCC by up to 15.
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


def no_mfcc(seconds: float = WINDOW_SECONDS) -> Float[np.ndarray, "t 10"]:
    """Returns zeros in place of the MFCCs of missing sound."""
    return np.zeros((audio_steps(seconds), N_MFCC), np.float32)


def mfcc(samples: Float[np.ndarray, "s"]) -> Float[np.ndarray, "t 10"]:
    """Computes ten MFCCs per 512 samples at 22050 Hz, float32; 3.6 s give 156 steps."""
    features = librosa.feature.mfcc(
        y=samples, sr=SAMPLE_RATE, n_mfcc=N_MFCC, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"
    )
    return np.ascontiguousarray(features.T, dtype=np.float32)


def log_mel(samples: Float[np.ndarray, "s"], bands: int) -> Float[np.ndarray, "t m"]:
    """Computes ``log(1 + 4e5 * power)`` in mel bands, float32, with the steps of `mfcc`."""
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE, n_mels=bands, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"
    )
    return np.ascontiguousarray(np.log1p(MEL_GAIN * power).T, dtype=np.float32)


# ---------------------------------------------------------------------------------------- frames


def frame_times(path: Path, start: float = 0.0, end: float | None = None) -> Float[np.ndarray, "n"]:
    """Returns the sorted start times of all frames in seconds, without decoding them.

    Args:
      path: a video.
      start: origin of the times, in seconds; earlier frames are not read.
      end: where to stop, in seconds; None reads to the end.

    Raises:
      InputError: the file is not a readable video, has no frames in that range, or ends before its
        header says.
    """
    if start or end is not None:
        return _frame_times_between(path, start, end)
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            spans = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None]
            unit, duration = float(stream.time_base or 0), stream.duration or 0
            first = stream.start_time or 0
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as video ({error}); replace the file") from error
    if not spans:
        raise InputError(f"{path} holds no video frames; replace the file")
    end = max(pts + length for pts, length in spans)
    if (duration - (end - first)) * unit > _CUT_SECONDS:
        seconds = f"{(end - first) * unit:.1f} of {duration * unit:.1f} seconds"
        raise InputError(f"{path} breaks off after {seconds}; replace the file")
    times = np.sort(np.array([pts for pts, _ in spans], np.float64)) * unit
    return times - times[0]


def _frame_times_between(path: Path, start: float, end: float | None) -> Float[np.ndarray, "n"]:
    times = []
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            unit, origin = float(stream.time_base or 0), _origin(stream)
            _seek(container, stream, start)
            for packet in container.demux(stream):
                if end is not None and packet.dts is not None and packet.dts * unit - origin >= end:
                    break  # a packet is decoded before it is shown
                if packet.pts is not None:
                    times.append(packet.pts * unit - origin)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as video ({error}); replace the file") from error
    inside = np.sort([t for t in times if t > start - _TIME_TOLERANCE and (end is None or t < end)])
    if not len(inside):
        raise InputError(
            f"{path} has no frame from {start:g} s on; correct the clip's start and end"
        )
    return inside - start


def read_frames(
    path: Path,
    indices: Sequence[int],
    pixel_format: str = "rgb24",
    threads: int = 0,
    start: float = 0.0,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Decodes the frames at ``indices``, each once.

    Args:
      path: a video.
      indices: frame numbers from 0, below the length of `frame_times` with the same ``start``.
      pixel_format: `rgb24` or `bgr24`.
      threads: decoder threads; 0 uses every core, 1 is cheapest when other videos are being
        decoded.
      start: time of frame 0 in seconds; the first frame from there on counts as 0.

    Raises:
      InputError: the video cannot be decoded up to the last index, or changes its size.
    """
    selected, last = set(indices), max(indices)
    frames, num_read, decoded = np.zeros(0, np.uint8), 0, 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            _seek(container, stream, start)
            for frame in container.decode(stream):
                if start and (frame.time or 0.0) - _origin(stream) <= start - _TIME_TOLERANCE:
                    continue
                if decoded in selected:
                    image = frame.to_ndarray(format=pixel_format)
                    if not num_read:
                        frames = np.empty((len(selected), *image.shape), np.uint8)
                    if image.shape != frames.shape[1:]:
                        raise InputError(f"{path} changes its size; replace the file")
                    frames[num_read] = image
                    num_read += 1
                decoded += 1
                if decoded > last:
                    break
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); replace the file") from error
    if decoded <= last:
        raise InputError(f"{path} breaks off after {decoded} frames; replace the file")
    return frames


def _video_stream(container: "av.container.InputContainer", path: Path) -> "av.VideoStream":
    if not container.streams.video:
        raise InputError(f"{path} has no video track; give a video file")
    return container.streams.video[0]
