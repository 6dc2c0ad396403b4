"""What training, evaluation and prediction ask of a network."""

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
    """What a network reads.

    Attributes:
      streams: "audio", "video" or both.
      audio: the stored features of sound, "mfcc" or "log_mel".
      audio_width: their number per step.
    """

    streams: tuple[str, ...] = ("audio", "video")
    audio: str = "mfcc"
    audio_width: int = N_MFCC


class Dimmed(NamedTuple):
    """Video clips that follow from given ones: each once more, dimmed, and at the end a black one.

    Attributes:
      factor: ``[b]`` what each clip is multiplied by.
      black_weight: multiplicity of the black clip.
    """

    factor: Any
    black_weight: Any


class Pairing(NamedTuple):
    """Which distinct inputs meet in fusion, and how often each occurs in the enlarged batch.

    Attributes:
      audio_rows: ``[p]`` audio input of pair p (static NumPy indices).
      video_rows: ``[p]`` video input of pair p: one of ``frames``, then of ``dimmed``, the black
        one last.
      audio_weight: ``[a]`` multiplicity of each audio input.
      video_weight: ``[v]`` multiplicity of each video input but the black one.
      dimmed: video clips that follow from ``frames``, or None where there are none.
      pair_weight: ``[p]`` 1 for a real pair, 0 for padding.
    """

    audio_rows: Any
    video_rows: Any
    audio_weight: Any
    video_weight: Any
    dimmed: Dimmed | None
    pair_weight: Any


def cross_entropy(logits: Float[Array, "p *m k"], labels: Int[Array, "p"]) -> Float[Array, "p *m"]:
    """Minus the log probability of each label."""
    log_probabilities = jax.nn.log_softmax(logits)
    index = labels.reshape(-1, *[1] * (logits.ndim - 1))
    return -jnp.take_along_axis(log_probabilities, index, axis=-1)[..., 0]


class Network(nn.Module):
    """The protocol of networks; its defaults are those of a network of one stream.

    Subclasses have a field ``num_classes``.
    """

    @property
    def inputs(self) -> Inputs:
        """What the network reads."""
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
        """Logits of every pair of an audio and a video input; in training see `losses`.

        Args:
          audio: features of sound; zeros stand for missing sound.
          frames: normalised face crops; zeros stand for missing video.
          train: use batch statistics, and update the running ones.
          pairing: how distinct inputs make up the enlarged batch; None pairs row i with row i.
          axis_name: device axis over which batch statistics are summed.

        Raises:
          InputError: inputs of a shape that the network cannot take.
        """
        sound, video, pairs = Map(audio), Map(frames), None
        if train:
            sound, video, pairs = _training_maps(audio, frames, pairing, axis_name)
        heard, seen = self.audio_stream(sound), self.video_stream(video)
        if pairing is not None:
            heard = ops.take(heard, pairing.audio_rows, pairs)
            seen = ops.take(seen, pairing.video_rows, pairs)
        outputs = self.merge(heard, seen)
        return outputs if train else self.logits(outputs)

    def audio_stream(self, audio: Map) -> Map:
        """Sound up to where it meets the other stream; nothing where it is not read."""
        return Map(jnp.zeros((audio.shape[0], 0)), rows=audio.rows)

    def video_stream(self, frames: Map) -> Map:
        """Frames up to where they meet the other stream; nothing where they are not read."""
        rows = 1 + 2 * frames.shape[0] if frames.dimmed is not None else frames.shape[0]
        return Map(jnp.zeros((rows, 0)), rows=frames.rows)

    def merge(self, audio: Map, video: Map) -> Array:
        """Outputs of paired streams."""
        raise NotImplementedError

    def encode_audio(self, audio: Float[Array | np.ndarray, "b t c"]) -> Array:
        """`audio_stream` of clips on their own."""
        return ops.values(self.audio_stream(Map(audio)))

    def encode_video(self, frames: Frames) -> Array:
        """`video_stream` of clips on their own."""
        return ops.values(self.video_stream(Map(frames)))

    def fuse(self, audio: Array, video: Array) -> Float[Array, "p k"]:
        """Logits of paired streams, as `encode_audio` and `encode_video` return them."""
        return self.logits(self.merge(Map(audio), Map(video)))

    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Fresh variables, those of `avjax.models.variables.init_variables`."""
        from avjax.models.variables import init_variables

        return init_variables(self, rngs["params"] if isinstance(rngs, dict) else rngs)

    def check(self) -> None:
        """Raises InputError for fields that make no network."""

    @property
    def conditions(self) -> tuple[str, ...]:
        """Test conditions that make sense for the network; the first leaves clips undisturbed.

        A network of one stream sees no difference between some, and nothing in others. Two are
        left: its own stream alone, and its own stream disturbed.
        """
        streams = self.inputs.streams
        if len(streams) > 1:
            return CONDITIONS
        other = "video" if streams == ("audio",) else "audio"
        return f"{streams[0]}_only/zeros", f"{other}_only/addnoise"

    def losses(self, outputs: Array, labels: Int[Array, "p"]) -> Float[Array, "p"]:
        """The loss of each pair, from what ``__call__`` returns in training."""
        return cross_entropy(outputs, labels)

    def logits(self, outputs: Array) -> Float[Array, "p k"]:
        """The logits in what ``__call__`` returns in training."""
        return outputs

    def trained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Marks the parameters that the loss reaches, in the structure of ``params``."""
        return jax.tree.map(lambda _: True, dict(params))


def _training_maps(
    audio: Array | np.ndarray, frames: Frames, pairing: Pairing | None, axis_name: str | None
) -> tuple[Map, Map, Rows]:
    """Both inputs with the multiplicities of their rows, and the rows of their pairs."""
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
