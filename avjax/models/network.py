"""The interface of networks, for training, evaluation and prediction."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from avjax.models import ops
from avjax.models.ops import Map, Rows
from avjax.models.ops.frames import Frames

N_MFCC = 10

UNDISTURBED = "audiovisual"
DISTURBANCES = ("zeros", "noise", "addnoise")
CONDITIONS = (
    UNDISTURBED,
    *(f"audio_only/{name}" for name in DISTURBANCES),
    *(f"video_only/{name}" for name in DISTURBANCES),
)


class Inputs(NamedTuple):
    """Inputs that a network reads.

    Attributes:
      streams: "audio", "video" or both.
      audio: the audio features, "mfcc" or "log_mel".
      audio_width: number of audio features per time step.
    """

    streams: tuple[str, ...] = ("audio", "video")
    audio: str = "mfcc"
    audio_width: int = N_MFCC


class Dimmed(NamedTuple):
    """Video inputs computed from the given ones: a dimmed copy of each clip, and a black clip.

    Attributes:
      factor: ``[b]`` brightness of each clip's dimmed copy.
      black_weight: multiplicity of the black clip.
    """

    factor: Any
    black_weight: Any


class Pairing(NamedTuple):
    """Pairs of distinct inputs to fuse, and the inputs' multiplicities in the enlarged batch.

    Attributes:
      audio_rows: ``[p]`` index of pair p's audio input (static, NumPy).
      video_rows: ``[p]`` index of pair p's video input, among ``frames``, then the dimmed copies,
        then the black clip.
      audio_weight: ``[a]`` multiplicity of each audio input.
      video_weight: ``[v]`` multiplicity of each video input except the black clip.
      dimmed: video inputs computed from ``frames``, or None.
      pair_weight: ``[p]`` 1 for a real pair, 0 for padding.
    """

    audio_rows: Any
    video_rows: Any
    audio_weight: Any
    video_weight: Any
    dimmed: Dimmed | None
    pair_weight: Any


def cross_entropy(logits: Float[Array, "p *m k"], labels: Int[Array, "p"]) -> Float[Array, "p *m"]:
    """Returns the cross entropy of each row."""
    log_probabilities = jax.nn.log_softmax(logits)
    index = labels.reshape(-1, *[1] * (logits.ndim - 1))
    return -jnp.take_along_axis(log_probabilities, index, axis=-1)[..., 0]


class Network(nn.Module):
    """Base class of networks; the defaults suit a network of one stream.

    Subclasses define a field ``num_classes``.
    """

    @property
    def inputs(self) -> Inputs:
        """The inputs that the network reads."""
        raise NotImplementedError

    def __call__(
        self,
        audio: Float[Array | np.ndarray, "a t c"],
        frames: Frames,
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
    ) -> Array:
        """Returns logits of each pair; in training, outputs for `losses` and `logits`.

        Args:
          audio: audio features; zeros for missing sound.
          frames: normalised face crops; zeros for missing video.
          train: use batch statistics and update the running statistics.
          pairing: pairs of distinct inputs; None pairs row i with row i.
          axis_name: device axis to reduce batch statistics over.

        Raises:
          InputError: inputs of an unsupported shape.
        """
        sound, video, pairs = Map(audio), Map(frames), None
        if train:
            sound, video, pairs = _training_maps(audio, frames, pairing, axis_name)
        sound, video = self.audio_stream(sound), self.video_stream(video)
        if pairing is not None:
            sound = ops.take(sound, pairing.audio_rows, pairs)
            video = ops.take(video, pairing.video_rows, pairs)
        outputs = self.merge(sound, video)
        return outputs if train else self.logits(outputs)

    def audio_stream(self, audio: Map) -> Map:
        """Encodes sound up to the fusion; by default returns no features."""
        return Map(jnp.zeros((audio.shape[0], 0)), rows=audio.rows)

    def video_stream(self, frames: Map) -> Map:
        """Encodes frames up to the fusion; by default returns no features."""
        rows = 1 + 2 * frames.shape[0] if frames.dimmed is not None else frames.shape[0]
        return Map(jnp.zeros((rows, 0)), rows=frames.rows)

    def image_stream(self, images: Map) -> Map:
        """The part of `video_stream` that takes each frame alone, ``[b h w 3]`` to ``[b c]``.

        A network that reads video defines it and `clip_stream`; overlapping clips share it.
        """
        raise NotImplementedError

    def clip_stream(self, features: Map) -> Map:
        """The rest of `video_stream`, from features ``[v n c]`` of all frames."""
        raise NotImplementedError

    def merge(self, audio: Map, video: Map) -> Array:
        """Returns the outputs of paired streams."""
        raise NotImplementedError

    def encode_audio(self, audio: Float[Array | np.ndarray, "b t c"]) -> Array:
        """Runs `audio_stream` for inference."""
        return ops.values(self.audio_stream(Map(audio)))

    def encode_video(self, frames: Frames) -> Array:
        """Runs `video_stream` for inference."""
        return ops.values(self.video_stream(Map(frames)))

    def encode_images(self, images: Frames) -> Float[Array, "b c"]:
        """Runs `image_stream` for inference, on frames ``[b h w 3]``."""
        return ops.values(self.image_stream(Map(images)))

    def fuse_images(
        self, audio: Float[Array | np.ndarray, "b t c"], features: Array | None
    ) -> Float[Array, "b k"]:
        """Returns logits of sound and of results ``[b n c]`` of `encode_images`.

        Args:
          audio: audio features.
          features: None for a network that reads no video.
        """
        if features is None:
            video = self.video_stream(Map(jnp.zeros((len(audio), 0, 0, 0, 3))))
        else:
            video = self.clip_stream(Map(features))
        return self.logits(self.merge(self.audio_stream(Map(audio)), video))

    def fuse(self, audio: Array, video: Array) -> Float[Array, "p k"]:
        """Returns logits of paired results of `encode_audio` and `encode_video`."""
        return self.logits(self.merge(Map(audio), Map(video)))

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Initialises variables; see `avjax.models.variables.init_variables`."""
        from avjax.models.variables import init_variables

        return init_variables(self, rngs["params"] if isinstance(rngs, dict) else rngs)

    def check(self) -> None:
        """Raises InputError for invalid fields."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Test conditions of the network; the first leaves clips undisturbed.

        A network of one stream has two: its stream undisturbed and with added noise. The others
        would repeat these or remove its only stream.
        """
        streams = self.inputs.streams
        if len(streams) > 1:
            return CONDITIONS
        unread = "video" if streams == ("audio",) else "audio"
        return f"{streams[0]}_only/zeros", f"{unread}_only/addnoise"

    def losses(self, outputs: Array, labels: Int[Array, "p"]) -> Float[Array, "p"]:
        """Returns the loss of each pair, from the outputs of ``__call__`` in training."""
        return cross_entropy(outputs, labels)

    def logits(self, outputs: Array) -> Float[Array, "p k"]:
        """Returns the logits, from the outputs of ``__call__`` in training."""
        return outputs

    def trained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Marks the parameters that the loss reaches, in the structure of ``params``."""
        return jax.tree.map(lambda _: True, dict(params))


def _training_maps(
    audio: Array | np.ndarray, frames: Frames, pairing: Pairing | None, axis_name: str | None
) -> tuple[Map, Map, Rows]:
    """Returns both inputs with their rows' multiplicities, and the rows of the pairs."""
    if pairing is None:
        rows = Rows(jnp.ones(len(audio)), axis_name)
        return Map(audio, rows=rows), Map(frames, rows=rows), rows
    weight, dimmed = pairing.video_weight, None
    if pairing.dimmed is not None:
        factor, black_weight = pairing.dimmed
        weight = jnp.append(weight, black_weight)
        dimmed = ops.Dimmed(jnp.stack([jnp.ones_like(factor), factor]))
    return (
        Map(audio, rows=Rows(pairing.audio_weight, axis_name)),
        Map(frames, rows=Rows(weight, axis_name), dimmed=dimmed),
        Rows(pairing.pair_weight, axis_name),
    )
