"""Networks of sound or frames alone: the audio-visual network's branches with a classifier each.

They take what the audio-visual network takes and leave the other stream unread.
"""

from jaxtyping import Array, Float

from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import STAGE_REPEATS, EfficientFace
from avjax.models.network import Inputs, Network
from avjax.models.ops import Map


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

    def audio_stream(self, audio: Map) -> Map:
        """MFCCs ``[b t 10]`` through both stages, ``[b u 128]``."""
        return self.audio_model.stage2(self.audio_model.stage1(audio))

    def merge(self, audio: Map, video: Map) -> Float[Array, "b k"]:
        """Logits from the stream."""
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

    def video_stream(self, frames: Map) -> Map:
        """Frames ``[b n h w 3]`` through both stages, ``[b n 128]``."""
        x = self.visual_model.temporal_stage1(self.visual_model.clip_features(frames))
        return self.visual_model.temporal_stage2(x)

    def merge(self, audio: Map, video: Map) -> Float[Array, "b k"]:
        """Logits from the stream."""
        return self.visual_model.classify(video)
