"""Prediction: the emotion in raw or prepared clips, by a trained model."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the imports below, which take seconds
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
from avjax.preparation.clip import Detector, explained, prepare_clip
from avjax.preparation.container import has_video
from avjax.preparation.face_detector import default_detector
from avjax.runs.saved_model import ModelCard, load_model
from avjax.training.step import Batch, present_streams


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one clip.

    Attributes:
      label: the most probable class.
      probabilities: of every class, by name, in the model's order.
      missing: what the clip lacked, of the streams "audio" and "video" that the network reads; it
        saw zeros there.
      notes: what preparation decided by itself, such as "deinterlaced"; see
        `avjax.preparation.notes`.
    """

    label: str
    probabilities: dict[str, float]
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON's types."""
        lists = {"missing": list(self.missing), "notes": list(self.notes)}
        return dataclasses.asdict(self) | lists

    def __str__(self) -> str:
        """One line a class, the most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        lines = [f"  {name:12}{probability:6.1%}" for name, probability in ranked]
        if self.missing:
            lines.append(f"  without {' and '.join(self.missing)}")
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


class Model:
    """A trained network with all that it takes to use it.

    Attributes:
      card: classes, profile and sizes of its training clips.
      variables: ``params`` and ``batch_stats`` (running statistics), trees of float32 arrays for
        ``model.net.apply``.
    """

    def __init__(
        self, variables: Mapping[str, Any], card: ModelCard, detector: Detector | None = None
    ) -> None:
        """Nothing is compiled before first use; then once for each shape of input.

        Args:
          variables: ``params`` and ``batch_stats``.
          card: what they are of.
          detector: finds faces in raw clips; by default the MTCNN, loaded when first needed.

        Raises:
          InputError: the card names a network that cannot be built.
        """
        self.card = card
        self.variables = jax.tree.map(jnp.asarray, dict(variables))
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
        """The network; ``net.inputs`` says what it reads."""
        return self._net

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The model of a workdir (its best epoch) or of a converted checkpoint.

        Raises:
          InputError: there is none, or the face backbone alone, which classifies nothing.
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
        """Logits of prepared clips.

        Clips may be longer or shorter, and frames larger or smaller, than those the model was
        trained on. What the network does not read is ignored.

        Args:
          mfcc: finite numbers, as a prepared dataset holds them; for a network of kind "log_mel"
            its spectra. None where no clip has sound.
          frames: face crops as the model's profile stores them (`reference`: BGR, `fixed`: RGB);
            None where no clip has any.
          has_audio: False where a clip's sound is missing, so that the network sees zeros; by
            default all True, or all False without ``mfcc``.
          has_video: the same for its frames.

        Returns:
          Logits of the classes in ``card.classes``, float32.

        Raises:
          InputError: arrays that do not fit in type, shape or number, MFCCs that are not finite, or
            nothing that the network reads.
        """
        batch = self._batch(mfcc, frames, has_audio, has_video)
        if not len(batch["audio"]):
            return np.zeros((0, len(self.card.classes)), np.float32)
        return np.asarray(_logits(self.variables, batch, self._net, self.card.profile))

    def _batch(self, mfcc: Any, frames: Any, has_audio: Any, has_video: Any) -> dict[str, Any]:
        """What the network reads, checked; zeros where a stream is missing or not read."""
        inputs, card = self._net.inputs, self.card
        if mfcc is None and frames is None:
            raise InputError("neither mfcc nor frames are given; give one of them at least")
        sound = None if "audio" not in inputs.streams else _sound(mfcc, inputs.audio_width)
        crops = None if "video" not in inputs.streams else _crops(frames)
        rows = {len(x) for x in (sound, crops) if x is not None}
        if not rows:
            needed = "mfcc" if "audio" in inputs.streams else "frames"
            raise InputError(f"the network reads nothing but {needed}; give them")
        if len(rows) > 1:
            raise InputError(
                f"mfcc {list(np.shape(mfcc))} and frames {list(np.shape(frames))} are of different "
                "numbers of clips; give both for the same clips"
            )
        (b,) = rows
        heard = _presence("has_audio", has_audio, b) & (sound is not None)
        seen = _presence("has_video", has_video, b) & (crops is not None)
        if sound is None:
            sound = np.zeros((b, card.audio_steps, inputs.audio_width), np.float32)
        if crops is None:
            shown = card.num_frames if "video" in inputs.streams else 0
            crops = np.zeros((b, shown, card.image_size, card.image_size, 3), np.uint8)
        faulty = np.flatnonzero(heard & ~np.isfinite(sound).all((1, 2)))
        if len(faulty):
            raise InputError(
                f"mfcc of clip {faulty[0]} holds NaN or infinity; mend it, or say that it is "
                "missing with has_audio"
            )
        return {"audio": sound, "frames": crops, "has_audio": heard, "has_video": seen}

    def predict(self, path: str | Path) -> Prediction:
        """The emotion in a raw video with its sound track, or in sound alone.

        It is prepared as the training clips were.

        A clip without sound, or without a face, is judged by the other alone.

        Raises:
          InputError: a file that cannot be read, or has nothing that the network reads; no face
            detector's weights.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"there is no clip {path}; name a video file")
        return self.predict_prepared(self._prepare(path), str(path))

    def predict_prepared(self, clip: PreparedClip, name: str = "clip") -> Prediction:
        """The emotion in a clip that `prepare_clip` made; ``name`` stands in error messages.

        Raises:
          InputError: nothing that the network reads.
        """
        streams = self._net.inputs.streams
        present = {"audio": clip.has_audio, "video": clip.has_video}
        missing = tuple(stream for stream in streams if not present[stream])
        if missing == streams:
            single: dict[tuple[str, ...], str] = {
                ("audio",): "no sound, and the model judges by nothing else",
                ("video",): "no face, and the model judges by nothing else",
            }
            lack = single.get(streams, "neither sound nor a face")
            raise InputError(f"{name} has {lack}; choose another clip")
        sound = clip.log_mel if self._net.inputs.audio == "log_mel" else clip.mfcc
        if sound is None:
            raise InputError(f"{name} was prepared without log-mel spectra; prepare it with them")
        logits = self.logits(
            sound[None] if clip.has_audio else None,
            clip.frames[None] if clip.has_video else None,
        )
        chances = np.asarray(jax.nn.softmax(logits[0].astype(np.float64)), float)
        probabilities = dict(zip(self.card.classes, chances.tolist(), strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        return Prediction(label, probabilities, missing, clip.notes)

    def _prepare(self, path: Path) -> PreparedClip:
        inputs = self._net.inputs
        with explained(path):
            sound_alone = "video" not in inputs.streams or not has_video(path)
        return prepare_clip(
            None if sound_alone else path,
            path,
            profile=self.card.profile,
            num_frames=self.card.num_frames,
            image_size=self.card.image_size,
            seconds=self.card.seconds,
            detector=None if sound_alone else self._find_faces,
            log_mels=inputs.audio_width if inputs.audio == "log_mel" else 0,
        )

    @functools.cached_property
    def _find_faces(self) -> Detector:
        return default_detector() if self._detector is None else self._detector


@functools.partial(jax.jit, static_argnames=("net", "profile"))
def _logits(variables: Mapping[str, Any], batch: Batch, net: Network, profile: str) -> Array:
    """Logits of stored inputs; of the module, so that every model of a network shares it."""
    return net.apply(variables, *present_streams(batch, profile))


def _sound(mfcc: Any, width: int) -> Float[np.ndarray, "b t c"] | None:
    """Features of sound as float32."""
    if mfcc is None:
        return None
    array = _array("mfcc", mfcc)
    if array.ndim != 3 or array.shape[-1] != width:
        raise InputError(f"mfcc {list(array.shape)} does not fit; give [b, t, {width}]")
    if not any(jnp.issubdtype(array.dtype, kind) for kind in (jnp.floating, jnp.integer)):
        raise InputError(f"mfcc is {array.dtype}; give float32")
    return array.astype(np.float32)


def _crops(frames: Any) -> UInt8[np.ndarray, "b n h w 3"] | None:
    """Frames as they are; None where clips have none."""
    if frames is None:
        return None
    array = _array("frames", frames)
    if array.ndim != 5 or array.shape[-1] != 3:
        raise InputError(f"frames {list(array.shape)} do not fit; give [b, n, h, w, 3]")
    if array.dtype != np.uint8:
        raise InputError(f"frames are {array.dtype}; give uint8 crops, not normalised ones")
    return array if array.shape[1] else None


def _presence(name: str, given: Any, rows: int) -> Bool[np.ndarray, "b"]:
    """Which clips have a stream; by default all."""
    array = np.ones(rows, bool) if given is None else _array(name, given)
    if array.dtype != bool or array.shape != (rows,):
        raise InputError(
            f"{name} is {array.dtype} {list(array.shape)}; give {rows} booleans, one a clip"
        )
    return array


def _array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # nested lists of different lengths
        raise InputError(f"{name} is no array ({error}); give one of NumPy or JAX") from error


def predict_clips(
    model: Model, paths: list[str], as_json: bool = False, debug: bool = False
) -> int:
    """Prints the prediction of every clip, and an error line for each that cannot be judged.

    Args:
      model: the model.
      paths: raw clips.
      as_json: print one line of JSON a clip.
      debug: print the traceback of every clip that fails.

    Returns:
      Exit status: 0, or 1 when a clip failed.
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
            print(json.dumps({"clip": path, **prediction.to_json()}))
        else:
            print(f"{path}: {prediction.label}\n{prediction}")
    return status


def main(argv: list[str] | None = None) -> int:
    """The command line, see `avjax.commands.predict`."""
    return commands.run("predict", argv)
