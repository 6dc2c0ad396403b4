"""From decoded channels to one voice: faulty samples, integer scale, channels that cancel."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from avjax.errors import InputError
from avjax.preparation import notes

SILENCE_DBFS = -80.0
_AUDIBLE = 10 ** (-6 / 20)  # of the loudest channel's level: what a mean must keep of a voice
_INTEGER_PEAK = 100.0  # float samples beyond are no loud recording
_RANGES = tuple(2.0**bits for bits in (15, 23, 31))
_CLIPPING = 1.05  # lossy codecs overshoot full scale by a little
# Channels in the order of WAVE files, by their number; files with other orders name theirs.
_ORDERS = {
    3: ("FL", "FR", "FC"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
_WEIGHTS = {"FL": 0.5, "FR": 0.5, "FC": 0.7071, "LFE": 0.0}  # ITU-R BS.775's stereo, averaged
_SURROUND_WEIGHT = 0.3536


def is_silent(samples: Float[np.ndarray, "*s"]) -> bool:
    """Whether every sample is below -80 dBFS."""
    return _peak(samples) < 10 ** (SILENCE_DBFS / 20)


def mono(
    samples: Float[np.ndarray, "s c"], path: Path, channels: Sequence[str] | None = None
) -> tuple[Float[np.ndarray, "s"], list[str]]:
    """Mixes channels so that a voice in any of them is heard within 6 dB.

    The mean, unless it loses what a channel holds: channels that are silent or not finite are left
    out, and where channels cancel, the loudest one stands for all.

    Args:
      samples: float32.
      path: for messages.
      channels: names such as FL and FC, where the file tells them.

    Returns:
      The mix, and notes.

    Raises:
      InputError: no channel holds finite samples.
    """
    told: list[str] = []
    kept = _finite(samples, path, told)
    scaled = _full_scale(samples[:, kept] if len(kept) < samples.shape[1] else samples, path, told)
    if scaled.shape[1] == 1:
        return np.ascontiguousarray(scaled[:, 0]), told
    silent = [is_silent(scaled[:, i]) for i in range(scaled.shape[1])]
    if any(silent) and not all(silent):
        told.append(notes.channels_left_out(sum(silent), len(silent), "silent"))
        scaled, kept = scaled[:, ~np.array(silent)], kept[~np.array(silent)]
    names = channels or _ORDERS.get(samples.shape[1], ())
    mix = _surround(scaled, [names[i] for i in kept], told) if "FC" in names else None
    if mix is None:
        mix = scaled.mean(axis=1, dtype=np.float32)
    levels = [_level(scaled[:, i]) for i in range(scaled.shape[1])]
    if _level(mix) < _AUDIBLE * max(levels):
        told.append(notes.channels_left_out(len(levels) - 1, len(levels), "the mean loses them"))
        mix = np.ascontiguousarray(scaled[:, int(np.argmax(levels))])
    return mix, told


def _finite(samples: Float[np.ndarray, "s c"], path: Path, told: list[str]) -> np.ndarray:
    """Returns the numbers of the channels without NaN and infinity."""
    finite = np.isfinite(samples).all(axis=0)
    if not finite.any():
        row, column = np.argwhere(~np.isfinite(samples))[0]
        raise InputError(
            f"{path} holds a sample that is {samples[row, column]} (number {row} read); replace "
            "the file"
        )
    if not finite.all():
        told.append(notes.channels_left_out(int((~finite).sum()), len(finite), "not finite"))
    return np.flatnonzero(finite)


def _full_scale(
    samples: Float[np.ndarray, "s c"], path: Path, told: list[str]
) -> Float[np.ndarray, "s c"]:
    """Brings float samples in integer scale to -1..1."""
    peak = _peak(samples)
    if peak <= _CLIPPING:
        return samples
    if peak <= _INTEGER_PEAK and not _are_integers(samples):
        told.append(notes.over_range(peak))
        return samples
    scale = next((scale for scale in _RANGES if peak <= scale), None)
    if scale is None:
        raise InputError(
            f"{path} holds samples of up to {peak:.3g}, which no recording has; replace the file"
        )
    told.append(notes.integer_scale(peak))
    return samples / np.float32(scale)


def _are_integers(samples: np.ndarray) -> bool:
    return _peak(samples) > 2 and bool((samples == np.round(samples)).all())


def _surround(
    samples: Float[np.ndarray, "s c"], names: Sequence[str], told: list[str]
) -> Float[np.ndarray, "s"] | None:
    """Mixes surround sound; None where the centre, in which voices are, is silent."""
    if "FC" not in names or len(names) == 1:
        return None
    weights = np.array([_WEIGHTS.get(name, _SURROUND_WEIGHT) for name in names], np.float32)
    told.append(notes.CENTRE)
    mix = samples @ weights
    return mix / max(1.0, _peak(mix))


def _peak(samples: np.ndarray) -> float:
    return float(max(samples.max(initial=0), -samples.min(initial=0)))


def _level(samples: np.ndarray) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(samples, dtype=np.float64)))) if len(samples) else 0.0
