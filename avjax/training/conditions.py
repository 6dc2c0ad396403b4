"""Evaluation with a modality missing or disturbed: every condition in one forward pass.

The conditions share inputs: seven logits need four versions of each stream (clean, zeros, noise,
added noise), and the zeros of all clips are one. Each version is encoded once, then paired.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from avjax.training import metrics
from avjax.training.augment import normalise
from avjax.training.modality_dropout import gaussian_inputs
from avjax.training.randomness import clip_keys
from avjax.training.step import Batch, present_streams

AUDIOVISUAL = "audiovisual"
DISTURBANCES = ("zeros", "noise", "addnoise")
CONDITIONS = (
    AUDIOVISUAL,
    *(f"audio_only/{name}" for name in DISTURBANCES),
    *(f"video_only/{name}" for name in DISTURBANCES),
)
BATCH_SIZE = 8  # "addnoise" takes its statistics over a batch, so its size is part of the figure


def eval_step(
    variables: dict[str, Any],
    batch: Batch,
    *,
    net: nn.Module,
    profile: str,
) -> metrics.Sums:
    """Metric sums of undisturbed clips."""
    frames = normalise(batch["frames"], profile)
    mfcc, frames = present_streams(batch["mfcc"], frames, batch)
    logits = net.apply(variables, mfcc, frames)
    return metrics.sums(logits, batch["label"], batch["weight"])


def eval_conditions_step(
    variables: dict[str, Any],
    batch: Batch,
    key: Array,
    *,
    net: nn.Module,
    profile: str,
) -> dict[str, metrics.Sums]:
    """Metric sums of every condition, by its name in `CONDITIONS`.

    Args:
      variables: parameters and running statistics.
      batch: as in training, with ``clip_key`` uint32 [b], from which noise is drawn.
      key: the evaluation's key.
      net: the network.
      profile: how frames were prepared.
    """
    frames = normalise(batch["frames"], profile)
    mfcc, frames = present_streams(batch["mfcc"], frames, batch)
    audio_noise, video_noise = gaussian_inputs(clip_keys(key, batch["clip_key"]), mfcc, frames)
    weight = batch["weight"]
    audio = _encode(net, variables, "encode_audio", _versions(mfcc, audio_noise, weight))
    video = _encode(net, variables, "encode_video", _versions(frames, video_noise, weight))
    pairs = {AUDIOVISUAL: (audio["clean"], video["clean"])}
    for name in DISTURBANCES:
        pairs[f"audio_only/{name}"] = (audio["clean"], video[name])
        pairs[f"video_only/{name}"] = (audio[name], video["clean"])
    stacked_audio = jnp.concatenate([pairs[name][0] for name in CONDITIONS])
    stacked_video = jnp.concatenate([pairs[name][1] for name in CONDITIONS])
    logits = net.apply(variables, stacked_audio, stacked_video, method="fuse")
    return {
        name: metrics.sums(part, batch["label"], weight)
        for name, part in zip(CONDITIONS, jnp.split(logits, len(CONDITIONS)), strict=True)
    }


def _versions(
    x: Float[Array, "b *d"], noise: Float[Array, "b *d"], weight: Float[Array, "b"]
) -> dict[str, Array]:
    """The stream clean, as noise, with noise added; and one row of zeros for all clips.

    Added noise is ``x + mean + std * noise`` with the mean and the unbiased deviation of all values
    of the batch's real clips (reference `validation.py`).
    """
    real = weight.reshape(-1, *[1] * (x.ndim - 1))
    count = weight.sum() * (x.size // x.shape[0])
    mean = (x * real).sum() / count
    std = jnp.sqrt((jnp.square(x - mean) * real).sum() / (count - 1))
    return {
        "clean": x,
        "noise": noise,
        "addnoise": x + mean + std * noise,
        "zeros": jnp.zeros_like(x[:1]),
    }


def _encode(
    net: nn.Module, variables: dict[str, Any], method: str, versions: dict[str, Array]
) -> dict[str, Array]:
    """Encodes all versions in one pass; the zeros' single row is repeated for every clip."""
    rows = versions["clean"].shape[0]
    encoded = net.apply(variables, jnp.concatenate(list(versions.values())), method=method)
    starts = [rows * i for i in range(1, len(versions))]
    parts = dict(zip(versions, jnp.split(encoded, starts), strict=True))
    return {name: jnp.broadcast_to(part, (rows, *part.shape[1:])) for name, part in parts.items()}
