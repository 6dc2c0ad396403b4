"""The audio-visual network and its fusions (paper section 3; reference `MultiModalCNN`).

A fusion is a module. It owns its widths and the names of its submodules; `FUSIONS` registers it
under the name that configs and checkpoints use.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.attention import AttentionBlock, CrossAttention
from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import STAGE_REPEATS, EfficientFace
from avjax.models.network import Inputs, Network
from avjax.models.ops import Dense, Map, values

Streams: TypeAlias = tuple[Float[Array, "b ta ca"], Float[Array, "b tv cv"]]

AUDIO_STAGE1, VIDEO_STAGE1, STAGE2 = 128, 64, 128  # widths of the streams


class Fusion(nn.Module):
    """Base of the fusions.

    Attributes:
      num_heads: attention heads; must divide the widths.
      late: whether fusion follows both stages instead of the first.
      widths: channels of the audio and video streams at the fusion.
      parts: the submodules' names in the reference, each with its kind, "attention" or
        "attention_block"; empty for a fusion that the reference lacks.
      unread: submodules that checkpoints hold but the fusion never reads.
    """

    num_heads: int = 1
    late: ClassVar[bool] = False
    widths: ClassVar[tuple[int, int]] = (AUDIO_STAGE1, VIDEO_STAGE1)
    parts: ClassVar[tuple[tuple[str, str], ...]] = ()
    unread: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raises InputError if num_heads does not divide a width."""
        narrow = min(self.widths)
        if self.num_heads < 1 or any(width % self.num_heads for width in self.widths):
            raise InputError(
                f"num_heads={self.num_heads} does not divide the attention width {narrow}; "
                "choose 1, 2, 4, 8, 16, 32 or 64"
            )

    def __call__(self, audio: Array, video: Array) -> Streams:
        """Returns both streams, each updated from the other, with unchanged shapes."""
        raise NotImplementedError


class IntermediateAttention(Fusion):
    """`ia`: scales each time step by the attention it receives from the other stream."""

    parts: ClassVar = (("av1", "attention"), ("va1", "attention"))
    unread: ClassVar = ("proj",)

    def setup(self) -> None:
        audio, video = self.widths
        self.av1 = CrossAttention(audio, self.num_heads)
        self.va1 = CrossAttention(video, self.num_heads)

    def __call__(self, audio: Array, video: Array) -> Streams:
        """Multiplies each stream by its weights, averaged over heads and summed over queries."""
        to_video = self.av1.weights(audio, video).mean(1).sum(1)
        to_audio = self.va1.weights(video, audio).mean(1).sum(1)
        return (
            audio * to_audio[..., None].astype(audio.dtype),
            video * to_video[..., None].astype(video.dtype),
        )


class IntermediateTransformer(Fusion):
    """`it`: adds to each stream a transformer block over the other stream."""

    parts: ClassVar = (("av1", "attention_block"), ("va1", "attention_block"))

    def setup(self) -> None:
        audio, video = self.widths
        self.av1 = AttentionBlock(audio, self.num_heads)
        self.va1 = AttentionBlock(video, self.num_heads)

    def __call__(self, audio: Array, video: Array) -> Streams:
        return audio + self.av1(audio, video), video + self.va1(video, audio)


class LateTransformer(Fusion):
    """`lt`: replaces each stream by a transformer block over the other, after both stages."""

    late: ClassVar = True
    widths: ClassVar = (STAGE2, STAGE2)
    parts: ClassVar = (("av", "attention_block"), ("va", "attention_block"))

    def setup(self) -> None:
        audio, video = self.widths
        self.av = AttentionBlock(audio, self.num_heads)
        self.va = AttentionBlock(video, self.num_heads)

    def __call__(self, audio: Array, video: Array) -> Streams:
        return self.av(audio, video), self.va(video, audio)


FUSIONS: dict[str, type[Fusion]] = {
    "ia": IntermediateAttention,
    "it": IntermediateTransformer,
    "lt": LateTransformer,
}


class AudioVisualNet(Network):
    """Audio CNN and EfficientFace joined by a fusion.

    Attributes:
      num_classes: number of emotions.
      fusion: one of `FUSIONS`.
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
        return self.clip_stream(self.visual_model.clip_features(frames))

    def image_stream(self, images: Map) -> Map:
        """Encodes each frame alone, ``[b h w 3]`` to ``[b 1024]``."""
        return self.visual_model.frame_features(images)

    def clip_stream(self, features: Map) -> Map:
        """Encodes frame features ``[v n 1024]`` up to the fusion, ``[v n c]``."""
        x = self.visual_model.temporal_stage1(features)
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
