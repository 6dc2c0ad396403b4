"""The audio-visual network (paper section 3; reference `MultiModalCNN`)."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import STAGE_REPEATS, EfficientFace
from avjax.models.fusion import FUSIONS
from avjax.models.layers import Dense
from avjax.models.network import Inputs, Network
from avjax.models.ops import Map, values


class AudioVisualNet(Network):
    """Audio CNN and EfficientFace joined by a fusion.

    Attributes:
      num_classes: number of emotions.
      fusion: one of `avjax.models.fusion.FUSIONS`.
      num_heads: attention heads; must divide both streams' widths.
      stage_repeats: units in EfficientFace's stages; other than default for small tests only.
    """

    num_classes: int = 8
    fusion: str = "ia"
    num_heads: int = 1
    stage_repeats: tuple[int, ...] = STAGE_REPEATS

    @property
    def inputs(self) -> Inputs:
        """Sound and frames."""
        return Inputs()

    def check(self) -> None:
        """Raises InputError for an unknown fusion, or heads that do not divide its widths."""
        if self.fusion not in FUSIONS:
            raise InputError(f"unknown fusion {self.fusion!r}; choose one of {', '.join(FUSIONS)}")
        FUSIONS[self.fusion](self.num_heads, parent=None).check()

    def setup(self) -> None:
        self.check()
        self.audio_model = AudioCNN(self.num_classes)
        self.visual_model = EfficientFace(self.num_classes, self.stage_repeats)
        self.meeting = FUSIONS[self.fusion](self.num_heads)
        nn.share_scope(self, self.meeting)  # its parts stand beside the branches in checkpoints
        self.classifier_1 = Dense(self.num_classes)

    def audio_stream(self, audio: Map) -> Map:
        """MFCCs ``[a t 10]`` up to where the streams meet, ``[a u 128]``."""
        x = self.audio_model.stage1(audio)
        return self.audio_model.stage2(x) if self.meeting.late else x

    def video_stream(self, frames: Map) -> Map:
        """Frames ``[v n h w 3]`` up to where the streams meet, ``[v n c]``."""
        x = self.visual_model.temporal_stage1(self.visual_model.clip_features(frames))
        return self.visual_model.temporal_stage2(x) if self.meeting.late else x

    def merge(self, audio: Map, video: Map) -> Float[Array, "p k"]:
        """Logits of paired streams."""
        rows = audio.rows
        a, v = self.meeting(values(audio), values(video))
        if not self.meeting.late:
            a = values(self.audio_model.stage2(Map(a, rows=rows)))
            v = values(self.visual_model.temporal_stage2(Map(v, rows=rows)))
        if self.is_initializing():  # parameters that checkpoints hold and fusion never reads
            self.audio_model.classify(Map(a))
            self.visual_model.classify(Map(v))
        return self.classifier_1(jnp.concatenate([a.mean(1), v.mean(1)], axis=-1))

    def trained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Marks the parameters that the loss reaches, in the structure of ``params``.

        The rest exist for checkpoints only: the single-modality classifiers and what the fusion
        does not read. The reference's optimizer skips parameters without a gradient, weight decay
        included.
        """
        unread = FUSIONS[self.fusion].unread

        def reached(path: tuple, _: Any) -> bool:
            names = [entry.key for entry in path]
            own_classifier = len(names) > 2 and names[1] == "classifier_1"
            return not (own_classifier or set(unread) & set(names))

        return jax.tree_util.tree_map_with_path(reached, params)
