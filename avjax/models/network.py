"""What training, evaluation and prediction ask of a network."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from avjax.models.efficientface import Dimmed
from avjax.models.frames import Frames

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

    audio_rows: Int[np.ndarray, "p"]
    video_rows: Int[np.ndarray, "p"]
    audio_weight: Float[Array, "a"]
    video_weight: Float[Array, "v"]
    dimmed: Dimmed | None
    pair_weight: Float[Array, "p"]


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
        audio: Float[Array, "a t c"],
        frames: Frames,
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
    ) -> Array:
        """Outputs of every pair of an audio and a video input; see `losses` and `logits`.

        Args:
          audio: features of sound; zeros stand for missing sound.
          frames: normalised face crops; zeros stand for missing video.
          train: use batch statistics, and update the running ones.
          pairing: how distinct inputs make up the enlarged batch; None pairs row i with row i.
          axis_name: device axis over which batch statistics are summed.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raises InputError for fields that make no network."""

    def encode_audio(self, audio: Float[Array, "b t c"]) -> Array:
        """The audio stream up to where it meets the other; nothing where it is not read."""
        return jnp.zeros((audio.shape[0], 0), audio.dtype)

    def encode_video(self, frames: Frames) -> Array:
        """The video stream up to where it meets the other; nothing where it is not read."""
        return jnp.zeros((frames.shape[0], 0), frames.dtype)

    def fuse(self, audio: Array, video: Array) -> Float[Array, "p k"]:
        """Logits of paired streams, as `encode_audio` and `encode_video` return them."""
        raise NotImplementedError

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
