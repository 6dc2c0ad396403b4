"""Modality dropout: the enlarged batch in which audio or video is missing (paper section 3.3).

`softhard` turns a batch of B clips (a, v) into the pairs (a, v), (c*a, (1-c)*v), (0, v), (a, 0);
`noise` into (a, v), (N, v), (a, N). Where a clip lacks a stream, zeros stand for it from the start.

Such a batch repeats itself: of softhard's 4B videos only 2B differ, of which B are multiples of
the others, and the B black ones are a single clip of a single image. The distinct inputs and their
multiplicities give the same loss, gradients and running statistics at half the cost.
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
    """Row weights by what a clip has: anything, sound, a face."""

    clip: Float[Array, "b"]
    audio: Float[Array, "b"]
    video: Float[Array, "b"]


class Enlarged(NamedTuple):
    """What the network receives in a training step.

    Attributes:
      audio: ``[a, t, c]`` distinct audio inputs.
      frames: ``[v, n, h, w, 3]`` distinct video inputs but those that ``pairing.dimmed`` makes.
      pairing: how they make up the enlarged batch; pairs come block by block.
      copies: blocks in the enlarged batch.
    """

    audio: Array
    frames: Array
    pairing: Pairing
    copies: int


def check_mask(mask: str) -> str:
    """Returns ``mask``, or raises InputError where it is none of `MASKS`."""
    if mask not in COPIES:
        raise InputError(f"unknown config.mask {mask!r}; choose one of {', '.join(MASKS)}")
    return mask


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

    A pair from which the mask takes the only stream that its clip has holds nothing to learn from:
    its weight is 0, as that of padding.

    Args:
      mask: one of `MASKS`.
      key: drawn from at global-batch positions, the same on every device.
      audio: features of this device's sound.
      frames: normalised frames of this device's clips.
      weight: 1 for a clip, 0 for padding.
      has_audio: which clips have sound; ``audio`` of the others is zeros.
      has_video: which clips have a face; ``frames`` of the others are zeros.
      axis_name: mapped device axis, or None.
      deduplicate: False computes every repeated input anew: slower, for comparison.
    """
    draws = draw(mask, key, audio, frames, axis_name)
    enlarged = enlarge_with(mask, draws, audio, frames, weight, has_audio, has_video)
    return enlarged if deduplicate else spell_out(enlarged)


def draw(
    mask: str, key: Array, audio: Array, frames: Array, axis_name: str | None = None
) -> tuple[Array, ...]:
    """What is random in an enlarged batch.

    Returns:
      For `softhard` the coefficients ``[b]``, for `noise` audio and frames of noise, in the shapes
      of ``audio`` and ``frames``; nothing for `nodropout`.
    """
    check_mask(mask)
    if mask == "nodropout":
        return ()
    keys = row_keys(key, audio.shape[0], axis_name)
    if mask == "softhard":
        return (softhard_coefficients(keys),)
    return gaussian_inputs(keys, audio, frames)


def enlarge_with(
    mask: str,
    draws: tuple[Array, ...],
    audio: Array,
    frames: Array,
    weight: Float[Array, "b"],
    has_audio: Bool[Array, "b"] | bool = True,
    has_video: Bool[Array, "b"] | bool = True,
) -> Enlarged:
    """The enlarged batch's distinct inputs, from what `draw` returned; see `enlarge`."""
    present = Present(weight, weight * has_audio, weight * has_video)
    if mask == "softhard":
        return _softhard(draws[0], audio, frames, present)
    if mask == "noise":
        return _noise(draws[0], draws[1], audio, frames, present)
    rows = np.arange(audio.shape[0])
    return Enlarged(audio, frames, Pairing(rows, rows, weight, weight, None, weight), 1)


def softhard_coefficients(keys: Array) -> Float[Array, "b"]:
    """The audio share c of each clip, one of 0, .01, ..., .99."""
    return per_row(lambda key: jax.random.randint(key, (), 0, 100), keys) / 100


def gaussian_inputs(keys: Array, audio: Array, frames: Array) -> tuple[Array, Array]:
    """Standard normal inputs of the shapes of ``audio`` and ``frames``, one key per clip."""
    keys = jax.vmap(jax.random.split)(keys)
    return (
        per_row(lambda k: jax.random.normal(k, audio.shape[1:], audio.dtype), keys[:, 0]),
        per_row(lambda k: jax.random.normal(k, frames.shape[1:], frames.dtype), keys[:, 1]),
    )


def _softhard(
    coefficients: Float[Array, "b"], audio: Array, frames: Array, present: Present
) -> Enlarged:
    """Audio rows: a, c*a, one of zeros. Video rows: v and, made by the network, (1-c)*v and 0."""
    rows = np.arange(audio.shape[0])
    whole, scaled = rows, len(rows) + rows
    missing = np.full_like(rows, 2 * len(rows))
    c = coefficients.astype(audio.dtype)
    soft_audio = audio * c[:, None, None]
    silence = jnp.zeros_like(audio[:1])
    clip, heard, seen = present
    pairing = Pairing(
        audio_rows=np.concatenate([whole, scaled, missing, whole]),
        video_rows=np.concatenate([whole, scaled, whole, missing]),
        audio_weight=jnp.concatenate([clip + heard, clip, seen.sum()[None]]),
        video_weight=jnp.concatenate([clip + seen, clip]),
        dimmed=Dimmed((1 - c).astype(frames.dtype), heard.sum()),
        pair_weight=jnp.concatenate([clip, clip, seen, heard]),
    )
    return Enlarged(jnp.concatenate([audio, soft_audio, silence]), frames, pairing, 4)


def _noise(
    audio_noise: Array, video_noise: Array, audio: Array, frames: Array, present: Present
) -> Enlarged:
    """Each stream's rows: its clips, standing up to twice, then its noise."""
    clean = np.arange(audio.shape[0])
    noisy = len(clean) + clean
    clip, heard, seen = present
    pairing = Pairing(
        audio_rows=np.concatenate([clean, noisy, clean]),
        video_rows=np.concatenate([clean, clean, noisy]),
        audio_weight=jnp.concatenate([clip + heard, seen]),
        video_weight=jnp.concatenate([clip + seen, heard]),
        dimmed=None,
        pair_weight=jnp.concatenate([clip, seen, heard]),
    )
    audio, frames = (
        jnp.concatenate(rows) for rows in ((audio, audio_noise), (frames, video_noise))
    )
    return Enlarged(audio, frames, pairing, 3)


def spell_out(enlarged: Enlarged) -> Enlarged:
    """The same enlarged batch with every pair's inputs in rows of their own."""
    audio, frames, pairing, copies = enlarged
    if pairing.dimmed is not None:
        soft = frames * pairing.dimmed.factor[:, None, None, None, None]
        frames = jnp.concatenate([frames, soft, jnp.zeros_like(frames[:1])])
    weight = pairing.pair_weight
    rows = np.arange(len(pairing.audio_rows))
    naive = Pairing(rows, rows, weight, weight, None, weight)
    return Enlarged(audio[pairing.audio_rows], frames[pairing.video_rows], naive, copies)
