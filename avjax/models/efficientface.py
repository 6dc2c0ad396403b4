"""EfficientFace (AAAI 2021) and its temporal head (reference `EfficientFaceTemporal`)."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

from avjax.errors import InputError
from avjax.models import ops, shuffle
from avjax.models.audio_cnn import ConvBlock
from avjax.models.frames import Frames, as_images, as_seen
from avjax.models.layers import INFERENCE, BatchNorm, Conv2d, Dense, DepthwiseConv, Statistics
from avjax.models.ops.platform import by_platform

STAGE_REPEATS = (4, 8, 4)
STEM_FEATURES = 29
STAGE_FEATURES = (116, 232, 464)
FRAME_FEATURES = 1024
GATE_REDUCTION = 16
SIZE_MULTIPLE, MIN_SIZE = 32, 64
# Images that a CPU takes through the backbone together where no statistics tie them to the others:
# few enough for its caches, and for memory that an allocator keeps between two calls; enough for
# its cores.
IMAGES_AT_ONCE = 6


class Dimmed(NamedTuple):
    """Clips that follow from the given ones: each once more, dimmed, and at the end a black clip.

    Attributes:
      factor: ``[b]`` what each clip is multiplied by.
      blank_weight: multiplicity of the black clip.
    """

    factor: Float[Array, "b"]
    blank_weight: Float[Array, ""]


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

    def __call__(
        self,
        x: Float[Array, "b h w i"],
        stats: Statistics,
        order: UInt32[np.ndarray, "i"] | None = None,
    ) -> Float[Array, "b h/{self.stride} w/{self.stride} o"]:
        """Maps ``[b h w i]`` to ``[b h/stride w/stride features/2]``, the branch that is mapped.

        ``order`` is that of its channels, see `Dense`.
        """
        wide = self.branch2_pw1_bn.normalised(self.branch2_pw1(x, order), stats)
        narrow = self.branch2_dw_bn.for_product(self.branch2_dw(wide), stats)
        return self.branch2_pw2_bn(self.branch2_pw2(narrow), stats)

    def shortcut(
        self, x: Float[Array, "b h w i"], stats: Statistics
    ) -> Float[Array, "b h/2 w/2 o"]:
        """The other branch, with stride 2."""
        narrow = self.branch1_dw_bn.for_product(self.branch1_dw(x), stats)
        return self.branch1_pw_bn(self.branch1_pw(narrow), stats)


class LocalFeatures(nn.Module):
    """Depthwise features of the four quarters of the map, each padded inside itself.

    Quarters 1 to 4 are top left, bottom left, top right, bottom right.
    """

    features: int

    def setup(self) -> None:
        for i in range(1, 5):
            multiplier = self.features // STEM_FEATURES
            setattr(self, f"conv{i}_1", DepthwiseConv(multiplier, stride=2))
            setattr(self, f"bn{i}_1", BatchNorm(relu=True))
            setattr(self, f"conv{i}_2", DepthwiseConv())
            setattr(self, f"bn{i}_2", BatchNorm(relu=True))

    def __call__(
        self, x: Float[Array, "b h w 29"], stats: Statistics
    ) -> Float[Array, "b h/2 w/2 o"]:
        """Maps ``[b h w 29]`` to ``[b h/2 w/2 features]``."""
        if not (stats.train or self.is_initializing()):
            return self._infer(x)
        left, right = jnp.split(x, 2, axis=2)
        quarters = [*jnp.split(left, 2, axis=1), *jnp.split(right, 2, axis=1)]
        outputs = []
        for i, quarter in enumerate(quarters, start=1):
            conv, batch_norm = getattr(self, f"conv{i}_1"), getattr(self, f"bn{i}_1")
            y = batch_norm.normalised(conv(quarter), stats)
            conv, batch_norm = getattr(self, f"conv{i}_2"), getattr(self, f"bn{i}_2")
            outputs.append(batch_norm(conv(y), stats))
        columns = [jnp.concatenate(outputs[:2], axis=1), jnp.concatenate(outputs[2:], axis=1)]
        return jnp.concatenate(columns, axis=2)

    def _infer(self, x: Float[Array, "b h w 29"]) -> Float[Array, "b h/2 w/2 o"]:
        """The same by the running statistics, all quarters at once."""
        images, height, width, channels = x.shape
        y = x.reshape(images, 2, height // 2, 2, width // 2, channels)
        y = ops.quartered_conv3x3(y, *self._affine_convs(1), stride=2)
        y = ops.quartered_conv3x3(y, *self._affine_convs(2), stride=1)
        return y.reshape(images, height // 2, width // 2, -1)

    def _affine_convs(self, layer: int) -> tuple[Float[Array, "3 3 2 2 o"], Float[Array, "2 2 o"]]:
        """Kernels and offsets of a layer's quarters, batch normalisation included."""
        by_rows = (1, 3, 2, 4)
        convs = [getattr(self, f"conv{i}_{layer}").variables["params"]["kernel"] for i in by_rows]
        affine = [getattr(self, f"bn{i}_{layer}").affine() for i in by_rows]
        kernels = [kernel * factor for kernel, (factor, _) in zip(convs, affine, strict=True)]
        offsets = jnp.stack([offset for _, offset in affine])
        return jnp.stack(kernels, axis=2).reshape(3, 3, 2, 2, -1), offsets.reshape(2, 2, -1)


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


def _stage(
    units: Sequence[InvertedResidual], x: Float[Array, "b h w i"], stats: Statistics
) -> tuple[list[shuffle.Parts], shuffle.Reading]:
    """Maps ``[b h w i]`` through the units of a stage; see `shuffle` for what it returns."""
    first, *others = units
    plan = shuffle.plan(len(units), first.features // 2)
    maps = [
        shuffle.cut(first.shortcut(x, stats), plan.cuts[0]),
        shuffle.cut(first(x, stats), plan.cuts[1]),
    ]
    for unit, reading, cuts in zip(others, plan.units, plan.cuts[2:], strict=True):
        y = unit(shuffle.gathered(maps, reading), stats, reading.order)
        maps.append(shuffle.cut(y, cuts))
    return maps, plan.end


def _by_parts(function: Callable[[Frames], Array], images: Frames) -> Array:
    """Maps images to arrays, at most `IMAGES_AT_ONCE` after the others."""
    count = images.shape[0]
    parts = -(-count // IMAGES_AT_ONCE)
    spare = -count % parts

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, spare),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(parts, -1, *x.shape[1:])

    y = lax.map(function, jax.tree.map(split, images))
    return y.reshape(count + spare, *y.shape[2:])[:count]


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
        return self.conv1(images)

    def frame_features(
        self, x: Float[Array, "b h w 29"], stats: Statistics
    ) -> Float[Array, "b 1024"]:
        """The backbone behind its stem: one feature vector per image."""
        return self.pooled_features(self.conv1_bn.pooled(x, stats), stats)

    def pooled_features(
        self, x: Float[Array, "b h w 29"], stats: Statistics
    ) -> Float[Array, "b 1024"]:
        """The backbone behind its pooling."""
        local = self.local(x, stats)
        x = shuffle.in_order(*_stage(self.stage2, x, stats))
        x = self.modulator(x, stats) + local
        x = shuffle.in_order(*_stage(self.stage3, x, stats))
        maps, end = _stage(self.stage4, x, stats)
        x = self.conv5(shuffle.gathered(maps, end), end.order)
        return self.conv5_bn(x, stats).mean((1, 2))

    def clip_features(
        self,
        frames: Frames,
        stats: Statistics,
        dimmed: Dimmed | None = None,
    ) -> Float[Array, "b n 1024"]:
        """Frame features of clips.

        Args:
          frames: clips ``[b n h w 3]``.
          stats: of the clips and, where there are such, of the dimmed ones after them.
          dimmed: where given, twice as many clips and a black one are returned. The black one's
            frames are one image, computed once; the stem sees neither it nor dimmed images, nor
            does the pooling in training.
        """
        clips, length, height, width = frames.shape[:4]
        if min(height, width) < MIN_SIZE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
            raise InputError(
                f"frames of {height}x{width} pixels do not fit EfficientFace: height and width "
                f"must be multiples of {SIZE_MULTIPLE}, from {MIN_SIZE}"
            )
        images = as_images(frames)
        if not (stats.train or dimmed or self.is_initializing()):
            return self._infer(images).reshape(clips, length, -1)
        image_stats = stats.repeat(length)
        x = self.stem(as_seen(images))
        if dimmed is None:
            return self.frame_features(x, image_stats).reshape(clips, length, -1)
        factor = jnp.repeat(dimmed.factor, length)
        brightness = jnp.stack([jnp.ones_like(factor), factor])
        image_stats = image_stats.append(dimmed.blank_weight * length)
        x = self.conv1_bn.pooled(x, image_stats, brightness, blank=True)
        features = self.pooled_features(x, image_stats)
        blank = jnp.broadcast_to(features[-1], (1, length, features.shape[-1]))
        return jnp.concatenate([features[:-1].reshape(2 * clips, length, -1), blank])

    def _infer(self, images: Frames) -> Float[Array, "b 1024"]:
        """Features by the running statistics; on CPU some images after the others."""
        net, variables = self.unbind()

        def at_once(net: EfficientFace, images: Frames) -> Array:
            return net.frame_features(net.stem(as_seen(images)), INFERENCE)

        def in_cache(net: EfficientFace, images: Frames) -> Array:
            factor, offset = net.conv1_bn.affine()
            kernel = net.conv1.variables["params"]["kernel"] * factor
            pooled = lax.map(
                lambda image: ops.pooled_conv3x3(as_seen(image), kernel, offset), images
            )
            return net.pooled_features(pooled, INFERENCE)

        def apply(method: Callable[..., Array]) -> Callable[..., Array]:
            return functools.partial(net.apply, variables, method=method)

        in_parts = functools.partial(_by_parts, apply(in_cache))
        return by_platform(images, cpu=in_parts, other=apply(at_once))

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

    def __call__(self, frames: Frames, stats: Statistics = INFERENCE) -> Float[Array, "b k"]:
        """Logits of the visual model alone."""
        x = self.temporal_stage1(self.clip_features(frames, stats), stats)
        return self.classify(self.temporal_stage2(x, stats))
