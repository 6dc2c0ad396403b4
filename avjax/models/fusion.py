"""Fusion of the audio and video streams (paper section 3).

A fusion is a module that declares its stream widths and the names of its submodules. `FUSIONS`
registers it under the name used in configs and checkpoints.
"""

from typing import ClassVar, TypeAlias

import flax.linen as nn
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.attention import AttentionBlock, CrossAttention

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
