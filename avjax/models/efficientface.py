"""EfficientFace (AAAI 2021) and its temporal head (reference `EfficientFaceTemporal`)."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.audio_cnn import ConvBlock
from avjax.models.layers import INFERENCE, BatchNorm, Conv2d, Dense, DepthwiseConv, Statistics
from avjax.models.ops.platform import by_platform

STAGE_REPEATS = (4, 8, 4)
STEM_FEATURES = 29
STAGE_FEATURES = (116, 232, 464)
FRAME_FEATURES = 1024
GATE_REDUCTION = 16
SIZE_MULTIPLE, MIN_SIZE = 32, 64
# Images that a CPU takes through the backbone together where no statistics tie them to the others:
# few enough for its caches, enough for its cores.
IMAGES_AT_ONCE = 16


class Dimmed(NamedTuple):
    """Clips that follow from the given ones: each once more, dimmed, and at the end a black clip.

    Attributes:
      factor: ``[b]`` what each clip is multiplied by.
      blank_weight: multiplicity of the black clip.
    """

    factor: Float[Array, "b"]
    blank_weight: Float[Array, ""]


def channel_shuffle(first: Array, second: Array) -> Array:
    """Concatenates two halves and shuffles with two groups: their channels alternate."""
    shuffled = jnp.stack([first, second], axis=-1).reshape(*first.shape[:-1], -1)
    return lax.optimization_barrier(shuffled)


class InvertedResidual(nn.Module):
    """ShuffleNetV2 unit; with stride 2 both branches see all channels, else each sees a half."""

    features: int
    stride: int

    def setup(self) -> None:
        half = self.features // 2
        if self.stride > 1:
            self.branch1_dw = DepthwiseConv(stride=self.stride)
            self.branch1_dw_bn = BatchNorm()
            self.branch1_pw = Dense(half, use_bias=False)
            self.branch1_pw_bn = BatchNorm(relu=True)
        self.branch2_pw1 = Dense(half, use_bias=False)
        self.branch2_pw1_bn = BatchNorm(relu=True)
        self.branch2_dw = DepthwiseConv(stride=self.stride)
        self.branch2_dw_bn = BatchNorm()
        self.branch2_pw2 = Dense(half, use_bias=False)
        self.branch2_pw2_bn = BatchNorm(relu=True)

    def __call__(self, x: Float[Array, "b h w i"], stats: Statistics) -> Float[Array, "b oh ow o"]:
        """Maps ``[b h w i]`` to ``[b h/stride w/stride features]``."""
        if self.stride == 1:
            kept, x = jnp.split(x, 2, axis=-1)
        else:
            narrow = self.branch1_dw_bn.normalised(self.branch1_dw(x), stats)
            kept = self.branch1_pw_bn(self.branch1_pw(narrow), stats)
        wide = self.branch2_pw1_bn.normalised(self.branch2_pw1(x), stats)
        narrow = self.branch2_dw_bn.normalised(self.branch2_dw(wide), stats)
        return channel_shuffle(kept, self.branch2_pw2_bn(self.branch2_pw2(narrow), stats))


class LocalFeatures(nn.Module):
    """Depthwise features of the four quarters of the map, each padded inside itself."""

    features: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], stats: Statistics
    ) -> Float[Array, "b h/2 w/2 o"]:
        """Quarters 1 to 4 are top left, bottom left, top right, bottom right."""
        left, right = jnp.split(x, 2, axis=2)
        quarters = [*jnp.split(left, 2, axis=1), *jnp.split(right, 2, axis=1)]
        outputs = []
        for index, quarter in enumerate(quarters, start=1):
            multiplier = self.features // x.shape[-1]
            y = DepthwiseConv(multiplier, stride=2, name=f"conv{index}_1")(quarter)
            y = BatchNorm(relu=True, name=f"bn{index}_1").normalised(y, stats)
            y = DepthwiseConv(name=f"conv{index}_2")(y)
            outputs.append(BatchNorm(relu=True, name=f"bn{index}_2")(y, stats))
        columns = [jnp.concatenate(outputs[:2], axis=1), jnp.concatenate(outputs[2:], axis=1)]
        return jnp.concatenate(columns, axis=2)


class Modulator(nn.Module):
    """Scales each value by the sigmoid of a channel gate times a spatial gate."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], stats: Statistics) -> Float[Array, "b h w c"]:
        """Returns ``sigmoid(channel * spatial) * x``."""
        gate = x.shape[-1] // GATE_REDUCTION
        channel = Dense(gate, name="channel_fc_0")(x.mean((1, 2)))
        channel = BatchNorm(relu=True, name="channel_bn_1")(channel, stats)
        channel = Dense(x.shape[-1], name="channel_fc_final")(channel)
        spatial = Dense(gate, name="spatial_reduce")(x)
        spatial = BatchNorm(relu=True, name="spatial_bn_reduce").normalised(spatial, stats)
        for i in range(2):
            dilated = Conv2d(gate, 3, padding=4, dilation=4, name=f"spatial_dilated_{i}")
            spatial = dilated(spatial)
            batch_norm = BatchNorm(relu=True, name=f"spatial_bn_dilated_{i}")
            spatial = batch_norm.normalised(spatial, stats)
        spatial = Dense(1, name="spatial_final")(spatial)
        return jax.nn.sigmoid(channel[:, None, None] * spatial) * x


class EfficientFace(nn.Module):
    """Frames to features of 1024 per frame, then a temporal head in two stages.

    ``stage_repeats`` and the temporal head's widths are the reference's; the smaller networks of
    tests change ``stage_repeats`` only.
    """

    num_classes: int
    stage_repeats: Sequence[int] = STAGE_REPEATS

    def setup(self) -> None:
        self.conv1 = Conv2d(STEM_FEATURES, 3, stride=2, padding=1, use_bias=False)
        self.conv1_bn = BatchNorm(relu=True)
        self.stage2, self.stage3, self.stage4 = (
            [InvertedResidual(features, 1 if i else 2) for i in range(repeats)]
            for features, repeats in zip(STAGE_FEATURES, self.stage_repeats, strict=True)
        )
        self.modulator = Modulator()
        self.local = LocalFeatures(STAGE_FEATURES[0])
        self.conv5 = Dense(FRAME_FEATURES, use_bias=False)
        self.conv5_bn = BatchNorm(relu=True)
        self.conv1d_0 = ConvBlock(64, padding=1)
        self.conv1d_1 = ConvBlock(64, padding=1)
        self.conv1d_2 = ConvBlock(128, padding=1)
        self.conv1d_3 = ConvBlock(128, padding=1)
        self.classifier_1 = Dense(self.num_classes)

    def stem(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h/2 w/2 29"]:
        """The first convolution. It is linear, and has no bias."""
        height, width = images.shape[1:3]
        if min(height, width) < MIN_SIZE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise InputError(
                f"frames of {height}x{width} pixels do not fit EfficientFace: height and width "
                f"must be multiples of {SIZE_MULTIPLE}, from {MIN_SIZE}"
            )
        return self.conv1(images)

    def frame_features(
        self, x: Float[Array, "b h/2 w/2 29"], stats: Statistics
    ) -> Float[Array, "b 1024"]:
        """The backbone behind its stem: one feature vector per image."""
        x = ops.max_pool3x3_stride2(self.conv1_bn.normalised(x, stats))
        local = self.local(x, stats)
        for unit in self.stage2:
            x = unit(x, stats)
        x = self.modulator(x, stats) + local
        for unit in (*self.stage3, *self.stage4):
            x = unit(x, stats)
        return self.conv5_bn(self.conv5(x), stats).mean((1, 2))

    def clip_features(
        self,
        frames: Float[Array, "b n h w 3"],
        stats: Statistics,
        dimmed: Dimmed | None = None,
    ) -> Float[Array, "b n 1024"]:
        """Frame features of clips.

        Args:
          frames: normalised clips.
          stats: of the clips and, where there are such, of the dimmed ones after them.
          dimmed: where given, twice as many clips and a black one are returned. The black one's
            frames are one image, computed once, and the stem sees neither it nor dimmed images.
        """
        clips, length = frames.shape[:2]
        images = frames.reshape(-1, *frames.shape[2:])
        image_stats = stats.repeat(length)
        if not (stats.train or dimmed or self.is_initializing()):
            return self._infer(images).reshape(clips, length, -1)
        x = self.stem(images)
        if dimmed is None:
            return self.frame_features(x, image_stats).reshape(clips, length, -1)
        factor = jnp.repeat(dimmed.factor, length)[:, None, None, None].astype(x.dtype)
        x = jnp.concatenate([x, x * factor, jnp.zeros_like(x[:1])])
        features = self.frame_features(x, image_stats.append(dimmed.blank_weight * length))
        blank = jnp.broadcast_to(features[-1], (1, length, features.shape[-1]))
        return jnp.concatenate([features[:-1].reshape(2 * clips, length, -1), blank])

    def backbone(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1024"]:
        """Features of normalised images by the running statistics."""
        return self.frame_features(self.stem(images), INFERENCE)

    def _infer(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b 1024"]:
        """`backbone`; on CPU some images after the others."""
        net, variables = self.unbind()
        backbone = functools.partial(net.apply, variables, method="backbone")
        count = len(images)
        together = max(n for n in range(1, IMAGES_AT_ONCE + 1) if count % n == 0)

        def in_parts(images):
            parts = images.reshape(count // together, together, *images.shape[1:])
            return lax.map(backbone, parts).reshape(count, -1)

        return by_platform(images, cpu=in_parts, other=backbone)

    def temporal_stage1(
        self, x: Float[Array, "b n 1024"], stats: Statistics
    ) -> Float[Array, "b n 64"]:
        """First temporal stage."""
        return self.conv1d_1(self.conv1d_0(x, stats), stats)

    def temporal_stage2(
        self, x: Float[Array, "b n 64"], stats: Statistics
    ) -> Float[Array, "b n 128"]:
        """Second temporal stage."""
        return self.conv1d_3(self.conv1d_2(x, stats), stats)

    def classify(self, x: Float[Array, "b n 128"]) -> Float[Array, "b k"]:
        """Mean over time and the visual model's own classifier."""
        return self.classifier_1(x.mean(1))

    def __call__(
        self, frames: Float[Array, "b n h w 3"], stats: Statistics = INFERENCE
    ) -> Float[Array, "b k"]:
        """Logits of the visual model alone."""
        x = self.temporal_stage1(self.clip_features(frames, stats), stats)
        return self.classify(self.temporal_stage2(x, stats))
