"""Evaluation with a missing or disturbed modality: all conditions in one forward pass.

The seven conditions share four versions of each stream: clean, zeros, noise and added noise. Each
version is encoded once, then paired. All clips share one row of zeros.

A clip counts in the conditions whose undisturbed stream it has. If it lacks the other stream, zeros
or noise replace that stream as usual, but "addnoise" leaves it at zeros.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt32

from avjax.models.network import UNDISTURBED, Network
from avjax.training import attention
from avjax.training.modality_dropout import gaussian_inputs
from avjax.training.step import Batch, Sums, present_streams, sum_metrics

BATCH_SIZE = 8  # part of the metric: "addnoise" takes its statistics over a batch


def clip_keys(key: Array, clip_key: UInt32[Array, "b"]) -> Array:
    """Returns one key per clip, derived from its name: the same in every batch and order."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, clip_key)


class Scored(NamedTuple):
    """Results of an evaluation step under one condition.

    Attributes:
      sums: metric sums of the clips that count.
      logits: of each row of the batch.
      attention: of each row, see `attention.fuse`; empty if the clips are disturbed.
    """

    sums: Sums
    logits: Float[Array | np.ndarray, "b k"]
    attention: attention.Attention


def eval_step(
    variables: dict[str, Any],
    batch: Batch,
    *,
    net: Network,
    profile: str,
) -> Sums:
    """Returns the metric sums of undisturbed clips."""
    logits = net.apply(variables, *present_streams(batch, profile))
    return sum_metrics(logits, batch["label"], batch["weight"])


def eval_conditions_step(
    variables: dict[str, Any],
    batch: Batch,
    key: Array,
    *,
    net: Network,
    profile: str,
) -> dict[str, Scored]:
    """Returns the scores of each of the network's conditions, by name.

    Args:
      variables: parameters and running statistics.
      batch: as in training, plus ``clip_key`` uint32 [b], which keys the noise.
      key: the evaluation's key.
      net: the network.
      profile: preparation profile of the frames.
    """
    audio, stored = present_streams(batch, profile)
    frames = stored.normalised()
    audio_noise, video_noise = gaussian_inputs(clip_keys(key, batch["clip_key"]), audio, frames)
    weight, names, streams = batch["weight"], net.conditions, net.inputs.streams
    has = {"audio": batch["has_audio"], "video": batch["has_video"]}
    audio_versions = stream_versions(audio, audio_noise, weight, has["audio"])
    video_versions = stream_versions(frames, video_noise, weight, has["video"])
    pairs = [_pair(name) for name in names]
    audio_codes = _encode(net, variables, "encode_audio", audio_versions, {a for a, _ in pairs})
    video_codes = _encode(net, variables, "encode_video", video_versions, {v for _, v in pairs})
    stacked_audio = jnp.concatenate([audio_codes[a] for a, _ in pairs])
    stacked_video = jnp.concatenate([video_codes[v] for _, v in pairs])
    logits, received = attention.fuse(net, variables, stacked_audio, stacked_video)
    undisturbed = {stream: rows[: len(weight)] for stream, rows in received.items()}
    scored = {}
    for name, condition_logits in zip(names, jnp.split(logits, len(names)), strict=True):
        counts = weight * counting(name, streams, has)
        sums = sum_metrics(condition_logits, batch["label"], counts)
        scored[name] = Scored(sums, condition_logits, undisturbed if name == names[0] else {})
    return scored


def counting(
    condition: str, streams: Sequence[str], has: Mapping[str, Bool[Array | np.ndarray, "b"]]
) -> Bool[Array | np.ndarray, "b"]:
    """Returns whether clips count in a condition: those that have its undisturbed stream.

    Args:
      condition: one of the network's conditions.
      streams: the streams that the network reads.
      has: whether the clips have `audio` and `video`.
    """
    clean = streams[0] if len(streams) == 1 else condition.partition("_only/")[0]
    return has.get(clean, has["audio"] | True)


def given(
    condition: str, streams: Sequence[str], has: Mapping[str, Bool[np.ndarray, "b"]]
) -> dict[str, Bool[np.ndarray, "b"]]:
    """Returns whether a condition gives the network `audio` and `video` other than zeros.

    The arguments are those of `counting`. Noise is given; noise added to a missing stream is not.
    """

    def is_given(stream: str, version: str) -> Bool[np.ndarray, "b"]:
        if stream not in streams or version == "zeros":
            return np.zeros_like(has[stream])
        return np.ones_like(has[stream]) if version == "noise" else has[stream]

    pair = zip(("audio", "video"), _pair(condition), strict=True)
    return {stream: is_given(stream, version) for stream, version in pair}


def _pair(condition: str) -> tuple[str, str]:
    """Returns the versions of sound and frames that make up a condition."""
    clean, _, disturbance = condition.partition("_only/")
    if clean == UNDISTURBED:
        return "clean", "clean"
    return ("clean", disturbance) if clean == "audio" else (disturbance, "clean")


def stream_versions(
    x: Float[Array, "b *d"],
    noise: Float[Array, "b *d"],
    weight: Float[Array, "b"],
    present: Bool[Array, "b"],
) -> dict[str, Array]:
    """Returns a stream clean, as noise, with added noise, and one row of zeros for all clips.

    Added noise is ``x + mean + std * noise``, with the mean and unbiased standard deviation over
    the batch's real clips that have the stream (reference `validation.py`).
    """
    present = present.reshape(-1, *[1] * (x.ndim - 1))
    real = weight.reshape(present.shape) * present
    count = jnp.maximum(real.sum() * (x.size // x.shape[0]), 2)
    mean = (x * real).sum() / count
    std = jnp.sqrt((jnp.square(x - mean) * real).sum() / (count - 1))
    return {
        "clean": x,
        "noise": noise,
        "addnoise": jnp.where(present, x + mean + std * noise, 0),
        "zeros": jnp.zeros_like(x[:1]),
    }


def _encode(
    net: Network,
    variables: dict[str, Any],
    method: str,
    versions: dict[str, Array],
    needed: set[str],
) -> dict[str, Array]:
    """Encodes the needed versions in one pass; broadcasts the row of zeros to every clip."""
    rows = versions["clean"].shape[0]
    versions = {name: version for name, version in versions.items() if name in needed}
    encoded = net.apply(variables, jnp.concatenate(list(versions.values())), method=method)
    starts = [rows * i for i in range(1, len(versions))]
    parts = dict(zip(versions, jnp.split(encoded, starts), strict=True))
    return {name: jnp.broadcast_to(part, (rows, *part.shape[1:])) for name, part in parts.items()}
