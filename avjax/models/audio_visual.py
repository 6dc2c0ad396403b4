"""The audio-visual network and its three fusions (paper section 3; reference `MultiModalCNN`)."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.attention import AttentionBlock, CrossAttention
from avjax.models.audio_cnn import AudioCNN
from avjax.models.efficientface import STAGE_REPEATS, Dimmed, EfficientFace
from avjax.models.frames import Frames
from avjax.models.layers import Dense, Statistics
from avjax.models.network import Inputs, Network, Pairing

FUSIONS = ("ia", "it", "lt")
AUDIO_STAGE1, VIDEO_STAGE1, STAGE2 = 128, 64, 128  # widths of the streams


class AudioVisualNet(Network):
    """Audio CNN and EfficientFace joined by one of three fusions.

    Attributes:
      num_classes: number of emotions.
      fusion: `ia` (intermediate attention), `it` (intermediate transformer) or `lt` (late
        transformer).
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
        narrow = STAGE2 if self.fusion == "lt" else min(AUDIO_STAGE1, VIDEO_STAGE1)
        if self.num_heads < 1 or narrow % self.num_heads:
            raise InputError(
                f"num_heads={self.num_heads} does not divide the attention width {narrow} of "
                f"fusion {self.fusion!r}; choose 1, 2, 4, 8, 16, 32 or 64"
            )

    def setup(self) -> None:
        self.check()
        self.audio_model = AudioCNN(self.num_classes)
        self.visual_model = EfficientFace(self.num_classes, self.stage_repeats)
        if self.fusion == "lt":
            self.av = AttentionBlock(STAGE2, self.num_heads)
            self.va = AttentionBlock(STAGE2, self.num_heads)
        else:
            block = CrossAttention if self.fusion == "ia" else AttentionBlock
            self.av1 = block(AUDIO_STAGE1, self.num_heads)
            self.va1 = block(VIDEO_STAGE1, self.num_heads)
        self.classifier_1 = Dense(self.num_classes)

    def __call__(
        self,
        mfcc: Float[Array, "a t 10"],
        frames: Frames,
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
    ) -> Float[Array, "p k"]:
        """Logits of every pair of an audio and a video input.

        Args:
          mfcc: MFCCs; zeros stand for missing audio.
          frames: normalised face crops; zeros stand for missing video.
          train: use batch statistics, and update the running ones.
          pairing: how distinct inputs make up the enlarged batch; None pairs row i with row i.
          axis_name: device axis over which batch statistics are summed.

        Raises:
          InputError: frames or MFCC of a shape that the network cannot take.
        """
        stats = Statistics(train, None, axis_name)
        if pairing is None:
            audio = self.encode_audio(mfcc, stats)
            video = self.encode_video(frames, stats)
        else:
            audio = self.encode_audio(mfcc, stats._replace(weight=pairing.audio_weight))
            video_stats = stats._replace(weight=pairing.video_weight)
            video = self.encode_video(frames, video_stats, pairing.dimmed)
            audio = jnp.take(audio, pairing.audio_rows, axis=0)
            video = jnp.take(video, pairing.video_rows, axis=0)
            stats = stats._replace(weight=pairing.pair_weight)
        logits = self.fuse(audio, video, stats)
        if self.is_initializing():  # parameters that checkpoints hold and fusion never reads
            self.audio_model.classify(jnp.zeros((1, 1, STAGE2), mfcc.dtype))
            self.visual_model.classify(jnp.zeros((1, 1, STAGE2), mfcc.dtype))
        return logits

    def encode_audio(
        self, mfcc: Float[Array, "a t 10"], stats: Statistics = Statistics()
    ) -> Float[Array, "a u 128"]:
        """The audio stream up to where it meets the other (`lt`: both stages)."""
        x = self.audio_model.stage1(mfcc, stats)
        return self.audio_model.stage2(x, stats) if self.fusion == "lt" else x

    def encode_video(
        self,
        frames: Frames,
        stats: Statistics = Statistics(),
        dimmed: Dimmed | None = None,
    ) -> Float[Array, "v n c"]:
        """The video stream up to where it meets the other, with the dimmed clips, if any."""
        x = self.visual_model.clip_features(frames, stats, dimmed)
        if dimmed is not None:
            stats = stats.append(dimmed.blank_weight)
        x = self.visual_model.temporal_stage1(x, stats)
        return self.visual_model.temporal_stage2(x, stats) if self.fusion == "lt" else x

    def fuse(
        self,
        audio: Float[Array, "p u 128"],
        video: Float[Array, "p n c"],
        stats: Statistics = Statistics(),
    ) -> Float[Array, "p k"]:
        """Logits from paired streams, as `encode_audio` and `encode_video` return them."""
        if self.fusion == "lt":
            audio, video = self.av(audio, video), self.va(video, audio)
        else:
            if self.fusion == "it":
                audio, video = audio + self.av1(audio, video), video + self.va1(video, audio)
            else:
                audio, video = self._reweigh(audio, video)
            audio = self.audio_model.stage2(audio, stats)
            video = self.visual_model.temporal_stage2(video, stats)
        return self.classifier_1(jnp.concatenate([audio.mean(1), video.mean(1)], axis=-1))

    def _reweigh(self, audio: Array, video: Array) -> tuple[Array, Array]:
        """`ia`: each step is scaled by the attention that the other stream's queries pay to it."""
        to_video = self.av1.weights(audio, video).mean(1).sum(1)
        to_audio = self.va1.weights(video, audio).mean(1).sum(1)
        scale = [w[..., None].astype(x.dtype) for w, x in ((to_audio, audio), (to_video, video))]
        return audio * scale[0], video * scale[1]

    def trained(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Marks the parameters that the loss reaches, in the structure of ``params``.

        The rest exist for checkpoints only: the single-modality classifiers and, in `ia`, ``proj``.
        The reference's optimizer skips parameters without a gradient, weight decay included.
        """

        def reached(path: tuple, _: Any) -> bool:
            names = [entry.key for entry in path]
            own_classifier = len(names) > 2 and names[1] == "classifier_1"
            return not (own_classifier or (self.fusion == "ia" and "proj" in names))

        return jax.tree_util.tree_map_with_path(reached, params)
