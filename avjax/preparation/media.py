"""Reading clips: frames by PyAV, sound by soundfile or PyAV, windows, MFCC.

Sound follows the reference to the digit: mono at 22050 Hz through resampy 0.2.2's `kaiser_best`
filter, 3.6 s, rounded to 16 bits as its saved wav files are.
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
MEL_GAIN = 4e5  # lifts speech out of log1p's linear part; a silent room stays near 0
SILENCE_DBFS = -80.0
SOUND_SUFFIXES = (".wav", ".flac")
_WARM_UP_SECONDS = 0.5  # a sound track's decoder gets before what is wanted
_SAME_TIME = 1e-6  # seconds apart that are rounding
_CUT_SECONDS = 0.5  # a video that lacks more of its announced length was cut off

# `kaiser_best` as resampy 0.2.2 shipped it; from 0.3 the name means another filter.
_ZERO_CROSSINGS, _ROLLOFF, _KAISER_BETA = 64, 0.9475937167399596, 14.769656459379492


# ----------------------------------------------------------------------------------------- sound


def read_audio(
    path: Path, sample_rate: int = SAMPLE_RATE, start: float = 0.0, end: float | None = None
) -> Float[np.ndarray, "s"] | None:
    """The sound of a file: mono float32 in -1..1 at ``sample_rate``.

    Args:
      path: wav or flac, or a video whose first sound track is read.
      sample_rate: in hertz.
      start: second from which to read; what lies before is not decoded.
      end: second up to which to read; None reads to the file's end.

    Returns:
      The samples, or None where a video has no sound track.

    Raises:
      InputError: the file cannot be read or holds no samples there.
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
    """Changes the sample rate as librosa 0.8.1 with resampy 0.2.2 does, to the last bit."""
    ratio = new_rate / rate
    window, table_size = _filter()
    window = window * min(1.0, ratio)
    # Times are a running sum there. Where one should fall on an input sample its rounding decides
    # the filter's side, and in quiet passages the 16-bit rounding carries that into the MFCC.
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
    begins = 0.0  # second at which the first block begins
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
                begins = begins if blocks or not start else time
                blocks += [block.to_ndarray() for block in planar.resample(frame)]
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be decoded ({error}); replace the file") from error
    samples = np.concatenate(blocks, axis=1).T if blocks else np.zeros((0, 1), np.float32)
    last = len(samples) if end is None else round((end - begins) * rate)
    return samples[round((start - begins) * rate) : last], rate


def _seek(container: "av.container.InputContainer", stream: Any, second: float) -> None:
    """Goes to the last place before ``second`` from which the stream can be decoded."""
    if second > 0:
        offset = int((second + _origin(stream)) / stream.time_base)
        container.seek(offset, stream=stream)


def _origin(stream: Any) -> float:
    """Second at which a stream begins."""
    return float((stream.start_time or 0) * stream.time_base)


def is_silent(samples: Float[np.ndarray, "s"]) -> bool:
    """Whether every sample lies below -80 dBFS."""
    return float(np.abs(samples).max(initial=0)) < 10 ** (SILENCE_DBFS / 20)


def fit_audio(
    samples: Float[np.ndarray, "s"], length: int = WINDOW_SAMPLES
) -> Float[np.ndarray, "length"]:
    """Centre crop, or zeros appended, then 16 bits, as reference `extract_audios.py` saves them."""
    spare = len(samples) - length
    if spare < 0:
        samples = np.pad(samples.astype(np.float64), (0, -spare))  # a list there, so 64 bits
    else:
        samples = samples[spare // 2 : spare // 2 + length]
    # libsndfile itself rounds (down, but for the last of 32 bits): one bit moves an MFCC by 15.
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    buffer.seek(0)
    return soundfile.read(buffer, dtype="float32")[0]


def no_mfcc(seconds: float = WINDOW_SECONDS) -> Float[np.ndarray, "t 10"]:
    """What stands for missing sound: zeros."""
    return np.zeros((audio_steps(seconds), N_MFCC), np.float32)


def mfcc(samples: Float[np.ndarray, "s"]) -> Float[np.ndarray, "t 10"]:
    """Ten MFCCs per 512 samples at 22050 Hz, float32; 3.6 s give 156 steps."""
    features = librosa.feature.mfcc(
        y=samples, sr=SAMPLE_RATE, n_mfcc=N_MFCC, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"
    )
    return np.ascontiguousarray(features.T, dtype=np.float32)


def log_mel(samples: Float[np.ndarray, "s"], bands: int) -> Float[np.ndarray, "t m"]:
    """``log(1 + 4e5 * power)`` in mel bands, float32; steps as in `mfcc`. Silence is 0."""
    power = librosa.feature.melspectrogram(
        y=samples, sr=SAMPLE_RATE, n_mels=bands, n_fft=N_FFT, hop_length=HOP, pad_mode="reflect"
    )
    return np.ascontiguousarray(np.log1p(MEL_GAIN * power).T, dtype=np.float32)


# ---------------------------------------------------------------------------------------- frames


def frame_times(path: Path, start: float = 0.0, end: float | None = None) -> Float[np.ndarray, "n"]:
    """Start of every frame in seconds, in order, read without decoding.

    Args:
      path: a video.
      start: second from which times count; frames before it are left out, and not read.
      end: second up to which frames are read; None reads to the file's end.

    Raises:
      InputError: the file is no video that can be opened, has no frames there, or ends before its
        announced end.
    """
    if start or end is not None:
        return _frame_times_between(path, start, end)
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            spans = [(p.pts, p.duration or 0) for p in container.demux(stream) if p.pts is not None]
            unit, announced = float(stream.time_base or 0), stream.duration or 0
            first = stream.start_time or 0
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as video ({error}); replace the file") from error
    if not spans:
        raise InputError(f"{path} holds no video frames; replace the file")
    end = max(start + duration for start, duration in spans)
    if (announced - (end - first)) * unit > _CUT_SECONDS:
        seconds = f"{(end - first) * unit:.1f} of {announced * unit:.1f} seconds"
        raise InputError(f"{path} breaks off after {seconds}; replace the file")
    times = np.sort(np.array([start for start, _ in spans], np.float64)) * unit
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
                    break  # all that is shown before comes before
                if packet.pts is not None:
                    times.append(packet.pts * unit - origin)
    except (av.FFmpegError, OSError) as error:
        raise InputError(f"{path} cannot be read as video ({error}); replace the file") from error
    inside = np.sort([t for t in times if t > start - _SAME_TIME and (end is None or t < end)])
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
    """Decodes a video up to the last of ``indices`` and returns those frames, each once.

    Args:
      path: a video.
      indices: frame numbers from 0, below the length of `frame_times` with the same ``start``.
      pixel_format: `rgb24` or `bgr24`.
      threads: that decode; 0 takes as many as there are cores, 1 costs least where other videos
        are decoded meanwhile.
      start: second at which frame 0 is shown, or the next after it.

    Raises:
      InputError: the video cannot be decoded up to there, or changes its size.
    """
    wanted, last = set(indices), max(indices)
    frames, found, decoded = np.zeros(0, np.uint8), 0, 0
    try:
        with av.open(str(path)) as container:
            stream = _video_stream(container, path)
            stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
            _seek(container, stream, start)
            for frame in container.decode(stream):
                if start and (frame.time or 0.0) - _origin(stream) <= start - _SAME_TIME:
                    continue
                if decoded in wanted:
                    image = frame.to_ndarray(format=pixel_format)
                    if not found:
                        frames = np.empty((len(wanted), *image.shape), np.uint8)
                    if image.shape != frames.shape[1:]:
                        raise InputError(f"{path} changes its size; replace the file")
                    frames[found] = image
                    found += 1
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
