"""Modality dropout: the enlarged batch, with audio or video missing (paper section 3.3).

`softhard` turns a batch of B clips (a, v) into the pairs (a, v), (c*a, (1-c)*v), (0, v), (a, 0);
`noise` into (a, v), (N, v), (a, N). A stream that a clip lacks is zeros from the start.

Such a batch repeats inputs. Of softhard's 4B videos, 2B are v, B are multiples of v, and B are the
same black clip. The distinct inputs and their multiplicities give the same loss, gradients and
running statistics at half the cost.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from avjax.errors import InputError
from avjax.models.network import Dimmed, Pairing
from avjax.models.ops import per_row, row_keys

COPIES = {"softhard": 4, "noise": 3, "nodropout": 1}
MASKS = tuple(COPIES)


class Present(NamedTuple):
    """Row weights of real clips, of those with sound, and of those with a face."""

    clip: Float[Array, "b"]
    audio: Float[Array, "b"]
    video: Float[Array, "b"]


class Enlarged(NamedTuple):
    """Network inputs of a training step.

    Attributes:
      audio: ``[a, t, c]`` distinct audio inputs.
      frames: ``[v, n, h, w, 3]`` distinct video inputs, without those of ``pairing.dimmed``.
      pairing: how they make up the enlarged batch, block by block.
      copies: number of blocks in the enlarged batch.
    """

    audio: Array
    frames: Array
    pairing: Pairing
    copies: int


def check_mask(mask: str) -> None:
    """Raises InputError if ``mask`` is not one of `MASKS`."""
    if mask not in COPIES:
        raise InputError(f"unknown config.mask {mask!r}; choose one of {', '.join(MASKS)}")


def enlarge(
    mask: str,
    key: Array,
    audio: Float[Array, "b t c"],
    frames: Float[Array, "b n h w 3"],
    weight: Float[Array, "b"],
    *,
    has_audio: Bool[Array, "b"] | bool = True,
    has_video: Bool[Array, "b"] | bool = True,
    axis_name: str | None = None,
    deduplicate: bool = True,
) -> Enlarged:
    """Builds the enlarged batch.

    A pair without any stream left weighs 0, like padding.

    Args:
      mask: one of `MASKS`.
      key: the same on every device; draws depend on the position in the global batch.
      audio: audio features of this device's clips.
      frames: normalised frames of this device's clips.
      weight: 1 for a clip, 0 for padding.
      has_audio: whether each clip has sound; ``audio`` is zeros otherwise.
      has_video: whether each clip has a face; ``frames`` are zeros otherwise.
      axis_name: mapped device axis, or None.
      deduplicate: False spells out every repeated input: slower, for comparison.
    """
    draws = draw(mask, key, audio, frames, axis_name)
    enlarged = enlarge_from_draws(mask, draws, audio, frames, weight, has_audio, has_video)
    return enlarged if deduplicate else spell_out(enlarged)


def draw(
    mask: str, key: Array, audio: Array, frames: Array, axis_name: str | None = None
) -> tuple[Array, ...]:
    """Draws the random part of an enlarged batch.

    Returns:
      For `softhard` the coefficients ``[b]``; for `noise` audio and frames of noise, shaped like
      ``audio`` and ``frames``; for `nodropout` nothing.
    """
    check_mask(mask)
    if mask == "nodropout":
        return ()
    keys = row_keys(key, audio.shape[0], axis_name)
    if mask == "softhard":
        return (softhard_coefficients(keys),)
    return gaussian_inputs(keys, audio, frames)


def enlarge_from_draws(
    mask: str,
    draws: tuple[Array, ...],
    audio: Array,
    frames: Array,
    weight: Float[Array, "b"],
    has_audio: Bool[Array, "b"] | bool = True,
    has_video: Bool[Array, "b"] | bool = True,
) -> Enlarged:
    """Builds the enlarged batch from the result of `draw`; see `enlarge`."""
    present = Present(weight, weight * has_audio, weight * has_video)
    if mask == "softhard":
        return _softhard(draws[0], audio, frames, present)
    if mask == "noise":
        return _noise(draws[0], draws[1], audio, frames, present)
    rows = np.arange(audio.shape[0])
    return Enlarged(audio, frames, Pairing(rows, rows, weight, weight, None, weight), 1)


def softhard_coefficients(keys: Array) -> Float[Array, "b"]:
    """Draws each clip's audio coefficient c from 0, .01, ..., .99."""
    return per_row(lambda key: jax.random.randint(key, (), 0, 100), keys) / 100


def gaussian_inputs(keys: Array, audio: Array, frames: Array) -> tuple[Array, Array]:
    """Draws standard normal inputs shaped like ``audio`` and ``frames``, with one key per clip."""
    keys = jax.vmap(jax.random.split)(keys)
    return (
        per_row(lambda k: jax.random.normal(k, audio.shape[1:], audio.dtype), keys[:, 0]),
        per_row(lambda k: jax.random.normal(k, frames.shape[1:], frames.dtype), keys[:, 1]),
    )


def _softhard(
    coefficients: Float[Array, "b"], audio: Array, frames: Array, present: Present
) -> Enlarged:
    """Audio rows: a, c*a, one of zeros. Video rows: v; the network adds (1-c)*v and black."""
    clean = np.arange(audio.shape[0])
    scaled = len(clean) + clean
    missing = np.full_like(clean, 2 * len(clean))
    c = coefficients.astype(audio.dtype)
    soft_audio = audio * c[:, None, None]
    silence = jnp.zeros_like(audio[:1])
    clip, sound, face = present
    pairing = Pairing(
        audio_rows=np.concatenate([clean, scaled, missing, clean]),
        video_rows=np.concatenate([clean, scaled, clean, missing]),
        audio_weight=jnp.concatenate([clip + sound, clip, face.sum()[None]]),
        video_weight=jnp.concatenate([clip + face, clip]),
        dimmed=Dimmed((1 - c).astype(frames.dtype), sound.sum()),
        pair_weight=jnp.concatenate([clip, clip, face, sound]),
    )
    return Enlarged(jnp.concatenate([audio, soft_audio, silence]), frames, pairing, 4)


def _noise(
    audio_noise: Array, video_noise: Array, audio: Array, frames: Array, present: Present
) -> Enlarged:
    """Rows of each stream: the clips, then the noise."""
    clean = np.arange(audio.shape[0])
    noisy = len(clean) + clean
    clip, sound, face = present
    pairing = Pairing(
        audio_rows=np.concatenate([clean, noisy, clean]),
        video_rows=np.concatenate([clean, clean, noisy]),
        audio_weight=jnp.concatenate([clip + sound, face]),
        video_weight=jnp.concatenate([clip + face, sound]),
        dimmed=None,
        pair_weight=jnp.concatenate([clip, face, sound]),
    )
    audio, frames = (
        jnp.concatenate(rows) for rows in ((audio, audio_noise), (frames, video_noise))
    )
    return Enlarged(audio, frames, pairing, 3)


def spell_out(enlarged: Enlarged) -> Enlarged:
    """Repeats the inputs of every pair, making pair i row i of both streams."""
    audio, frames, pairing, copies = enlarged
    if pairing.dimmed is not None:
        soft = frames * pairing.dimmed.factor[:, None, None, None, None]
        frames = jnp.concatenate([frames, soft, jnp.zeros_like(frames[:1])])
    weight = pairing.pair_weight
    rows = np.arange(len(pairing.audio_rows))
    naive = Pairing(rows, rows, weight, weight, None, weight)
    return Enlarged(audio[pairing.audio_rows], frames[pairing.video_rows], naive, copies)
