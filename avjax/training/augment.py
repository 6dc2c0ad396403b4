"""Augmentations: of uint8 frames by name, and of log-mel spectra."""

import dataclasses
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from avjax.errors import InputError
from avjax.models.ops import per_row, row_keys

MAX_ANGLE = 10  # degrees, reference `transforms.py`
_SHARE_BITS = 15  # of a neighbour's share in a pixel; a product of two fits into 32 bits


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
    """Mirrors the frames where ``flip``, then turns them counter-clockwise about their centre.

    Pillow's arithmetic (`Image.rotate`, bilinear): output pixel centres are mapped back; outside
    the image the result is 0; neighbours past the edge repeat it; the mean is truncated. Pillow
    computes in float64, this in whole numbers: up to one level apart on few pixels. Floating-point
    sums would be rounded otherwise in a program for another number of devices.
    """
    n, height, width, channels = frames.shape
    source_x, source_y, bits = _sources(height, width, degrees)
    one = 1 << bits  # a pixel
    inside = (source_x >= 0) & (source_x < width * one)
    inside &= (source_y >= 0) & (source_y < height * one)
    left, top = (source_x - one // 2) >> bits, (source_y - one // 2) >> bits
    right = _share(source_x - one // 2 - left * one, bits)
    bottom = _share(source_y - one // 2 - top * one, bits)
    columns = [jnp.clip(left + i, 0, width - 1) for i in (0, 1)]
    columns = [jnp.where(flip, width - 1 - column, column) for column in columns]
    rows = [jnp.clip(top + i, 0, height - 1) for i in (0, 1)]

    # Frames share the map: gather whole pixels of all frames at once, [h*w, n*c].
    pixels = frames.transpose(1, 2, 0, 3).reshape(height * width, n * channels)
    whole = 1 << _SHARE_BITS
    high = low = jnp.zeros((), jnp.int32)  # of the mean, so that products fit into 32 bits
    for row, of_row in zip(rows, (whole - bottom, bottom), strict=True):
        for column, of_column in zip(columns, (whole - right, right), strict=True):
            pixel = pixels[(row * width + column).ravel()].astype(jnp.int32)
            weight = (of_row * of_column).reshape(-1, 1)
            high += pixel * (weight >> _SHARE_BITS)
            low += pixel * (weight & (whole - 1))
    value = (high + (low >> _SHARE_BITS)) >> _SHARE_BITS
    value = jnp.where(inside.reshape(-1, 1), value, 0)
    turned = value.astype(jnp.uint8).reshape(height, width, n, channels)
    return turned.transpose(2, 0, 1, 3)


def _sources(
    height: int, width: int, degrees: Int[Array, ""]
) -> tuple[Int[Array, "h w"], Int[Array, "h w"], int]:
    """Where output pixels come from, x and y in parts of a pixel, and how many bits a part has."""
    bits = 30 - (height + width).bit_length()  # the longest way stays within 32 bits
    angles = np.deg2rad(np.arange(-MAX_ANGLE, MAX_ANGLE + 1))
    cos, sin = (
        jnp.asarray(np.rint(f(angles) * (1 << bits)), jnp.int32)[degrees + MAX_ANGLE]
        for f in (np.cos, np.sin)
    )
    y, x = jnp.mgrid[:height, :width].astype(jnp.int32)
    y, x = 2 * y + 1 - height, 2 * x + 1 - width  # from the centre, in halves of a pixel
    source_x = ((cos * x - sin * y) >> 1) + (width << bits) // 2
    source_y = ((sin * x + cos * y) >> 1) + (height << bits) // 2
    return source_x, source_y, bits


def _share(part: Int[Array, "h w"], bits: int) -> Int[Array, "h w"]:
    """A part of a pixel, rounded to `_SHARE_BITS`."""
    spare = bits - _SHARE_BITS
    return (part + (1 << spare >> 1)) >> spare


# ----------------------------------------------------------------------------------------- spectra


@dataclasses.dataclass(frozen=True)
class SoundAugmentation:
    """How much log-mel spectra are changed; 0 leaves a change out.

    Spectra are ``log(1 + 4e5 * power)``, so 0 is silence.

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
