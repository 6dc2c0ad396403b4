"""Predicts the emotion in raw or prepared clips with a trained model."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("predict"))

import dataclasses
import functools
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from avjax import cli
from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.preparation.clip import explained, prepare_clip
from avjax.preparation.container import has_video
from avjax.preparation.face_detector import default_detector
from avjax.preparation.faces import Detector
from avjax.runs.saved_model import ModelCard, load_model
from avjax.runtime.sealed import finite
from avjax.training.step import Batch, present_streams


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A model's prediction for one clip.

    Attributes:
      label: the most probable class.
      probabilities: probability of every class, by name, in the model's order.
      missing: the streams, of those that the network reads, that the clip lacked; the network saw
        zeros.
      notes: what preparation decided by itself, such as "deinterlaced"; see
        `avjax.preparation.notes`.
    """

    label: str
    probabilities: dict[str, float]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Returns the prediction as a JSON-serialisable dict."""
        lists = {"missing": list(self.missing), "notes": list(self.notes)}
        return dataclasses.asdict(self) | lists

    def __str__(self) -> str:
        """Formats one line per class, the most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        lines = [f"  {name:12}{probability:6.1%}" for name, probability in ranked]
        if self.missing:
            lines.append(f"  without {' and '.join(self.missing)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


class Model:
    """A trained network with its variables and card.

    Attributes:
      card: classes, profile and sizes of the training clips.
      variables: ``params`` and ``batch_stats`` (running statistics), trees of float32 arrays for
        ``model.net.apply``.
    """

    def __init__(
        self, variables: Mapping[str, Any], card: ModelCard, detector: Detector | None = None
    ) -> None:
        """Compiles nothing before first use, then once per input shape.

        Args:
          variables: ``params`` and ``batch_stats``.
          card: the model's card.
          detector: finds faces in raw clips; by default the MTCNN, loaded on first use.

        Raises:
          InputError: the card describes an invalid network.
        """
        self.card = card
        self.variables = jax.device_put(dict(variables))
        self._detector = detector
        self._net = build_network(card.network)

    def __repr__(self) -> str:
        card = self.card
        fields = {k: v for k, v in card.network.items() if k not in ("kind", "num_classes")}
        settings = "".join(f" {name}={value}" for name, value in fields.items())
        trained = f", epoch {card.epoch}" if card.epoch else ""
        if "accuracy" in card.metrics:
            trained += f", validation accuracy {card.metrics['accuracy']:.1%}"
        return (
            f"<{type(self).__name__} {card.network['kind']}{settings}: {', '.join(card.classes)}; "
            f"profile {card.profile}{trained}>"
        )

    @property
    def net(self) -> Network:
        """The network; ``net.inputs`` lists the inputs it reads."""
        return self._net

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Loads the model of a workdir (its best epoch) or a converted checkpoint.

        Raises:
          InputError: no model there, or only a face backbone, which does not classify.
        """
        return cls(*load_model(path))

    def logits(
        self,
        mfcc: Float[Array | np.ndarray, "b t 10"] | None = None,
        frames: UInt8[Array | np.ndarray, "b n h w 3"] | None = None,
        *,
        has_audio: Bool[Array | np.ndarray, "b"] | None = None,
        has_video: Bool[Array | np.ndarray, "b"] | None = None,
    ) -> Float[np.ndarray, "b k"]:
        """Returns logits of prepared clips.

        Length of clips and size of frames may differ from training. Inputs that the network does
        not read are ignored.

        Args:
          mfcc: finite MFCCs, as in a prepared dataset; log-mel spectrograms for a network of kind
            "log_mel"; None if no clip has sound.
          frames: face crops as in the model's profile (`reference`: BGR, `fixed`: RGB); None if no
            clip has any.
          has_audio: False for clips without sound, where the network sees zeros; by default all
            True, or all False without ``mfcc``.
          has_video: the same for frames.

        Returns:
          Float32 logits of the classes in ``card.classes``.

        Raises:
          InputError: wrong dtype, shape or number of arrays, non-finite MFCCs, or no input that the
            network reads.
        """
        batch = self._batch(mfcc, frames, has_audio, has_video)
        if not len(batch["audio"]):
            return np.zeros((0, len(self.card.classes)), np.float32)
        return np.asarray(_logits(self.variables, batch, self._net, self.card.profile))

    def _batch(self, mfcc: Any, frames: Any, has_audio: Any, has_video: Any) -> dict[str, Any]:
        """Checks the inputs; fills missing and unread streams with zeros."""
        inputs, card = self._net.inputs, self.card
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

    def predict(self, path: str | Path) -> Prediction:
        """Predicts the emotion in a raw video with its sound track, or in a sound file.

        Prepares the clip like the training clips. A clip that lacks sound, or a face, is classified
        by the other stream.

        Raises:
          InputError: an unreadable file, no stream that the network reads, or missing weights of
            the face detector.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no clip {path}; name a video file")
        return self.predict_prepared(self._prepare(path), str(path))

    def predict_prepared(self, clip: PreparedClip, name: str = "clip") -> Prediction:
        """Predicts the emotion in a result of `prepare_clip`; error messages contain ``name``.

        Raises:
          InputError: the clip has no stream that the network reads.
        """
        streams = self._net.inputs.streams
        present = {"audio": clip.has_audio, "video": clip.has_video}
        missing = tuple(stream for stream in streams if not present[stream])
        if missing == streams:
            reasons: dict[tuple[str, ...], str] = {
                ("audio",): "no sound, and the model reads nothing else",
                ("video",): "no face, and the model reads nothing else",
            }
            reason = reasons.get(streams, "neither sound nor a face")
            raise InputError(f"{name} has {reason}; choose another clip")
        audio = clip.log_mel if self._net.inputs.audio == "log_mel" else clip.mfcc
        if audio is None:
            raise InputError(
                f"{name} was prepared without log-mel spectrograms; prepare it with them"
            )
        logits = self.logits(
            audio[None] if clip.has_audio else None,
            clip.frames[None] if clip.has_video else None,
        )
        values = np.asarray(jax.nn.softmax(logits[0].astype(np.float64)), float)
        probabilities = dict(zip(self.card.classes, values.tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Prediction(label, probabilities, missing, clip.notes)

    def _prepare(self, path: Path) -> PreparedClip:
        inputs = self._net.inputs
        with explained(path):
            sound_only = "video" not in inputs.streams or not has_video(path)
        return prepare_clip(
            None if sound_only else path,
            path,
            profile=self.card.profile,
            num_frames=self.card.num_frames,
            image_size=self.card.image_size,
            seconds=self.card.seconds,
            detector=None if sound_only else self._find_faces,
            log_mels=inputs.audio_width if inputs.audio == "log_mel" else 0,
        )

    @functools.cached_property
    def _find_faces(self) -> Detector:
        return default_detector() if self._detector is None else self._detector


@functools.partial(jax.jit, static_argnames=("net", "profile"))
def _logits(variables: Mapping[str, Any], batch: Batch, net: Network, profile: str) -> Array:
    """Returns logits of stored inputs; module-level, to share compilations between models."""
    return net.apply(variables, *present_streams(batch, profile))


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


def predict_clips(
    model: Model, paths: list[str], as_json: bool = False, debug: bool = False
) -> int:
    """Prints the prediction of every clip, or an error line if it fails.

    Args:
      model: the model.
      paths: raw clips.
      as_json: print one line of JSON per clip.
      debug: print the traceback of every clip that fails.

    Returns:
      Exit status: 0, or 1 if a clip failed.
    """
    status = 0
    for path in paths:
        try:
            prediction = model.predict(path)
        except InputError as error:
            if debug:
                traceback.print_exc()
            print(f"error: {error}", file=sys.stderr)
            status = cli.INPUT_STATUS
            continue
        if as_json:
            print(json.dumps(finite({"clip": path, **prediction.to_json()}), allow_nan=False))
        else:
            print(f"{path}: {prediction.label}\n{prediction}")
    return status


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.predict`."""
    return commands.run("predict", argv)
