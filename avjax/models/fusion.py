"""The paper's fusions (section 3): how the streams of sound and video meet.

A fusion is a module. It owns its widths and the names of its parts; `FUSIONS` registers it under
the name that configs and checkpoints use.
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
      late: whether the streams meet behind both stages, else between them.
      widths: of audio and video where they meet.
      parts: names of the fusion's modules as in the reference, with their kinds: "attention" or
        "attention_block"; empty where the reference has no such fusion.
      unread: modules that checkpoints hold and the fusion never reads.
    """

    num_heads: int = 1
    late: ClassVar[bool] = False
    widths: ClassVar[tuple[int, int]] = (AUDIO_STAGE1, VIDEO_STAGE1)
    parts: ClassVar[tuple[tuple[str, str], ...]] = ()
    unread: ClassVar[tuple[str, ...]] = ()

    def check(self) -> None:
        """Raises InputError for heads that do not divide a width."""
        narrow = min(self.widths)
        if self.num_heads < 1 or any(width % self.num_heads for width in self.widths):
            raise InputError(
                f"num_heads={self.num_heads} does not divide the attention width {narrow}; "
                "choose 1, 2, 4, 8, 16, 32 or 64"
            )

    def __call__(self, audio: Array, video: Array) -> Streams:
        """Both streams, each informed by the other; shapes stay."""
        raise NotImplementedError


class IntermediateAttention(Fusion):
    """`ia`: each step is scaled by the attention that the other stream's queries pay to it."""

    parts: ClassVar = (("av1", "attention"), ("va1", "attention"))
    unread: ClassVar = ("proj",)

    def setup(self) -> None:
        audio, video = self.widths
        self.av1 = CrossAttention(audio, self.num_heads)
        self.va1 = CrossAttention(video, self.num_heads)

    def __call__(self, audio: Array, video: Array) -> Streams:
        """Mean over heads and sum over queries of the weights, times the stream."""
        to_video = self.av1.weights(audio, video).mean(1).sum(1)
        to_audio = self.va1.weights(video, audio).mean(1).sum(1)
        return (
            audio * to_audio[..., None].astype(audio.dtype),
            video * to_video[..., None].astype(video.dtype),
        )


class IntermediateTransformer(Fusion):
    """`it`: each stream plus a transformer block with the other's keys and values."""

    parts: ClassVar = (("av1", "attention_block"), ("va1", "attention_block"))

    def setup(self) -> None:
        audio, video = self.widths
        self.av1 = AttentionBlock(audio, self.num_heads)
        self.va1 = AttentionBlock(video, self.num_heads)

    def __call__(self, audio: Array, video: Array) -> Streams:
        return audio + self.av1(audio, video), video + self.va1(video, audio)


class LateTransformer(Fusion):
    """`lt`: transformer blocks with the other stream's keys and values, behind both stages."""

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
