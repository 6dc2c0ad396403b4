"""Random changes of log-mel spectra, for training on sound.

Spectra are ``log(1 + 4e5 * power)``, so 0 is silence. Every draw depends on a clip's row in the
global batch alone.
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
    """How much spectra are changed; 0 leaves a change out.

    Attributes:
      shift: largest shift in time, in steps.
      warp: largest scaling of the mel axis, as a natural logarithm: another vocal tract's length.

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
    """Shifts and warps each clip by draws of its own.

    Args:
      key: the same on every device.
      spectra: this device's clips.
      amount: of every change.
      axis_name: mapped device axis, or None.
    """
    spectra = jnp.asarray(spectra)
    keys = row_keys(key, spectra.shape[0], axis_name)
    drawn = per_row(lambda k: jax.random.uniform(k, (3,), minval=-1, maxval=1), keys)
    # Not the first value: it was another change's, and runs that were begun with it go on alike.
    return jax.vmap(lambda x, u: _augment_clip(x, u[1], u[2], amount))(spectra, drawn)


def _augment_clip(
    x: Float[Array, "t m"],
    shift: Float[Array, ""],
    warp: Float[Array, ""],
    amount: SoundAugmentation,
) -> Float[Array, "t m"]:
    """One clip, from two draws of -1..1."""
    steps, bands = x.shape
    if amount.shift:
        x = _interpolation(jnp.arange(steps) + amount.shift * shift, steps, x.dtype) @ x
    if amount.warp:
        source = jnp.arange(bands) * jnp.exp(amount.warp * warp)
        x = x @ _interpolation(source, bands, x.dtype).T
    return x


def _interpolation(source: Float[Array, "n"], size: int, dtype: jnp.dtype) -> Array:
    """The matrix that reads a sequence at real positions, linearly; past an end, its last value."""
    inside = jnp.clip(source, 0, size - 1)
    weights = jnp.maximum(0, 1 - jnp.abs(inside[:, None] - jnp.arange(size)))
    return weights.astype(dtype)
