"""Checks the arrays that a model is given."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from avjax.errors import InputError
from avjax.models.network import Inputs
from avjax.runs.saved_model import ModelCard


def checked_batch(
    inputs: Inputs, card: ModelCard, mfcc: Any, frames: Any, has_audio: Any, has_video: Any
) -> dict[str, Any]:
    """Checks the arguments of `avjax.predict.Model.logits`; fills missing streams with zeros.

    Args:
      inputs: what the network reads.
      card: the model's card, for the shapes of missing streams.
      mfcc: as in `Model.logits`, like the others.
      frames: face crops.
      has_audio: which clips have sound.
      has_video: which clips have frames.

    Raises:
      InputError: as `Model.logits`.
    """
    if mfcc is None and frames is None:
        raise InputError("neither mfcc nor frames given; give at least one")
    audio = None if "audio" not in inputs.streams else _check_audio(mfcc, inputs.audio_width)
    crops = None if "video" not in inputs.streams else _check_crops(frames)
    sizes = {len(x) for x in (audio, crops) if x is not None}
    if not sizes:
        needed = "mfcc" if "audio" in inputs.streams else "frames"
        raise InputError(f"the network reads only {needed}; give them")
    if len(sizes) > 1:
        raise InputError(
            f"mfcc {list(np.shape(mfcc))} and frames {list(np.shape(frames))} have different "
            "numbers of clips; give both for the same clips"
        )
    (b,) = sizes
    has_audio = _check_presence("has_audio", has_audio, b) & (audio is not None)
    has_video = _check_presence("has_video", has_video, b) & (crops is not None)
    if audio is None:
        audio = np.zeros((b, card.audio_steps, inputs.audio_width), np.float32)
    if crops is None:
        num_frames = card.num_frames if "video" in inputs.streams else 0
        crops = np.zeros((b, num_frames, card.image_size, card.image_size, 3), np.uint8)
    invalid = np.flatnonzero(has_audio & ~np.isfinite(audio).all((1, 2)))
    if len(invalid):
        raise InputError(
            f"mfcc of clip {invalid[0]} holds NaN or infinity; correct it, or mark it as "
            "missing with has_audio"
        )
    return {"audio": audio, "frames": crops, "has_audio": has_audio, "has_video": has_video}


def _check_audio(mfcc: Any, width: int) -> Float[np.ndarray, "b t c"] | None:
    """Checks audio features; returns them as float32."""
    if mfcc is None:
        return None
    array = _array("mfcc", mfcc)
    if array.ndim != 3 or array.shape[-1] != width:
        raise InputError(f"mfcc {list(array.shape)} has the wrong shape; give [b, t, {width}]")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise InputError(f"mfcc is {array.dtype}; give float32")
    return array.astype(np.float32)


def _check_crops(frames: Any) -> UInt8[np.ndarray, "b n h w 3"] | None:
    """Checks frames; returns None if there are none."""
    if frames is None:
        return None
    array = _array("frames", frames)
    if array.ndim != 5 or array.shape[-1] != 3:
        raise InputError(f"frames {list(array.shape)} have the wrong shape; give [b, n, h, w, 3]")
    if array.dtype != np.uint8:
        raise InputError(f"frames are {array.dtype}; give uint8 crops, not normalised ones")
    return array if array.shape[1] else None


def _check_presence(name: str, value: Any, rows: int) -> Bool[np.ndarray, "b"]:
    """Checks which clips have a stream; by default all."""
    array = np.ones(rows, bool) if value is None else _array(name, value)
    if array.dtype != bool or array.shape != (rows,):
        raise InputError(
            f"{name} is {array.dtype} {list(array.shape)}; give {rows} booleans, one per clip"
        )
    return array


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # nested lists of different lengths
        raise InputError(f"{name} is not an array ({error}); give a NumPy or JAX array") from error
