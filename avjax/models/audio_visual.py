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
      stage_repeats: units per EfficientFace stage; smaller in tests.
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
        """Raises InputError for an unknown fusion, or if num_heads does not divide its widths."""
        if self.fusion not in FUSIONS:
            raise InputError(f"unknown fusion {self.fusion!r}; choose one of {', '.join(FUSIONS)}")
        FUSIONS[self.fusion](self.num_heads, parent=None).check()

    def setup(self) -> None:
        self.check()
        self.audio_model = AudioCNN(self.num_classes)
        self.visual_model = EfficientFace(self.num_classes, self.stage_repeats)
        self.fusion_module = FUSIONS[self.fusion](self.num_heads)
        nn.share_scope(self, self.fusion_module)  # checkpoints hold its parameters at the top level
        self.classifier_1 = Dense(self.num_classes)

    def audio_stream(self, audio: Map) -> Map:
        """Encodes MFCCs ``[a t 10]`` up to the fusion, ``[a u 128]``."""
        x = self.audio_model.stage1(audio)
        return self.audio_model.stage2(x) if self.fusion_module.late else x

    def video_stream(self, frames: Map) -> Map:
        """Encodes frames ``[v n h w 3]`` up to the fusion, ``[v n c]``."""
        x = self.visual_model.temporal_stage1(self.visual_model.clip_features(frames))
        return self.visual_model.temporal_stage2(x) if self.fusion_module.late else x

    def merge(self, audio: Map, video: Map) -> Float[Array, "p k"]:
        """Returns logits of paired streams."""
        rows = audio.rows
        a, v = self.fusion_module(values(audio), values(video))
        if not self.fusion_module.late:
            a = values(self.audio_model.stage2(Map(a, rows=rows)))
            v = values(self.visual_model.temporal_stage2(Map(v, rows=rows)))
        if self.is_initializing():  # parameters of checkpoints that the output never reads
            self.audio_model.classify(Map(a))
            self.visual_model.classify(Map(v))
        return self.classifier_1(jnp.concatenate([a.mean(1), v.mean(1)], axis=-1))

    def trained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Marks the parameters that the loss reaches, in the structure of ``params``.

        The others exist only for checkpoints: the single-modality classifiers, and parameters that
        the fusion does not read. The reference's optimizer skips parameters without a gradient,
        weight decay included.
        """
        unread = FUSIONS[self.fusion].unread

        def is_trained(path: tuple, _: Any) -> bool:
            names = [entry.key for entry in path]
            is_branch_classifier = len(names) > 2 and names[1] == "classifier_1"
            return not (is_branch_classifier or set(unread) & set(names))

        return jax.tree_util.tree_map_with_path(is_trained, params)
