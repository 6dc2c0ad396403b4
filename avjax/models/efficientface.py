"""EfficientFace (AAAI 2021) and its temporal head (reference `EfficientFaceTemporal`)."""

from collections.abc import Sequence

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.audio_cnn import ConvBlock
from avjax.models.ops import (
    BatchNorm,
    Channels,
    Conv1x1,
    Conv2d,
    Dense,
    DepthwiseConv,
    Map,
    concat,
    in_order,
    max_pool,
    mean,
    relu,
    shuffle,
    split,
    values,
)

STAGE_REPEATS = (4, 8, 4)
STEM_FEATURES = 29
STAGE_FEATURES = (116, 232, 464)
FRAME_FEATURES = 1024
GATE_REDUCTION = 16
SIZE_MULTIPLE, MIN_SIZE = 32, 64


class InvertedResidual(nn.Module):
    """ShuffleNetV2 unit: with stride 2 both branches read all channels, else one half each."""

    features: int
    stride: int = 1

    def setup(self) -> None:
        half = self.features // 2
        if self.stride > 1:
            self.branch1_dw = DepthwiseConv(stride=self.stride)
            self.branch1_dw_bn = BatchNorm()
            self.branch1_pw = Conv1x1(half)
            self.branch1_pw_bn = BatchNorm()
        self.branch2_pw1 = Conv1x1(half)
        self.branch2_pw1_bn = BatchNorm()
        self.branch2_dw = DepthwiseConv(stride=self.stride)
        self.branch2_dw_bn = BatchNorm()
        self.branch2_pw2 = Conv1x1(half)
        self.branch2_pw2_bn = BatchNorm()

    def __call__(self, x: Map | Channels) -> Channels:
        """Maps ``[b h w i]`` to ``[b h/stride w/stride features]``."""
        if self.stride > 1:
            shortcut = self.branch1_dw_bn(self.branch1_dw(x))
            shortcut = relu(self.branch1_pw_bn(self.branch1_pw(shortcut)))
        else:
            shortcut, x = split(x)
        y = relu(self.branch2_pw1_bn(self.branch2_pw1(x)))
        y = self.branch2_dw_bn(self.branch2_dw(y))
        y = relu(self.branch2_pw2_bn(self.branch2_pw2(y)))
        return shuffle(concat(shortcut, y), groups=2)


class LocalFeatures(nn.Module):
    """Depthwise features of the map's four quarters, each padded on its own."""

    features: int

    @ops.quarters_at_once
    @nn.compact
    def __call__(self, x: Map) -> Map:
        """Maps ``[b h w 29]`` to ``[b h/2 w/2 features]``."""
        multiplier = self.features // x.shape[-1]
        outputs = []
        for i, y in enumerate(ops.quarters(x), start=1):
            y = DepthwiseConv(multiplier, stride=2, name=f"conv{i}_1")(y)
            y = relu(BatchNorm(name=f"bn{i}_1")(y))
            y = DepthwiseConv(name=f"conv{i}_2")(y)
            outputs.append(relu(BatchNorm(name=f"bn{i}_2")(y)))
        return ops.join_quarters(outputs)


class Modulator(nn.Module):
    """Scales a map by the sigmoid of a channel gate times a spatial gate."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        """Returns ``sigmoid(channel * spatial) * x``, all ``[b h w c]``."""
        features = x.shape[-1]
        gate = features // GATE_REDUCTION

        channel = Conv1x1(gate, use_bias=True, name="channel_fc_0")(mean(x))
        channel = relu(BatchNorm(name="channel_bn_1")(channel))
        channel = Conv1x1(features, use_bias=True, name="channel_fc_final")(channel)

        spatial = Conv1x1(gate, use_bias=True, name="spatial_reduce")(x)
        spatial = relu(BatchNorm(name="spatial_bn_reduce")(spatial))
        for i in range(2):
            spatial = Conv2d(gate, 3, padding=4, dilation=4, name=f"spatial_dilated_{i}")(spatial)
            spatial = relu(BatchNorm(name=f"spatial_bn_dilated_{i}")(spatial))
        spatial = Conv1x1(1, use_bias=True, name="spatial_final")(spatial)

        return ops.elementwise(jax.nn.sigmoid, channel * spatial) * x


class EfficientFace(nn.Module):
    """A backbone with 1024 features per frame, then a temporal head in two stages.

    Attributes:
      num_classes: number of emotions.
      stage_repeats: units per stage; smaller in tests.
    """

    num_classes: int
    stage_repeats: Sequence[int] = STAGE_REPEATS

    def setup(self) -> None:
        self.conv1 = Conv2d(STEM_FEATURES, 3, stride=2, padding=1, use_bias=False)
        self.conv1_bn = BatchNorm()
        self.stage2, self.stage3, self.stage4 = (
            [InvertedResidual(features, stride=1 if i else 2) for i in range(repeats)]
            for features, repeats in zip(STAGE_FEATURES, self.stage_repeats, strict=True)
        )
        self.modulator = Modulator()
        self.local = LocalFeatures(STAGE_FEATURES[0])
        self.conv5 = Conv1x1(FRAME_FEATURES)
        self.conv5_bn = BatchNorm()
        self.conv1d_0 = ConvBlock(64, padding=1)
        self.conv1d_1 = ConvBlock(64, padding=1)
        self.conv1d_2 = ConvBlock(128, padding=1)
        self.conv1d_3 = ConvBlock(128, padding=1)
        self.classifier_1 = Dense(self.num_classes)

    @ops.in_small_batches
    def frame_features(self, images: Map) -> Map:
        """Backbone, images ``[b h w 3]`` to features ``[b 1024]``."""
        x = max_pool(relu(self.conv1_bn(self.conv1(images))))
        y = in_order(_sequence(self.stage2, x))
        x = self.modulator(y) + self.local(x)
        x = in_order(_sequence(self.stage3, x))
        return mean(relu(self.conv5_bn(self.conv5(_sequence(self.stage4, x)))))

    def clip_features(self, frames: Map) -> Map:
        """Returns frame features ``[b n 1024]`` of clips ``[b n h w 3]``.

        Raises:
          InputError: unsupported frame size.
        """
        length, height, width = frames.shape[1:4]
        if min(height, width) < MIN_SIZE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise InputError(
                f"frames of {height}x{width} pixels do not fit EfficientFace: height and width "
                f"must be multiples of {SIZE_MULTIPLE}, from {MIN_SIZE}"
            )
        return ops.as_clips(self.frame_features(ops.as_images(frames)), length)

    def temporal_stage1(self, x: Map) -> Map:
        """First temporal stage, ``[b n 1024]`` to ``[b n 64]``."""
        return self.conv1d_1(self.conv1d_0(x))

    def temporal_stage2(self, x: Map) -> Map:
        """Second temporal stage, ``[b n 64]`` to ``[b n 128]``."""
        return self.conv1d_3(self.conv1d_2(x))

    def classify(self, x: Map) -> Float[Array, "b k"]:
        """Returns logits of the visual classifier, from the mean over time."""
        return self.classifier_1(values(x).mean(1))

    def __call__(self, frames: Map) -> Float[Array, "b k"]:
        """Returns logits of the visual model alone."""
        x = self.temporal_stage1(self.clip_features(frames))
        return self.classify(self.temporal_stage2(x))


def _sequence(units: Sequence[InvertedResidual], x: Map | Channels) -> Map | Channels:
    """Applies the units of a stage."""
    for unit in units:
        x = unit(x)
    return x
