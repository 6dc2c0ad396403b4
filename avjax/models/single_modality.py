"""Single-modality networks: the audio-visual network's branches with their own classifiers.

They take the same inputs as the audio-visual network and ignore the other stream.
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
        """Sound only."""
        return Inputs(("audio",))

    def setup(self) -> None:
        self.audio_model = AudioCNN(self.num_classes)

    def audio_stream(self, audio: Map) -> Map:
        """Encodes MFCCs ``[b t 10]`` in both stages, ``[b u 128]``."""
        return self.audio_model.stage2(self.audio_model.stage1(audio))

    def merge(self, audio: Map, video: Map) -> Float[Array, "b k"]:
        """Returns the classifier's logits."""
        return self.audio_model.classify(audio)


class VideoNet(Network):
    """EfficientFace, its temporal head and its own classifier (reference `EfficientFaceTemporal`).

    Attributes:
      num_classes: number of emotions.
      stage_repeats: units per EfficientFace stage; smaller in tests.
    """

    num_classes: int = 8
    stage_repeats: tuple[int, ...] = STAGE_REPEATS

    @property
    def inputs(self) -> Inputs:
        """Frames only."""
        return Inputs(("video",))

    def setup(self) -> None:
        self.visual_model = EfficientFace(self.num_classes, self.stage_repeats)

    def video_stream(self, frames: Map) -> Map:
        """Encodes frames ``[b n h w 3]`` in both stages, ``[b n 128]``."""
        return self.clip_stream(self.visual_model.clip_features(frames))

    def image_stream(self, images: Map) -> Map:
        """Encodes each frame alone, ``[b h w 3]`` to ``[b 1024]``."""
        return self.visual_model.frame_features(images)

    def clip_stream(self, features: Map) -> Map:
        """Encodes frame features ``[v n 1024]`` in both stages, ``[v n 128]``."""
        return self.visual_model.temporal_stage2(self.visual_model.temporal_stage1(features))

    def merge(self, audio: Map, video: Map) -> Float[Array, "b k"]:
        """Returns the classifier's logits."""
        return self.visual_model.classify(video)
