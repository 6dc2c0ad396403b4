"""Stored uint8 frames and their normalisation."""

from typing import Any, NamedTuple, TypeAlias

import flax.struct
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, UInt8

from avjax.errors import InputError


class Normalisation(NamedTuple):
    """Per-channel mean and standard deviation of frames scaled to 0..1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


NORMALISATION = {
    "reference": Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    # RGB statistics from the AffectNet test script of EfficientFace's repository.
    "fixed": Normalisation(
        (0.55391484, 0.43522123, 0.3821877), (0.24837189, 0.21625527, 0.20221159)
    ),
}


def normalise(
    frames: UInt8[Array | np.ndarray, "*b h w 3"], profile: str, dtype: DTypeLike = jnp.float32
) -> Float[Array, "*b h w 3"]:
    """Normalises frames as the profile's networks expect.

    Raises:
      InputError: unknown profile.
    """
    if profile not in NORMALISATION:
        raise InputError(f"unknown profile {profile!r}; choose one of {', '.join(NORMALISATION)}")
    scaled = jnp.asarray(frames).astype(dtype) / 255
    if profile == "reference":
        return scaled
    mean, std = NORMALISATION[profile]
    return (scaled - jnp.asarray(mean, dtype)) / jnp.asarray(std, dtype)


@flax.struct.dataclass
class StoredFrames:
    """Clips or images in uint8, normalised only when read.

    For inference on a CPU, a few images are read at a time, which saves a normalised copy of all
    frames in memory.

    Attributes:
      pixels: uint8 ``[*b h w 3]``.
      present: bool ``[b]``; False for a missing stream, which becomes zeros after normalisation.
      profile: preparation profile of the frames.
      dtype: dtype of the normalised frames.
    """

    pixels: Array | np.ndarray
    present: Array | np.ndarray
    profile: str = flax.struct.field(pytree_node=False)
    dtype: Any = flax.struct.field(pytree_node=False, default=jnp.float32)

    @property
    def shape(self) -> tuple[Any, ...]:  # symbols in exported programs
        """Shape of the frames."""
        return self.pixels.shape

    def images(self) -> "StoredFrames":
        """Flattens clips into images, ``[b*n h w 3]``."""
        length = self.pixels.shape[1]
        pixels = self.pixels.reshape(-1, *self.pixels.shape[2:])
        present = jnp.repeat(self.present, length)
        return StoredFrames(pixels, present, self.profile, self.dtype)

    def normalised(self) -> Float[Array, "*b h w 3"]:
        """Returns the normalised frames; missing streams are zeros.

        Raises:
          InputError: unknown profile.
        """
        frames = normalise(self.pixels, self.profile, self.dtype)
        axes = range(self.present.ndim, frames.ndim)
        return jnp.where(jnp.expand_dims(self.present, tuple(axes)), frames, 0)


Frames: TypeAlias = Array | np.ndarray | StoredFrames
"""Normalised frames, or stored ones."""


def as_normalised(frames: Frames) -> Float[Array, "*b h w 3"]:
    """Returns frames as the network sees them: normalised, with zeros for missing streams."""
    return frames.normalised() if isinstance(frames, StoredFrames) else jnp.asarray(frames)
