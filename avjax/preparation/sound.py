"""Reads sound: mono on the file's clock, at any sample rate.

libsndfile reads what it reads exactly, FFmpeg everything else; each stands in for the other.
"""

import functools
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import av
import numba
import numpy as np
import resampy
import soundfile
from av.container import InputContainer
from jaxtyping import Float

from avjax.data.records import SAMPLE_RATE
from avjax.errors import InputError
from avjax.preparation import container, mixdown, notes

_WARM_UP_SECONDS = 0.5  # of sound decoded and discarded before the start
_GAP_SECONDS = 0.1  # jumps of a track's clock by more than this are real
_MOST_SILENCE = 300.0  # seconds filled in; a damaged clock may jump by hours
_RATES = (1000, 1_000_000)  # hertz; outside, a header is wrong
_SHORTEST_SECONDS = 0.01
_COMPILING = threading.Lock()
_LOSSY = ("OGG", "MPEG")  # libsndfile decodes them, but knows nothing of their delays
_UNKNOWN_SIZE = 0x7FFFF000  # and above: what writers to pipes leave

# `kaiser_best` of resampy 0.2.2; resampy 0.3 changed the filter.
_ZERO_CROSSINGS, _ROLLOFF, _KAISER_BETA = 64, 0.9475937167399596, 14.769656459379492


class Sound(NamedTuple):
    """The sound of a clip.

    Attributes:
      samples: mono float32 in -1..1 from the clip's start on; zeros where it has not begun.
      begin: when it begins, in seconds.
      announced: when it should end by its header, in seconds, if it breaks off before.
      notes: what was decided about it.
    """

    samples: Float[np.ndarray, "s"]
    begin: float = 0.0
    announced: float | None = None
    notes: tuple[str, ...] = ()


class NoSamplesError(InputError):
    """The sound has no samples in the range that was asked for."""


class _Track(NamedTuple):
    """Decoded samples of one track; `announced` as in `Sound`."""

    samples: Float[np.ndarray, "s c"]
    rate: int
    channels: tuple[str, ...] | None
    begin: float
    announced: float | None
    notes: list[str]


def read_audio(
    path: Path, sample_rate: int = SAMPLE_RATE, start: float = 0.0, end: float | None = None
) -> Float[np.ndarray, "s"] | None:
    """Reads a file's sound as mono float32 in -1..1 at ``sample_rate``.

    Args:
      path: a sound file, or a video, of which the default sound track is read.
      sample_rate: in hertz.
      start: where to start on the file's clock, in seconds; earlier sound is not decoded.
      end: where to stop, in seconds; None reads to the end.

    Returns:
      The samples, or None if a video has no sound track.

    Raises:
      InputError: the file cannot be read or has no samples in that range.
    """
    sound = read_sound(path, sample_rate, start, end)
    return None if sound is None else sound.samples


def read_sound(
    path: Path, sample_rate: int = SAMPLE_RATE, start: float = 0.0, end: float | None = None
) -> Sound | None:
    """Reads a file's sound, and what there is to tell of it; as `read_audio`.

    Args:
      path: as in `read_audio`.
      sample_rate: in hertz.
      start: as in `read_audio`; silence stands before 0.
      end: as in `read_audio`.
    """
    track = _read_sound_file(path, start, end)
    voice: np.ndarray | None = None
    told: list[str] = []
    if track is not None:
        voice, told = mixdown.mono(track.samples, path, track.channels)
    else:
        for candidate in _tracks(path, start, end):
            mix, of_mix = mixdown.mono(candidate.samples, path, candidate.channels)
            if voice is None or not mixdown.is_silent(mix):
                track, voice, told = candidate, mix, of_mix
            if not mixdown.is_silent(mix):
                break
    if track is None or voice is None:
        return None
    if not len(voice):
        where = f" from {start:g} s on; correct the clip's start" if start else "; replace the file"
        raise NoSamplesError(f"{path} holds no sound samples{where}")
    if len(voice) < _SHORTEST_SECONDS * track.rate:
        raise InputError(
            f"{path} holds {notes.counted(len(voice), 'sound sample')}, less than "
            f"{_SHORTEST_SECONDS} s; replace the file"
        )
    if track.rate != sample_rate:
        voice = resample(voice, track.rate, sample_rate)
    return Sound(voice, track.begin, track.announced, (*track.notes, *told))


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
    samples = np.require(samples, np.float32, ["C", "W"])
    _interpolate()(samples, times, window, slopes, table_size, min(1.0, ratio), resampled)
    size = math.ceil(len(samples) * ratio)
    return np.pad(resampled, (0, max(0, size - len(resampled))))[:size]


@functools.cache
def _filter() -> tuple[Float[np.ndarray, "w"], int]:
    """Right half of the interpolation filter, and its samples per zero crossing."""
    kaiser = functools.partial(np.kaiser, beta=_KAISER_BETA)
    window, table_size, _ = resampy.filters.sinc_window(
        num_zeros=_ZERO_CROSSINGS, window=kaiser, rolloff=_ROLLOFF
    )
    return window, table_size


def _interpolate() -> Callable[..., None]:
    """Returns resampy's loop over output samples, compiled once."""
    with _COMPILING:
        return _compiled_loop()


@functools.cache
def _compiled_loop() -> Callable[..., None]:
    """Compiles resampy's loop, or takes it from Numba's cache.

    resampy itself compiles it in every process, which takes most of a second.
    """
    sound, table = "float32[::1]", "float64[::1]"
    signature = f"({sound}, {table}, {table}, {table}, int64, float64, {sound})"
    loop, options = resampy.interpn._resample_loop, {"nopython": True, "nogil": True}
    try:
        return numba.jit(signature, cache=True, **options)(loop)
    except Exception:  # a cache that is damaged, or cannot be written
        return numba.jit(signature, **options)(loop)


def _check_rate(path: Path, rate: int) -> None:
    least, most = _RATES
    if not least <= rate <= most:
        raise InputError(
            f"{path} has {rate} samples a second by its header, which no recording has; correct "
            "the header"
        )


def _check_silence(path: Path, seconds: float) -> None:
    """Raises InputError where more silence stands for missing sound than a clip is long."""
    if seconds > _MOST_SILENCE:
        raise InputError(
            f"{path} has {seconds:.0f} s without sound by its clock; cut the clip by start "
            "and end, or replace the file"
        )


# ------------------------------------------------------------------------------------ libsndfile


def _read_sound_file(path: Path, start: float, end: float | None) -> _Track | None:
    """Reads a file that libsndfile reads exactly; None if it is no such file."""
    try:
        # By its descriptor, so that its name says nothing.
        with path.open("rb") as raw, soundfile.SoundFile(raw.fileno(), closefd=False) as file:
            if file.format in _LOSSY:
                return None
            rate = file.samplerate
            _check_rate(path, rate)
            last = file.frames if end is None else min(int(end * rate), file.frames)
            first = min(max(0, int(start * rate)), max(0, last))
            file.seek(first)
            samples = file.read(last - first, dtype="float32", always_2d=True)
            there = file.frames / rate
    except (soundfile.LibsndfileError, OSError):
        return None
    lead = max(0, -int(start * rate))
    if lead:
        _check_silence(path, lead / rate)
        samples = np.concatenate([np.zeros((lead, samples.shape[1]), np.float32), samples])
    announced = container.broken_at(there, there * _promised_share(path), end)
    announced = None if announced is None else announced - start
    return _Track(samples, rate, None, lead / rate, announced, [])


def _promised_share(path: Path) -> float:
    """Returns the length that a WAVE or AIFF header promises, by what is there."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind, total = file.read(4), file.read(4)
        if kind == b"FORM":
            return max(1.0, (8 + int.from_bytes(total, "big")) / size)
        place = 12
        while kind == b"RIFF" and place + 8 < size:
            file.seek(place)
            head = file.read(8)
            length, there = int.from_bytes(head[4:], "little"), size - place - 8
            if head[:4] == b"data":
                return 1.0 if length >= _UNKNOWN_SIZE else max(1.0, length / there)
            place += 8 + length + length % 2
    return 1.0


# ---------------------------------------------------------------------------------------- FFmpeg


def _tracks(path: Path, start: float, end: float | None) -> Iterator[_Track]:
    """Decodes a file's sound tracks one by one, the default first."""
    number, total = 0, 1
    while number < total:
        track, total = _decode(path, number, start, end)
        if track is not None:
            yield track
        number += 1


def _decode(path: Path, number: int, start: float, end: float | None) -> tuple[_Track | None, int]:
    """Decodes the track that is ``number`` in order of preference; also says how many there are."""
    told: list[str] = []
    facts: dict[str, Any] = {"total": 0, "announced": None}

    def choose(file: InputContainer) -> int | None:
        choices = container.by_default("sound", file.streams.audio)
        facts["total"] = len(choices)
        if not choices:
            return None
        choice = choices[number]
        track = file.streams[choice.track]
        told[:] = [choice.note] if choice.note else []
        facts["announced"] = container.announced_end(file, track)
        return choice.track

    faults: list[str] = []
    warm = start - _WARM_UP_SECONDS if start > 0 else start
    placed = _Placed(path, start, told)
    for time, frame in container.frames_from(path, choose, warm, faults):
        if end is not None and time >= end:
            break
        placed.add(time, frame)
    if not facts["total"]:
        return None, 0
    if faults:
        told.append(notes.damaged(len(faults)))
    if not placed.rate:
        fault = faults[0] if faults else "its sound track has no data: it may be cut short"
        raise InputError(f"{path} cannot be decoded ({fault}); replace the file")
    samples = placed.samples(end)
    announced = container.broken_at(start + len(samples) / placed.rate, facts["announced"], end)
    announced = None if announced is None else announced - start
    begin = placed.begin or 0.0
    track = _Track(samples, placed.rate, placed.channels, begin, announced, told)
    return track, facts["total"]


class _Placed:
    """Decoded blocks, each at its place on the clip's clock."""

    def __init__(self, path: Path, start: float, told: list[str]) -> None:
        self._path, self._start, self._told = path, start, told
        self._blocks: list[np.ndarray] = []
        self._position = 0  # of the next block, in samples from the clip's start
        self._silence = 0  # samples filled in
        self._formats: Any = None
        self._resampler: Any = None
        self.rate = 0
        self.channels: tuple[str, ...] = ()
        self.begin: float | None = None

    def add(self, time: float, frame: Any) -> None:
        """Places a block that begins at ``time``."""
        if not self.rate:
            self.rate = frame.sample_rate
            _check_rate(self._path, self.rate)
            self.channels = tuple(channel.name for channel in frame.layout.channels)
            self._layout = frame.layout
            self._position = round((time - self._start) * self.rate)
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._formats:  # formats may change, in broadcasts
            self._formats = kind
            self._resampler = av.AudioResampler("fltp", self._layout, self.rate)
        for block in self._resampler.resample(frame):
            self._place(time, block.to_ndarray())

    def _place(self, time: float, block: np.ndarray) -> None:
        excess = round((time - self._start) * self.rate) - self._position
        if abs(excess) > _GAP_SECONDS * self.rate:
            if self._position + excess > 0 and excess > 0:
                if self._blocks:
                    self._told.append(notes.gap(excess / self.rate))
                    self._append(self._silent(len(block), excess))
                else:  # the gap reaches over the start
                    self._position += excess
            elif excess < 0:
                block = block[:, -excess:]
        self._append(block)

    def _append(self, block: np.ndarray) -> None:
        """Appends samples, without those from before the clip."""
        early = min(max(0, -self._position), block.shape[1])
        if block.shape[1] > early:
            if self.begin is None:
                self.begin = (self._position + early) / self.rate
                if self.begin:
                    self._blocks.append(self._silent(len(block), self._position + early))
            self._blocks.append(block[:, early:])
        self._position += block.shape[1]

    def _silent(self, channels: int, count: int) -> Float[np.ndarray, "c s"]:
        self._silence += count
        _check_silence(self._path, self._silence / self.rate)
        return np.zeros((channels, count), np.float32)

    def samples(self, end: float | None) -> Float[np.ndarray, "s c"]:
        """Returns all samples up to ``end``."""
        if not self._blocks:
            return np.zeros((0, max(1, len(self.channels))), np.float32)
        joined = np.concatenate(self._blocks, axis=1).T
        return joined[: None if end is None else max(0, round((end - self._start) * self.rate))]
