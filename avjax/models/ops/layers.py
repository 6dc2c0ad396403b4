"""Layers with PyTorch's defaults: initialisers, BatchNorm momentum, epsilons."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.models.ops.batch_norm import EPSILON, batch_norm, running_norm
from avjax.models.ops.channels import Channels
from avjax.models.ops.convolution import conv1d, conv1x1, conv2d, depthwise_conv3x3
from avjax.models.ops.map import Map

MOMENTUM = 0.1  # weight of the new batch in the running statistics, as in PyTorch


def uniform(fan_in: int) -> Any:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases."""
    bound = fan_in**-0.5

    def init(key: Array, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
        return jax.random.uniform(key, shape, jnp.float32, -bound, bound)

    return init


class Dense(nn.Module):
    """Affine map of the last axis."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        inputs = x.shape[-1]
        y = x @ self.param("kernel", uniform(inputs), (inputs, self.features)).astype(x.dtype)
        if self.use_bias:
            y = y + self.param("bias", uniform(inputs), (self.features,)).astype(y.dtype)
        return y


class Conv1x1(nn.Module):
    """Pointwise convolution."""

    features: int
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Map | Channels) -> Map:
        inputs = x.shape[-1]
        y = conv1x1(x, self.param("kernel", uniform(inputs), (inputs, self.features)))
        return _with_bias(self, y, inputs) if self.use_bias else y


class Conv2d(nn.Module):
    """Dense 2-D convolution with a square kernel."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: Map) -> Map:
        size, inputs = self.kernel_size, x.shape[-1]
        fan_in = size * size * inputs
        kernel = self.param("kernel", uniform(fan_in), (size, size, inputs, self.features))
        y = conv2d(x, kernel, stride=self.stride, padding=self.padding, dilation=self.dilation)
        return _with_bias(self, y, fan_in) if self.use_bias else y


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution, padding 1, no bias; output o reads input ``o // multiplier``."""

    multiplier: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: Map) -> Map:
        kernel = self.param("kernel", uniform(9), (3, 3, x.shape[-1] * self.multiplier))
        return depthwise_conv3x3(x, kernel, self.stride)


class Conv1d(nn.Module):
    """1-D convolution of kernel size 3 over time."""

    features: int
    padding: int = 0

    @nn.compact
    def __call__(self, x: Map) -> Map:
        inputs = x.shape[-1]
        kernel = self.param("kernel", uniform(3 * inputs), (3, inputs, self.features))
        return _with_bias(self, conv1d(x, kernel, padding=self.padding), 3 * inputs)


def _with_bias(module: nn.Module, y: Map, fan_in: int) -> Map:
    """Adds the module's bias to the map's pending bias."""
    bias = module.param("bias", uniform(fan_in), (y.shape[-1],))
    return y.replace(bias=bias if y.bias is None else y.bias + bias)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last.

    Uses the enlarged batch's statistics in training, else the running statistics. These follow
    PyTorch: momentum 0.1 for the new value, unbiased variance.
    """

    @nn.compact
    def __call__(self, x: Map) -> Map:
        shape = (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        var = self.variable("batch_stats", "var", jnp.ones, shape)
        if x.rows is None:
            return running_norm(x, scale, bias, mean.value, var.value)
        y, batch = batch_norm(x, scale, bias)
        if not self.is_initializing():
            mean.value += MOMENTUM * (batch.mean - mean.value)
            has_variance = batch.count > 1
            unbiased = batch.variance * (batch.count / jnp.maximum(batch.count - 1, 1))
            var.value += jnp.where(has_variance, MOMENTUM * (unbiased - var.value), 0)
        return y


def layer_norm() -> nn.LayerNorm:
    """Returns a layer norm with PyTorch's epsilon and two-pass variance."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)
