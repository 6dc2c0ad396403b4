"""Judges the windows of a file, a few at a time; each face crop is encoded once."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.models.network import Network
from avjax.models.ops.frames import StoredFrames
from avjax.predictions.prediction import Scored
from avjax.preparation.windows import ClipWindow, Crop, Plan
from avjax.runs.saved_model import ModelCard
from avjax.training.step import Batch, present_streams

WHOLE = "whole"  # all streams, beside the names of single ones
WINDOWS_AT_ONCE = 8
_CROPS_AT_ONCE = 12  # two parts of `ops.inference.IMAGES_AT_ONCE`


class Judge:
    """Computes logits of windows; compiles two programs on first use."""

    def __init__(self, net: Network, variables: Mapping[str, Any], card: ModelCard) -> None:
        """Takes the network, its variables and the card, which tells the shapes of clips."""
        self._net, self._variables, self._card = net, variables, card

    def scored(self, plan: Plan, windows: Sequence[ClipWindow]) -> list[Scored]:
        """Returns at most `WINDOWS_AT_ONCE` windows of a plan with logits and what they lack."""
        judged = [w for w in windows if w.sound is not None or w.crops is not None]
        rows = iter(self._judged(judged)) if judged else iter(())
        results = []
        for window in windows:
            present = {"audio": window.sound is not None, "video": window.crops is not None}
            missing = tuple(s for s in self._net.inputs.streams if not present[s])
            logits = next(rows) if any(present.values()) else None
            end = min(window.start + plan.seconds, plan.end)
            results.append(Scored(window.start, end, logits, missing))
        return results

    def _judged(self, windows: Sequence[ClipWindow]) -> Float[np.ndarray, "b k"]:
        """Returns logits of windows with a stream, and more rows if they are few."""
        inputs, card = self._net.inputs, self._card
        audio = np.zeros((WINDOWS_AT_ONCE, card.audio_steps, inputs.audio_width), np.float32)
        for row, window in enumerate(windows):
            if window.sound is not None:
                sound = window.sound
                audio[row] = sound.log_mel if inputs.audio == "log_mel" else sound.mfcc
        features = None
        if "video" in inputs.streams:
            self._encode(windows)
            features = self._features(windows)
        return np.asarray(_fuse(self._variables, audio, features, self._net))

    def _encode(self, windows: Sequence[ClipWindow]) -> None:
        """Encodes the crops that have not been encoded yet."""
        crops = [crop for window in windows for crop in window.crops or ()]
        new = list({id(crop): crop for crop in crops if crop.features is None}.values())
        results = []
        for start in range(0, len(new), _CROPS_AT_ONCE):
            part = new[start : start + _CROPS_AT_ONCE]
            pixels = np.zeros((_CROPS_AT_ONCE, *part[0].pixels.shape), np.uint8)
            pixels[: len(part)] = [crop.pixels for crop in part]
            results.append((part, self._encoded(pixels, True)))  # the device need not wait
        for part, features in results:
            for crop, row in zip(part, np.asarray(features), strict=False):
                crop.features = row

    def _encoded(self, pixels: np.ndarray, present: bool) -> Array:
        presence = np.full(len(pixels), present)
        return _encode(self._variables, pixels, presence, self._net, self._card.profile)

    @functools.cached_property
    def _missing(self) -> Float[np.ndarray, "c"]:
        """Features of a frame of missing video, which is zeros once normalised."""
        size = self._card.image_size
        return np.asarray(
            self._encoded(np.zeros((_CROPS_AT_ONCE, size, size, 3), np.uint8), False)
        )[0]

    def _features(self, windows: Sequence[ClipWindow]) -> Float[np.ndarray, "b n c"]:
        """Returns features of the windows' frames, and more rows if they are few."""
        shape = (WINDOWS_AT_ONCE, self._card.num_frames, len(self._missing))
        features = np.broadcast_to(self._missing, shape).copy()
        for row, window in enumerate(windows):
            if window.crops is not None:
                features[row] = [_known(crop) for crop in window.crops]
        return features


def only(stream: str, window: ClipWindow) -> ClipWindow:
    """Leaves the other stream out of a window; `WHOLE` leaves out none."""
    if stream == "audio":
        return window._replace(crops=None)
    return window._replace(sound=None) if stream == "video" else window


def _known(crop: Crop) -> np.ndarray:
    assert crop.features is not None
    return crop.features


@functools.partial(jax.jit, static_argnames=("net", "profile"))
def clip_logits(variables: Mapping[str, Any], batch: Batch, net: Network, profile: str) -> Array:
    """Returns logits of stored inputs; module-level, to share compilations between models."""
    return net.apply(variables, *present_streams(batch, profile))


@functools.partial(jax.jit, static_argnames=("net", "profile"))
def _encode(
    variables: Mapping[str, Any], pixels: Array, present: Array, net: Network, profile: str
) -> Array:
    images = StoredFrames(pixels, present, profile, jnp.float32)
    return net.apply(variables, images, method="encode_images")


@functools.partial(jax.jit, static_argnames=("net",))
def _fuse(
    variables: Mapping[str, Any], audio: Array, features: Array | None, net: Network
) -> Array:
    return net.apply(variables, audio, features, method="fuse_images")
