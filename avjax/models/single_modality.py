"""Networks of sound or frames alone: the audio-visual network's branches with a classifier each.

They take what the audio-visual network takes and leave the other stream unread.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import STAGE_REPEATS, EfficientFace
from avjax.models.frames import Frames
from avjax.models.layers import Statistics
from avjax.models.network import Inputs, Network, Pairing


class AudioNet(Network):
    """The audio CNN with its own classifier (reference `AudioCNNPool`).

    Attributes:
      num_classes: number of emotions.
    """

    num_classes: int = 8

    @property
    def inputs(self) -> Inputs:
        """Sound alone."""
        return Inputs(("audio",))

    def setup(self) -> None:
        self.audio_model = AudioCNN(self.num_classes)

    def __call__(
        self,
        mfcc: Float[Array, "b t 10"],
        frames: Frames,
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "b k"]:
        """Logits of every clip; arguments as in `AudioVisualNet`, ``frames`` is not read."""
        weight = None if pairing is None else pairing.audio_weight
        logits = self.audio_model(mfcc, Statistics(train, weight, axis_name))
        return logits if pairing is None else jnp.take(logits, pairing.audio_rows, axis=0)

    def encode_audio(
        self, mfcc: Float[Array, "b t 10"], stats: Statistics = Statistics()
    ) -> Float[Array, "b u 128"]:
        """The stream through both stages."""
        return self.audio_model.stage2(self.audio_model.stage1(mfcc, stats), stats)

    def fuse(
        self, audio: Float[Array, "b u 128"], video: Float[Array, "b 0"]
    ) -> Float[Array, "b k"]:
        """Logits from the encoded stream."""
        return self.audio_model.classify(audio)


class VideoNet(Network):
    """EfficientFace, its temporal head and its own classifier (reference `EfficientFaceTemporal`).

    Attributes:
      num_classes: number of emotions.
      stage_repeats: units in EfficientFace's stages; other than default for small tests only.
    """

    num_classes: int = 8
    stage_repeats: tuple[int, ...] = STAGE_REPEATS

    @property
    def inputs(self) -> Inputs:
        """Frames alone."""
        return Inputs(("video",))

    def setup(self) -> None:
        self.visual_model = EfficientFace(self.num_classes, self.stage_repeats)

    def __call__(
        self,
        mfcc: Float[Array, "b t 10"],
        frames: Frames,
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "b k"]:
        """Logits of every clip; arguments as in `AudioVisualNet`, ``mfcc`` is not read."""
        weight = None if pairing is None else pairing.video_weight
        logits = self.visual_model(frames, Statistics(train, weight, axis_name))
        return logits if pairing is None else jnp.take(logits, pairing.video_rows, axis=0)

    def encode_video(
        self, frames: Frames, stats: Statistics = Statistics()
    ) -> Float[Array, "b n 128"]:
        """The stream through both stages."""
        x = self.visual_model.temporal_stage1(self.visual_model.clip_features(frames, stats), stats)
        return self.visual_model.temporal_stage2(x, stats)

    def fuse(
        self, audio: Float[Array, "b 0"], video: Float[Array, "b n 128"]
    ) -> Float[Array, "b k"]:
        """Logits from the encoded stream."""
        return self.visual_model.classify(video)
