"""Flip and rotation of uint8 frames, and what turns them into the network's input."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8

from avjax.errors import InputError
from avjax.training.randomness import per_row, row_keys

MAX_ANGLE = 10  # degrees, reference `transforms.py`


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of frames scaled to 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALISATION = {
    "reference": Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # RGB statistics in the AffectNet test script of EfficientFace's repository.
    "fixed": Normalisation(
        (0.55391484, 0.43522123, 0.3821877), (0.24837189, 0.21625527, 0.20221159)
    ),
}


def normalise(
    frames: UInt8[Array, "*b h w 3"], profile: str, dtype: jnp.dtype = jnp.float32
) -> Float[Array, "*b h w 3"]:
    """Scales frames to what the profile's networks expect.

    Raises:
      InputError: unknown profile.
    """
    if profile not in NORMALISATION:
        raise InputError(f"unknown profile {profile!r}; choose one of {', '.join(NORMALISATION)}")
    scaled = frames.astype(dtype) / 255
    if profile == "reference":
        return scaled
    mean, std = NORMALISATION[profile]
    return (scaled - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


def augment(
    key: Array, frames: UInt8[Array, "b n h w 3"], axis_name: str | None = None
) -> UInt8[Array, "b n h w 3"]:
    """Flips each clip with probability 1/2, then turns it by -10..10 whole degrees.

    All frames of a clip share the draw, which depends on the clip's row in the global batch only.
    """
    flip_key, angle_key = jax.random.split(key)
    rows = frames.shape[0]
    flip = per_row(jax.random.bernoulli, row_keys(flip_key, rows, axis_name))
    angle = per_row(
        lambda k: jax.random.randint(k, (), -MAX_ANGLE, MAX_ANGLE + 1),
        row_keys(angle_key, rows, axis_name),
    )
    return jax.vmap(flip_and_rotate)(frames, flip, angle)


def flip_and_rotate(
    frames: UInt8[Array, "n h w c"], flip: Bool[Array, ""], degrees: Int[Array, ""]
) -> UInt8[Array, "n h w c"]:
    """Mirrors the frames where ``flip``, then turns them counter-clockwise about their centre.

    Pillow's arithmetic (`Image.rotate`, bilinear): output pixel centres are mapped back; outside
    the image the result is 0; neighbours past the edge repeat it; the mean is truncated. Pillow
    computes in float64, this in float32 about the centre: up to one level apart on few pixels.
    """
    n, height, width, channels = frames.shape
    radians = jnp.deg2rad(degrees.astype(jnp.float32))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    y, x = jnp.mgrid[:height, :width]
    y, x = y + 0.5 - height / 2, x + 0.5 - width / 2
    source_x = cos * x - sin * y + width / 2
    source_y = sin * x + cos * y + height / 2
    inside = (source_x >= 0) & (source_x < width) & (source_y >= 0) & (source_y < height)
    left, top = jnp.floor(source_x - 0.5), jnp.floor(source_y - 0.5)
    right_share, bottom_share = source_x - 0.5 - left, source_y - 0.5 - top
    columns = [jnp.clip(left + i, 0, width - 1).astype(jnp.int32) for i in (0, 1)]
    columns = [jnp.where(flip, width - 1 - column, column) for column in columns]
    rows = [jnp.clip(top + i, 0, height - 1).astype(jnp.int32) for i in (0, 1)]

    # Frames share the map: gather whole pixels of all frames at once, [h*w, n*c].
    pixels = frames.transpose(1, 2, 0, 3).reshape(height * width, n * channels)

    def sample(row, column):
        return pixels[(row * width + column).ravel()].astype(jnp.float32)

    right_share, bottom_share = right_share.reshape(-1, 1), bottom_share.reshape(-1, 1)
    upper, lower = (
        a + (b - a) * right_share
        for a, b in ((sample(row, columns[0]), sample(row, columns[1])) for row in rows)
    )
    value = jnp.where(inside.reshape(-1, 1), upper + (lower - upper) * bottom_share, 0)
    turned = value.astype(jnp.uint8).reshape(height, width, n, channels)
    return turned.transpose(2, 0, 1, 3)
