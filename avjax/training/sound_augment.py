"""Random changes of log-mel spectra and the mixing of neighbouring clips, for training on sound.

Spectra are ``log(1 + 4e5 * power)``, so 0 is silence (`avjax.preparation.media.log_mel`). Every
draw depends on a clip's row in the global batch alone.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.training.randomness import per_row, row_keys


class SoundAugmentation(NamedTuple):
    """How much spectra are changed; 0 leaves a change out.

    Attributes:
      stretch: largest change of speed, as a natural logarithm.
      shift: largest shift in time, in steps.
      warp: largest scaling of the mel axis, as a natural logarithm: another vocal tract's length.
      gain: largest change of loudness, as a natural logarithm of power.
      time_mask: longest stretch of time set to silence, in steps.
      band_mask: widest range of bands set to silence.
      mixup: parameter of the symmetric beta distribution from which a clip's share is drawn when it
        is mixed with its neighbour.
    """

    stretch: float = 0.0
    shift: float = 0.0
    warp: float = 0.0
    gain: float = 0.0
    time_mask: float = 0.0
    band_mask: float = 0.0
    mixup: float = 0.0

    @property
    def changes_spectra(self) -> bool:
        """Whether `augment_sound` does anything."""
        return any(value for name, value in self._asdict().items() if name != "mixup")


def augment_sound(
    key: Array,
    spectra: Float[Array, "b t m"],
    amount: SoundAugmentation,
    axis_name: str | None = None,
) -> Float[Array, "b t m"]:
    """Stretches, shifts, warps, amplifies and masks each clip by draws of its own.

    Args:
      key: the same on every device.
      spectra: this device's clips.
      amount: of every change.
      axis_name: mapped device axis, or None.
    """
    keys = row_keys(key, spectra.shape[0], axis_name)
    drawn = per_row(lambda k: jax.random.uniform(k, (8,)), keys)
    return jax.vmap(lambda x, u: _augment_clip(x, u, amount))(spectra, drawn)


def _augment_clip(
    x: Float[Array, "t m"], drawn: Float[Array, "8"], amount: SoundAugmentation
) -> Float[Array, "t m"]:
    """One clip, from eight uniform draws."""
    steps, bands = x.shape
    stretch, shift, warp, gain = 2 * drawn[:4] - 1  # -1..1
    if amount.stretch or amount.shift:
        middle = steps / 2
        source = (jnp.arange(steps) - middle) * jnp.exp(amount.stretch * stretch) + middle
        x = _interpolation(source + amount.shift * shift, steps, x.dtype) @ x
    if amount.warp:
        source = jnp.arange(bands) * jnp.exp(amount.warp * warp)
        x = x @ _interpolation(source, bands, x.dtype).T
    if amount.gain:
        x = jnp.log1p(jnp.expm1(x) * jnp.exp(amount.gain * gain).astype(x.dtype))
    for axis, widest, width, place in (
        (0, amount.time_mask, drawn[4], drawn[5]),
        (1, amount.band_mask, drawn[6], drawn[7]),
    ):
        if widest:
            size, position = x.shape[axis], jnp.arange(x.shape[axis])
            start = place * (size - widest * width)
            masked = (position >= start) & (position < start + widest * width)
            x = jnp.where(jnp.expand_dims(masked, 1 - axis), 0, x)
    return x


def _interpolation(source: Float[Array, "n"], size: int, dtype: jnp.dtype) -> Array:
    """The matrix that reads a sequence at real positions, linearly; past an end, its last value."""
    inside = jnp.clip(source, 0, size - 1)
    weights = jnp.maximum(0, 1 - jnp.abs(inside[:, None] - jnp.arange(size)))
    return weights.astype(dtype)


def mixup(
    key: Array,
    spectra: Float[Array, "b t m"],
    targets: Float[Array, "b k"],
    weight: Float[Array, "b"],
    alpha: float,
    axis_name: str | None = None,
) -> tuple[Array, Array]:
    """Mixes each clip with the other one of its pair of rows, 2i and 2i + 1; its share is >= 1/2.

    Neighbours share a device whenever each device has an even number of rows. Beside padding (or
    without a neighbour) a clip stays as it is.

    Args:
      key: the same on every device.
      spectra: this device's clips.
      targets: their class probabilities.
      weight: 0 marks padding.
      alpha: parameter of the symmetric beta distribution.
      axis_name: mapped device axis, or None.

    Returns:
      Mixed spectra and targets.
    """
    rows = spectra.shape[0]
    neighbour = jnp.minimum(jnp.arange(rows) ^ 1, rows - 1)
    drawn = per_row(lambda k: jax.random.beta(k, alpha, alpha), row_keys(key, rows, axis_name))
    share = jnp.where(weight[neighbour] > 0, jnp.maximum(drawn, 1 - drawn), 1)
    share = share.astype(spectra.dtype)
    mixed = [
        share.reshape(-1, *[1] * (x.ndim - 1)) * x
        + (1 - share).reshape(-1, *[1] * (x.ndim - 1)) * x[neighbour]
        for x in (spectra, targets)
    ]
    return mixed[0], mixed[1]
