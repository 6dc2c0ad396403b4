"""The demo's voices: pulses and noise filtered by formants, varied by a manner of speaking.

`MANNERS` defines each emotion's manner, `JITTER` the standard deviation of clips around it.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Complex, Float

SAMPLE_RATE = 48000  # of the written sound
_RATE = 16000  # of the synthesis: speech has little above 8 kHz
_WINDOW, _HOP = 512, 128  # of the filter, in samples at _RATE
PEAK = 0.98


class Manner(NamedTuple):
    """A manner of speaking.

    Attributes:
      pitch: semitones above the speaker's pitch.
      melody: standard deviation of the syllables' pitch in semitones.
      slope: semitones from the start of the sentence to its end.
      rate: syllables per second.
      level: loudness of the speech in dB below full scale (RMS).
      tilt: brightness in dB per octave above 500 Hz.
      breath: share of noise in the source, 0 to 1.
      tremor: depth of a 6 Hz vibrato in semitones.
      formants: factor on the formants; a smile raises them.
      pauses: share of syllables followed by a pause.
    """

    pitch: float
    melody: float
    slope: float
    rate: float
    level: float
    tilt: float
    breath: float
    tremor: float
    formants: float
    pauses: float


PLAIN = Manner(0.0, 1.2, -1.0, 4.0, -26.0, 0.0, 0.10, 0.1, 1.00, 0.05)

# Happy and surprised differ only by the rising end, calm and sad mainly by tremor and pace, angry
# and disgusted by pitch and pace. These pairs need the face.
MANNERS: dict[str, Manner] = {
    "neutral": PLAIN,
    "calm": Manner(-1.5, 0.8, -1.0, 3.1, -31.0, -3.5, 0.35, 0.1, 1.00, 0.15),
    "happy": Manner(5.0, 3.0, 0.0, 5.0, -21.0, 2.5, 0.12, 0.2, 1.10, 0.05),
    "sad": Manner(-2.0, 0.8, -3.5, 2.6, -33.0, -4.5, 0.40, 0.6, 0.97, 0.30),
    "angry": Manner(3.0, 2.5, -2.0, 5.2, -17.0, 4.5, 0.15, 0.1, 0.98, 0.00),
    "fearful": Manner(7.0, 1.5, 1.0, 6.0, -25.0, 0.5, 0.50, 1.2, 1.03, 0.15),
    "disgust": Manner(-3.5, 1.5, -2.5, 3.0, -21.0, 1.0, 0.25, 0.0, 0.90, 0.25),
    "surprised": Manner(6.0, 4.0, 6.0, 4.4, -21.0, 2.5, 0.22, 0.2, 1.05, 0.05),
}
JITTER = Manner(1.3, 0.4, 1.2, 0.4, 2.2, 1.1, 0.07, 0.15, 0.02, 0.05)
LOWEST = Manner(-8.0, 0.2, -8.0, 2.2, -38.0, -8.0, 0.02, 0.0, 0.85, 0.0)
HIGHEST = Manner(12.0, 6.0, 9.0, 7.5, -14.0, 8.0, 0.8, 2.0, 1.2, 0.5)


def draw_manner(emotion: str, strength: float, rng: np.random.Generator) -> Manner:
    """Draws a clip's manner: the emotion's, scaled by ``strength`` and jittered."""
    plain, target = np.array(PLAIN), np.array(MANNERS[emotion])
    values = plain + strength * (target - plain) + rng.normal(size=len(PLAIN)) * np.array(JITTER)
    return Manner(*np.clip(values, LOWEST, HIGHEST).tolist())


class Speaker(NamedTuple):
    """An actor's fixed voice.

    Attributes:
      pitch: fundamental frequency in Hz.
      tract: factor on the formants; a shorter vocal tract raises them.
      brightness: dB per octave above 500 Hz.
      gain: recording gain in dB.
      room: level of the background noise in dB below full scale.
    """

    pitch: float
    tract: float
    brightness: float
    gain: float
    room: float


def draw_speaker(rng: np.random.Generator, actor: int) -> Speaker:
    """Draws an actor's voice: low for odd numbers and high for even ones, as in RAVDESS."""
    high = actor % 2 == 0
    return Speaker(
        pitch=rng.uniform(175, 230) if high else rng.uniform(95, 135),
        tract=rng.uniform(1.08, 1.2) if high else rng.uniform(0.95, 1.05),
        brightness=rng.normal() * 0.7,
        gain=rng.normal() * 1.2,
        room=rng.uniform(-66, -58),
    )


# First three formants of each vowel in Hz, and the vowels of both sentences.
VOWELS: dict[str, tuple[float, float, float]] = {
    "a": (730, 1090, 2440),
    "e": (530, 1840, 2480),
    "i": (300, 2200, 2950),
    "o": (500, 920, 2420),
    "u": (330, 900, 2250),
}
SENTENCES = ("iaoieo", "oaiieo")  # statements 01 and 02
BANDWIDTHS = (80.0, 110.0, 160.0)
LEAD_IN = 0.35  # seconds of silence before the first syllable


class Speech(NamedTuple):
    """A spoken sentence.

    Attributes:
      samples: at `SAMPLE_RATE`, within -1..1.
      openness: opening of the mouth, 0 to 1, at `OPENNESS_RATE` Hz.
    """

    samples: Float[np.ndarray, "s"]
    openness: Float[np.ndarray, "f"]


OPENNESS_RATE = _RATE / _HOP


class _Course(NamedTuple):
    """A sentence by filter frame: loudness 0..1, voicing 0..1, semitones, formants in Hz."""

    loudness: Float[np.ndarray, "f"]
    voicing: Float[np.ndarray, "f"]
    pitch: Float[np.ndarray, "f"]
    formants: Float[np.ndarray, "f 3"]


def speak(
    speaker: Speaker, manner: Manner, statement: int, seconds: float, rng: np.random.Generator
) -> Speech:
    """Speaks one of the two sentences.

    Args:
      speaker: the voice.
      manner: the manner of speaking.
      statement: 1 or 2.
      seconds: length of the recording; longer speech is cut.
      rng: draws syllables and noise.
    """
    frames = round(seconds * OPENNESS_RATE)
    course = _plan(manner, SENTENCES[statement - 1], frames, rng)
    source = _excite(speaker, manner, course, rng)
    voice = _filter(source, _response(speaker, manner, course.formants))
    voice *= _by_sample(course.loudness, len(voice))
    active = voice[_by_sample(course.loudness, len(voice)) > 0.2]
    level = np.sqrt(np.mean(active**2)) if len(active) else 1.0
    voice *= 10 ** ((manner.level + speaker.gain) / 20) / max(level, 1e-9)
    voice += rng.normal(size=len(voice)) * 10 ** (speaker.room / 20)
    samples = np.clip(_upsampled(voice, round(seconds * SAMPLE_RATE)), -PEAK, PEAK)
    return Speech(samples, course.loudness)


def _plan(manner: Manner, sentence: str, frames: int, rng: np.random.Generator) -> _Course:
    """Places the sentence's syllables in time."""
    loudness, voicing, pitch = np.zeros(frames), np.ones(frames), np.zeros(frames)
    formants = np.tile(VOWELS["e"], (frames, 1))
    time = LEAD_IN + rng.uniform(-0.1, 0.15)
    for index, vowel in enumerate(sentence):
        length = rng.uniform(0.8, 1.2) / manner.rate
        start, stop = (round(t * OPENNESS_RATE) for t in (time, time + length))
        count = len(loudness[start:stop])
        along = (np.arange(count) + 0.5) / max(stop - start, 1)
        window = slice(start, start + count)
        loudness[window] = np.sin(np.pi * along**0.7) ** 0.6 * rng.uniform(0.7, 1.0)
        voicing[window] = np.clip((along - 0.12) / 0.1, 0, 1)  # starts with a consonant's noise
        progress = (index + along) / len(sentence) - 0.5
        pitch[window] = manner.slope * progress + manner.melody * rng.normal()
        formants[window] = VOWELS[vowel]
        time += length + (rng.uniform(0.15, 0.35) if rng.random() < manner.pauses else 0.02)
    glide = np.hanning(9) / np.hanning(9).sum()
    for track in (pitch, *formants.T):  # the rows of formants.T are views
        track[:] = np.convolve(np.pad(track, 4, mode="edge"), glide, "valid")
    return _Course(loudness, voicing, pitch, formants)


def _excite(
    speaker: Speaker, manner: Manner, course: _Course, rng: np.random.Generator
) -> Float[np.ndarray, "s"]:
    """Returns the source signal: a pulse each period, and noise."""
    count = len(course.pitch) * _HOP
    time = np.arange(count) / _RATE
    semitones = _by_sample(course.pitch, count) + manner.pitch
    semitones += manner.tremor * np.sin(2 * np.pi * 6 * time + rng.uniform(0, 2 * np.pi))
    hertz = speaker.pitch * 2 ** (semitones / 12)
    phase = np.cumsum(hertz) / _RATE
    pulses = np.diff(np.floor(phase), prepend=0.0) * np.sqrt(_RATE / hertz)  # unit power
    noise = rng.normal(size=count)
    voiced = _by_sample(course.voicing, count) * (1 - manner.breath)
    return voiced * pulses + (1 - voiced) * 0.5 * noise


def _response(
    speaker: Speaker, manner: Manner, formants: Float[np.ndarray, "f 3"]
) -> Float[np.ndarray, "f k"]:
    """Returns the vocal tract's gain at each filter frequency."""
    hertz = np.fft.rfftfreq(_WINDOW, 1 / _RATE)
    gain = np.ones((len(formants), len(hertz)))
    for index, bandwidth in enumerate(BANDWIDTHS):
        centre = formants[:, index, None] * speaker.tract * manner.formants
        ratio = hertz / centre
        gain /= np.sqrt((1 - ratio**2) ** 2 + (ratio * bandwidth / centre) ** 2) + 0.02
    octaves = np.log2(np.maximum(hertz, 500) / 500)
    # Net slope of the source, the lips' radiation and the missing higher formants.
    slope = 12 + manner.tilt + speaker.brightness
    return gain * 10 ** (slope * octaves / 20)


def _filter(
    source: Float[np.ndarray, "s"], response: Float[np.ndarray, "f k"]
) -> Float[np.ndarray, "s"]:
    """Filters by overlap-add of windowed frames."""
    window = np.hanning(_WINDOW + 1)[:-1]
    padded = np.pad(source, (_WINDOW // 2, _WINDOW))
    frames = np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP][: len(response)]
    spectra: Complex[np.ndarray, "f k"] = np.fft.rfft(frames * window) * response
    pieces = np.fft.irfft(spectra, _WINDOW)
    total = np.zeros(len(padded))
    for index, piece in enumerate(pieces):
        total[index * _HOP : index * _HOP + _WINDOW] += piece
    return total[_WINDOW // 2 : _WINDOW // 2 + len(source)]


def _by_sample(track: Float[np.ndarray, "f"], count: int) -> Float[np.ndarray, "s"]:
    """Interpolates a track of filter frames at every sample."""
    return np.interp(np.arange(count) / _HOP, np.arange(len(track)), track)


def _upsampled(samples: Float[np.ndarray, "s"], count: int) -> Float[np.ndarray, "n"]:
    """Upsamples to ``count`` samples at `SAMPLE_RATE` by padding the spectrum."""
    factor = SAMPLE_RATE // _RATE
    dense = np.fft.irfft(np.fft.rfft(samples), len(samples) * factor) * factor
    return np.pad(dense, (0, max(0, count - len(dense))))[:count]
