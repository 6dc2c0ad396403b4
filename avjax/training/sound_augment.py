"""Random augmentation of log-mel spectrograms.

Spectrograms are ``log(1 + 4e5 * power)``, so 0 is silence. Draws depend only on a clip's row in the
global batch.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.training.randomness import per_row, row_keys


@dataclasses.dataclass(frozen=True)
class SoundAugmentation:
    """Strength of the augmentation; 0 turns a transformation off.

    Attributes:
      shift: largest shift in time, in time steps.
      warp: largest scaling of the mel axis, as a natural logarithm; imitates the length of another
        vocal tract.

    Raises:
      InputError: a negative value.
    """

    shift: float = 0.0
    warp: float = 0.0

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not value >= 0:
                raise InputError(f"config.sound_augment.{name}={value}; choose 0 or more")

    @property
    def changes_spectra(self) -> bool:
        """Whether `augment_sound` does anything."""
        return bool(self.shift or self.warp)


def augment_sound(
    key: Array,
    spectra: Float[Array | np.ndarray, "b t m"],
    amount: SoundAugmentation,
    axis_name: str | None = None,
) -> Float[Array, "b t m"]:
    """Shifts and warps each clip at random.

    Args:
      key: the same on every device.
      spectra: spectrograms of this device's clips.
      amount: strength of each transformation.
      axis_name: mapped device axis, or None.
    """
    spectra = jnp.asarray(spectra)
    keys = row_keys(key, spectra.shape[0], axis_name)
    draws = per_row(lambda k: jax.random.uniform(k, (3,), minval=-1, maxval=1), keys)
    # Draw 0 belonged to a removed transformation; skipping it lets old runs resume unchanged.
    return jax.vmap(lambda x, u: _augment_clip(x, u[1], u[2], amount))(spectra, draws)


def _augment_clip(
    x: Float[Array, "t m"],
    shift: Float[Array, ""],
    warp: Float[Array, ""],
    amount: SoundAugmentation,
) -> Float[Array, "t m"]:
    """Augments one clip, by draws in -1..1."""
    steps, bands = x.shape
    if amount.shift:
        x = _interpolation(jnp.arange(steps) + amount.shift * shift, steps, x.dtype) @ x
    if amount.warp:
        source = jnp.arange(bands) * jnp.exp(amount.warp * warp)
        x = x @ _interpolation(source, bands, x.dtype).T
    return x


def _interpolation(source: Float[Array, "n"], size: int, dtype: jnp.dtype) -> Array:
    """Returns the matrix that samples a sequence at ``source``: linear, clamped at the ends."""
    clamped = jnp.clip(source, 0, size - 1)
    weights = jnp.maximum(0, 1 - jnp.abs(clamped[:, None] - jnp.arange(size)))
    return weights.astype(dtype)
