"""MTCNN's three networks (Zhang et al., 2016, arXiv 1604.02878), ported from facenet-pytorch.

Images are RGB, channels-last, scaled by `normalise`. Each network returns face probabilities and
offsets of the box corners in units of the box size.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops import Dense

CELL = 12  # receptive field of P-Net, pixels
STRIDE = 2  # of P-Net, pixels
CROP_REFINE, CROP_OUTPUT = 24, 48  # input sizes of R-Net and O-Net


def normalise(pixels: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Maps pixel values 0..255 to about -1..1, as in training."""
    return (pixels - 127.5) * 0.0078125


class PReLU(nn.Module):
    """ReLU with a learned negative slope per channel, initially 0.25."""

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns ``max(x, 0) + slope * min(x, 0)``."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.maximum(x, 0) + slope * jnp.minimum(x, 0)


def max_pool(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b oh ow c"]:
    """Max pooling over ``size`` x ``size`` windows with stride 2, in PyTorch's ceil mode."""
    outputs = [-(-(n - size) // 2) + 1 for n in x.shape[1:3]]
    rows, columns = (2 * (o - 1) + size - n for o, n in zip(outputs, x.shape[1:3], strict=True))
    padding = ((0, 0), (0, rows), (0, columns), (0, 0))
    padded = jnp.pad(x, padding, constant_values=-jnp.inf)
    for axis, output in enumerate(outputs, start=1):
        taps = [lax.slice_in_dim(padded, i, i + 2 * output - 1, 2, axis=axis) for i in range(size)]
        padded = jnp.max(jnp.stack(taps), axis=0)
    return padded


class GroupedConv(nn.Module):
    """Unpadded convolution that computes ``group`` adjacent output columns as channels.

    With few channels, gathering patches dominates a convolution on CPU. A wider kernel, padded with
    zeros for each column, gathers one patch for the whole group.
    """

    features: int
    kernel_size: int
    group: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        """Maps ``[b h w i]`` to ``[b h-k+1 w-k+1 features]``."""
        size, group = self.kernel_size, self.group
        shape = (size, size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.zeros, shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        width = x.shape[2] - size + 1
        groups = -(-width // group)
        padded = jnp.pad(x, ((0, 0), (0, 0), (0, groups * group - width), (0, 0)))
        columns = [
            jnp.pad(kernel, ((0, 0), (i, group - 1 - i), (0, 0), (0, 0))) for i in range(group)
        ]
        wide = jnp.stack(columns, axis=3).reshape(*shape[:1], size + group - 1, shape[2], -1)
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            padded, wide, (1, group), "VALID", dimension_numbers=dimensions
        )
        y = y.reshape(*y.shape[:2], groups * group, self.features)
        return y[:, :, :width] + bias


class _ConvBlock(nn.Module):
    """Unpadded convolution, PReLU and, unless ``pool`` is 0, max pooling."""

    features: int
    kernel_size: int = 3
    pool: int = 0
    group: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b oh ow o"]:
        x = GroupedConv(self.features, self.kernel_size, self.group, name="conv")(x)
        x = PReLU(name="prelu")(x)
        return max_pool(x, self.pool) if self.pool else x


class PNet(nn.Module):
    """Proposal network: scores a 12x12 cell at every second pixel of an image of any size."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w 3"]
    ) -> tuple[Float[Array, "b oh ow"], Float[Array, "b oh ow 4"]]:
        """Returns face probabilities and box offsets of the cells."""
        x = _ConvBlock(10, pool=2, group=4, name="conv1")(x)
        x = _ConvBlock(16, group=4, name="conv2")(x)
        x = _ConvBlock(32, group=2, name="conv3")(x)
        return _face_probability(Dense(2, name="face")(x)), Dense(4, name="box")(x)


class RNet(nn.Module):
    """Refinement network on 24x24 crops of the candidates."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b 24 24 3"]
    ) -> tuple[Float[Array, "b"], Float[Array, "b 4"]]:
        """Returns face probabilities and box offsets."""
        x = _ConvBlock(28, pool=3, group=4, name="conv1")(x)
        x = _ConvBlock(48, pool=3, name="conv2")(x)
        x = _ConvBlock(64, kernel_size=2, name="conv3")(x)
        x = PReLU(name="dense4_prelu")(Dense(128, name="dense4")(flatten(x)))
        return _face_probability(Dense(2, name="face")(x)), Dense(4, name="box")(x)


class ONet(nn.Module):
    """Output network on 48x48 crops of the candidates; also locates five landmarks."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "b 48 48 3"]
    ) -> tuple[Float[Array, "b"], Float[Array, "b 4"], Float[Array, "b 10"]]:
        """Returns face probabilities, box offsets and landmarks (five x, then five y)."""
        x = _ConvBlock(32, pool=3, group=4, name="conv1")(x)
        x = _ConvBlock(64, pool=3, name="conv2")(x)
        x = _ConvBlock(64, pool=2, name="conv3")(x)
        x = _ConvBlock(128, kernel_size=2, name="conv4")(x)
        x = PReLU(name="dense5_prelu")(Dense(256, name="dense5")(flatten(x)))
        face = _face_probability(Dense(2, name="face")(x))
        return face, Dense(4, name="box")(x), Dense(10, name="landmarks")(x)


def _face_probability(logits: Float[Array, "*b 2"]) -> Float[Array, "*b"]:
    return jax.nn.softmax(logits)[..., 1]


def flatten(x: Float[Array, "b h w c"]) -> Float[Array, "b whc"]:
    """Flattens columns first, as the dense layers were trained in Matlab's order."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], -1)
