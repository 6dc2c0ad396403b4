"""Names the emotion in raw clips: ``python -m avjax.predict --checkpoint RUN clip.mp4``."""

import dataclasses
import functools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import Array, Bool, Float, UInt8

from avjax import cli
from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.preparation.clip import Detector, prepare_clip
from avjax.preparation.face_detector import default_detector
from avjax.preparation.media import SOUND_SUFFIXES
from avjax.runs.saved_model import ModelCard, load_model
from avjax.runtime import compilation
from avjax.training.step import present_streams


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What a model says of one clip.

    Attributes:
      label: the most probable class.
      probabilities: of every class, by name, in the model's order.
      missing: what the clip lacked, of the streams "audio" and "video" that the network reads; it
        saw zeros there.
    """

    label: str
    probabilities: dict[str, float]
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The prediction as JSON's types."""
        return {**dataclasses.asdict(self), "missing": list(self.missing)}

    def __str__(self) -> str:
        """One line a class, the most probable first."""
        ranked = sorted(self.probabilities.items(), key=lambda item: -item[1])
        lines = [f"  {name:12}{probability:6.1%}" for name, probability in ranked]
        if self.missing:
            lines.append(f"  without {' and '.join(self.missing)}")
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

        Args:
          mfcc: as a prepared dataset holds them, for a network of kind "log_mel" its spectra; None
            where no clip has sound.
          frames: face crops as the model's profile stores them (`reference`: BGR, `fixed`: RGB);
            None where no clip has any. A stream that the network does not read changes nothing.
          has_audio: False where the network shall see zeros for sound; by default all True.
          has_video: False where the network shall see zeros for frames; by default all True.

        Raises:
          InputError: frames that are not uint8, or shapes that do not fit.
        """
        mfcc, frames = self._inputs(mfcc, frames)
        if frames.dtype != np.uint8:
            raise InputError(f"frames are {frames.dtype}; give uint8 crops, not normalised ones")
        width = self._net.inputs.audio_width
        if (
            mfcc.ndim != 3
            or mfcc.shape[-1] != width
            or frames.ndim != 5
            or len(mfcc) != len(frames)
        ):
            raise InputError(
                f"mfcc {list(mfcc.shape)} and frames {list(frames.shape)} do not fit; give "
                f"[b, t, {width}] and [b, n, h, w, 3] of the same b"
            )
        everywhere = np.ones(len(mfcc), bool)
        present = {
            "has_audio": everywhere if has_audio is None else np.asarray(has_audio, bool),
            "has_video": everywhere if has_video is None else np.asarray(has_video, bool),
        }
        return np.asarray(
            _logits(self.variables, mfcc, frames, present, self._net, self.card.profile)
        )

    def _inputs(
        self,
        mfcc: Float[Array | np.ndarray, "b t 10"] | None,
        frames: UInt8[Array | np.ndarray, "b n h w 3"] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Both streams, zeros for what is None and nothing for frames that are not read."""
        given = frames if mfcc is None else mfcc
        if given is None:
            raise InputError("neither mfcc nor frames are given; give one of them at least")
        card, rows = self.card, np.shape(given)[0]
        if mfcc is None:
            mfcc = np.zeros((rows, card.audio_steps, self._net.inputs.audio_width), np.float32)
        if frames is None or "video" not in self._net.inputs.streams:
            shown = card.num_frames if "video" in self._net.inputs.streams else 0
            frames = np.zeros((rows, shown, card.image_size, card.image_size, 3), np.uint8)
        return np.asarray(mfcc, np.float32), np.asarray(frames)

    def predict(self, path: str | Path) -> Prediction:
        """The emotion in a raw video with its sound track, or in a sound file alone.

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
            sound[None],
            clip.frames[None],
            has_audio=np.array([clip.has_audio]),
            has_video=np.array([clip.has_video]),
        )
        chances = np.asarray(jax.nn.softmax(logits[0].astype(np.float64)), float)
        probabilities = dict(zip(self.card.classes, chances.tolist(), strict=True))
        return Prediction(max(probabilities, key=probabilities.__getitem__), probabilities, missing)

    def _prepare(self, path: Path) -> PreparedClip:
        inputs = self._net.inputs
        sound_alone = path.suffix.lower() in SOUND_SUFFIXES or "video" not in inputs.streams
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
def _logits(
    variables: Mapping[str, Any],
    mfcc: Array,
    frames: Array,
    present: Mapping[str, Array],
    net: Network,
    profile: str,
) -> Array:
    """Logits of stored inputs; of the module, so that every model of a network shares it."""
    batch = {"audio": mfcc, "frames": frames, **present}
    return net.apply(variables, *present_streams(batch, profile))


def predict_clips(model: Model, paths: list[str], as_json: bool = False) -> int:
    """Prints the prediction of every clip, and an error line for each that cannot be judged.

    Args:
      model: the model.
      paths: raw clips.
      as_json: print one line of JSON a clip.

    Returns:
      Exit status: 0, or 1 when a clip failed.
    """
    status = 0
    for path in paths:
        try:
            prediction = model.predict(path)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            status = cli.INPUT_STATUS
            continue
        if as_json:
            print(json.dumps({"clip": path, **prediction.to_json()}))
        else:
            print(f"{path}: {prediction.label}\n{prediction}")
    return status


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "checkpoint", None, "A run (its best epoch) or a converted checkpoint.", flag_values=values
    )
    flags.DEFINE_bool("json", False, "Print one line of JSON a clip.", flag_values=values)


def _job(values: flags.FlagValues, positional: list[str]) -> int:
    if not values.checkpoint:
        raise InputError("--checkpoint is missing; name a run or a converted checkpoint")
    if not positional:
        raise InputError("no clip given; name one or more video files")
    compilation.keep_compiled_programs()
    return predict_clips(Model.load(values.checkpoint), positional, values.json)


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(argv, _define_flags, _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
