"""Augmentations: of uint8 frames, by name, and of log-mel spectrograms."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from avjax.errors import InputError
from avjax.models.ops import per_row, row_keys

MAX_ANGLE = 10  # degrees, reference `transforms.py`
_WEIGHT_BITS = 15  # of a fixed-point bilinear weight; the product of two fits in 32 bits


class Augmentation(Protocol):
    """Changes a batch of clips, each by a draw of its own that all of its frames share."""

    def __call__(
        self, key: Array, frames: UInt8[Array, "b n h w 3"], axis_name: str | None = None
    ) -> UInt8[Array, "b n h w 3"]:
        """Returns the augmented clips.

        Args:
          key: the same on every device; `row_keys` gives each row of the global batch its own.
          frames: this device's rows.
          axis_name: mapped device axis, or None.
        """


def flip_rotate(
    key: Array, frames: UInt8[Array, "b n h w 3"], axis_name: str | None = None
) -> UInt8[Array, "b n h w 3"]:
    """Flips each clip with probability 1/2, then rotates it by -10..10 whole degrees.

    All frames of a clip share one draw. It depends only on the clip's row in the global batch.

    Source: the reference's ``transforms.py``.
    """
    flip_key, angle_key = jax.random.split(key)
    rows = frames.shape[0]
    flip = per_row(jax.random.bernoulli, row_keys(flip_key, rows, axis_name))
    angle = per_row(
        lambda k: jax.random.randint(k, (), -MAX_ANGLE, MAX_ANGLE + 1),
        row_keys(angle_key, rows, axis_name),
    )
    return jax.vmap(flip_and_rotate)(frames, flip, angle)


AUGMENTATIONS: dict[str, Augmentation] = {"flip_rotate": flip_rotate}


def augmentation_names(text: str) -> list[str]:
    """Reads the names in ``config.augment``, separated by commas; none for an empty text.

    Raises:
      InputError: an unknown name.
    """
    names = [name.strip() for name in text.split(",")] if text else []
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(
                f"unknown augmentation {name!r} in config.augment; choose from "
                f"{', '.join(AUGMENTATIONS)}, or '' for none"
            )
    return names


def augment(
    names: str, key: Array, frames: UInt8[Array, "b n h w 3"], axis_name: str | None = None
) -> UInt8[Array, "b n h w 3"]:
    """Applies the augmentations that ``names`` lists, in order."""
    for i, name in enumerate(augmentation_names(names)):
        # The first takes the key itself: runs from before there were several draw the same.
        name_key = jax.random.fold_in(key, 1 + i) if i else key  # 1 is for sound, see `step.py`
        frames = AUGMENTATIONS[name](name_key, frames, axis_name)
    return frames


def flip_and_rotate(
    frames: UInt8[Array, "n h w c"], flip: Bool[Array, ""], degrees: Int[Array, ""]
) -> UInt8[Array, "n h w c"]:
    """Flips the frames if ``flip``, then rotates them counter-clockwise about their centre.

    Follows Pillow (`Image.rotate`, bilinear): maps output pixel centres back to the input, gives 0
    outside the image, repeats the edge for neighbours past it, and truncates the mean. Pillow uses
    float64. Fixed-point integers differ by up to one level on a few pixels, but do not depend on
    the number of devices: XLA rounds float sums differently in programs of different batch sizes.
    """
    n, height, width, channels = frames.shape
    source_x, source_y, bits = _source_coordinates(height, width, degrees)
    unit = 1 << bits  # one pixel
    inside = (source_x >= 0) & (source_x < width * unit)
    inside &= (source_y >= 0) & (source_y < height * unit)
    left, top = (source_x - unit // 2) >> bits, (source_y - unit // 2) >> bits
    right_weight = _round_weight(source_x - unit // 2 - left * unit, bits)
    bottom_weight = _round_weight(source_y - unit // 2 - top * unit, bits)
    columns = [jnp.clip(left + i, 0, width - 1) for i in (0, 1)]
    columns = [jnp.where(flip, width - 1 - column, column) for column in columns]
    rows = [jnp.clip(top + i, 0, height - 1) for i in (0, 1)]

    # All frames share the coordinates: gather pixels of all frames at once, [h*w, n*c].
    pixels = frames.transpose(1, 2, 0, 3).reshape(height * width, n * channels)
    scale = 1 << _WEIGHT_BITS
    high = low = jnp.zeros((), jnp.int32)  # halves of the mean: products must fit in 32 bits
    for row, row_weight in zip(rows, (scale - bottom_weight, bottom_weight), strict=True):
        for column, col_weight in zip(columns, (scale - right_weight, right_weight), strict=True):
            pixel = pixels[(row * width + column).ravel()].astype(jnp.int32)
            weight = (row_weight * col_weight).reshape(-1, 1)
            high += pixel * (weight >> _WEIGHT_BITS)
            low += pixel * (weight & (scale - 1))
    value = (high + (low >> _WEIGHT_BITS)) >> _WEIGHT_BITS
    value = jnp.where(inside.reshape(-1, 1), value, 0)
    rotated = value.astype(jnp.uint8).reshape(height, width, n, channels)
    return rotated.transpose(2, 0, 1, 3)


def _source_coordinates(
    height: int, width: int, degrees: Int[Array, ""]
) -> tuple[Int[Array, "h w"], Int[Array, "h w"], int]:
    """Returns each output pixel's source x and y in fixed point, and their fraction bits."""
    bits = 30 - (height + width).bit_length()  # the largest coordinate fits in 32 bits
    angles = np.deg2rad(np.arange(-MAX_ANGLE, MAX_ANGLE + 1))
    cos, sin = (
        jnp.asarray(np.rint(f(angles) * (1 << bits)), jnp.int32)[degrees + MAX_ANGLE]
        for f in (np.cos, np.sin)
    )
    y, x = jnp.mgrid[:height, :width].astype(jnp.int32)
    y, x = 2 * y + 1 - height, 2 * x + 1 - width  # from the centre, in half pixels
    source_x = ((cos * x - sin * y) >> 1) + (width << bits) // 2
    source_y = ((sin * x + cos * y) >> 1) + (height << bits) // 2
    return source_x, source_y, bits


def _round_weight(fraction: Int[Array, "h w"], bits: int) -> Int[Array, "h w"]:
    """Rounds a fraction of a pixel to `_WEIGHT_BITS`."""
    shift = bits - _WEIGHT_BITS
    return (fraction + (1 << shift >> 1)) >> shift


# ------------------------------------------------------------------------------------ spectrograms


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
