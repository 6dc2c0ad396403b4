"""Layers with PyTorch's conventions: default initialisers, BatchNorm momentum, epsilons.

Every BatchNorm takes a `Statistics` that says where its statistics come from. In training, rows may
carry multiplicities, so that a batch which repeats itself is computed once (see
`avjax.training.modality_dropout`).
"""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, UInt32

from avjax.models import ops

EPSILON = 1e-5  # PyTorch's default for BatchNorm and LayerNorm
MOMENTUM = 0.1  # PyTorch's convention: share of the new batch in the running statistics


class Statistics(NamedTuple):
    """Where BatchNorm takes its statistics from.

    Attributes:
      train: batch statistics (and an update of the running ones) instead of the running ones.
      weight: in training, the multiplicity of each row, ``[b]``; None counts every row once.
      axis_name: mapped device axis over which batch statistics are global, or None.
    """

    train: bool = False
    weight: Float[Array, "b"] | None = None
    axis_name: str | None = None

    def weight_of(self, x: Float[Array, "b *s c"]) -> Float[Array, "b"]:
        """The multiplicity of each row of a map."""
        return jnp.ones(x.shape[0]) if self.weight is None else self.weight

    def repeat(self, times: int) -> "Statistics":
        """The statistics after each row has been split into ``times`` consecutive rows."""
        weight = None if self.weight is None else jnp.repeat(self.weight, times)
        return self._replace(weight=weight)

    def append(self, weight: Float[Array, ""]) -> "Statistics":
        """The statistics with one more row of multiplicity ``weight`` at the end."""
        return self._replace(
            weight=None if self.weight is None else jnp.append(self.weight, weight)
        )


INFERENCE = Statistics()
POSTPONED = "postponed"  # the random stream that asks for it, and the collection that comes of it


class Draw(NamedTuple):
    """A parameter that is yet to be drawn, by `draw`.

    Attributes:
      key: of this parameter alone.
      bound: the greatest absolute value.
      shape: of the parameter.
    """

    key: Array
    bound: float
    shape: tuple[int, ...]


def draw(key: Array, bound: float | Array, shape: Sequence[int]) -> Float[Array, "*shape"]:
    """U(-bound, bound)."""
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def uniform_param(
    module: nn.Module, name: str, fan_in: int, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """A parameter U(-1/sqrt(fan_in), 1/sqrt(fan_in)), PyTorch's default for weights and biases.

    Where there is a stream of random numbers `POSTPONED`, zeros stand for what the `Draw` found in
    that collection under the same path will give; its key is known at once, even while a program is
    traced.
    """
    bound = fan_in**-0.5
    postponed = module.has_rng(POSTPONED)

    def init(key: Array) -> Array | np.ndarray:
        if not postponed:
            return draw(key, bound, shape)
        module.put_variable(POSTPONED, name, Draw(key, bound, shape))
        return np.zeros(shape, np.float32)

    with jax.ensure_compile_time_eval() if postponed else contextlib.nullcontext():
        param = module.param(name, init)
    return jnp.asarray(param)


class Dense(nn.Module):
    """Affine map of the last axis; also a 1x1 convolution."""

    features: int
    use_bias: bool = True

    @nn.compact
    def __call__(
        self, x: ops.Map | ops.Source, order: UInt32[np.ndarray, "i"] | None = None
    ) -> Float[Array, "*b o"] | ops.Shifted:
        """Maps ``[*b i]``; where channel j of it is the layer's input ``order[j]``, too.

        What a source's map becomes is returned as a shifted one.
        """
        inputs = (x.x if isinstance(x, ops.Source) else ops.as_normalised(x).value).shape[-1]
        kernel = uniform_param(self, "kernel", inputs, (inputs, self.features))
        bias = uniform_param(self, "bias", inputs, (self.features,)) if self.use_bias else None
        kernel = kernel if order is None else kernel[order]
        if isinstance(x, ops.Source):
            product = ops.affine_matmul(x, kernel)
            return product if bias is None else product._replace(shift=product.shift + bias)
        y = ops.channel_matmul(x, kernel)
        return y if bias is None else y + bias.astype(y.dtype)


class Conv2d(nn.Module):
    """Dense 2-D convolution with a square kernel."""

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: ops.Map) -> Float[Array, "b oh ow o"]:
        inputs = ops.as_normalised(x).value.shape[-1]
        shape = (self.kernel_size, self.kernel_size, inputs, self.features)
        fan_in = self.kernel_size**2 * inputs
        kernel = uniform_param(self, "kernel", fan_in, shape)
        y = ops.conv2d(x, kernel, stride=self.stride, padding=self.padding, dilation=self.dilation)
        if self.use_bias:
            y = y + uniform_param(self, "bias", fan_in, (self.features,)).astype(y.dtype)
        return y


class DepthwiseConv(nn.Module):
    """3x3 depthwise convolution, padding 1, no bias; output o reads input ``o // multiplier``."""

    multiplier: int = 1
    stride: int = 1

    @nn.compact
    def __call__(self, x: ops.Map) -> Float[Array, "b oh ow o"]:
        shape = (3, 3, ops.as_normalised(x).value.shape[-1] * self.multiplier)
        return ops.depthwise_conv3x3(x, uniform_param(self, "kernel", 9, shape), self.stride)


class Conv1d(nn.Module):
    """1-D convolution of kernel size 3 over time."""

    features: int
    padding: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"]) -> Float[Array, "b u o"]:
        fan_in = 3 * x.shape[-1]
        kernel = uniform_param(self, "kernel", fan_in, (3, x.shape[-1], self.features))
        bias = uniform_param(self, "bias", fan_in, (self.features,)).astype(x.dtype)
        return ops.conv1d(x, kernel, padding=self.padding) + bias


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, optionally followed by ReLU.

    Running statistics follow PyTorch: momentum 0.1 for the new value, unbiased variance stored.
    """

    relu: bool = False

    def __call__(
        self, x: Float[Array, "b *s c"] | ops.Shifted, stats: Statistics
    ) -> Float[Array, "b *s c"]:
        return self.normalised(x, stats).value

    def normalised(
        self, x: Float[Array, "b *s c"] | ops.Shifted, stats: Statistics
    ) -> ops.Normalised:
        """The same, with what the next operation's derivative needs instead of the map itself.

        A shift of the input changes nothing but the mean. There is none without ``stats.train``.
        """
        value, shift = x if isinstance(x, ops.Shifted) else (x, None)
        scale, bias, mean, var = self._variables(value.shape[-1])
        if not stats.train:
            source = ops.Source(value, *_affine(scale, bias, mean, var))
            return ops.Normalised(ops.normalise(source, self.relu))
        weight = stats.weight_of(value)
        y, batch, source = ops.batch_norm_train(
            value, scale, bias, weight, self.relu, EPSILON, stats.axis_name
        )
        self._update(batch if shift is None else batch._replace(mean=batch.mean + shift))
        return ops.Normalised(y, source, self.relu)

    def for_product(
        self, x: Float[Array, "b *s c"], stats: Statistics
    ) -> ops.Normalised | ops.Source:
        """For a `Dense` that follows without ReLU: in training it is spared computing the map."""
        if not stats.train:
            return self.normalised(x, stats)
        scale, bias, _, _ = self._variables(x.shape[-1])
        source, batch = ops.batch_norm_source(
            x, scale, bias, stats.weight_of(x), EPSILON, stats.axis_name
        )
        self._update(batch)
        return source

    def pooled(
        self,
        x: Float[Array, "b h w c"],
        stats: Statistics,
        brightness: Float[Array, "k b"] | None = None,
        *,
        blank: bool = False,
    ) -> Float[Array, "r h/2 w/2 c"]:
        """With ReLU and 3x3 max-pooling of stride 2; of dimmed images, too.

        Args:
          x: height and width even.
          stats: of the rows.
          brightness: what the images are multiplied by to make the rows, see
            `ops.pooled_batch_norm`; None for the images alone.
          blank: whether there is one more row, zero.
        """
        brightness = jnp.ones((1, len(x))) if brightness is None else brightness
        if not stats.train:
            rows = ops.dimmed_rows(x, brightness, blank)
            return ops.max_pool3x3_stride2(self.normalised(rows, stats).value)
        scale, bias, _, _ = self._variables(x.shape[-1])
        weight = jnp.ones(brightness.size + blank) if stats.weight is None else stats.weight
        y, batch = ops.pooled_batch_norm(
            x, scale, bias, brightness, weight, blank, EPSILON, stats.axis_name
        )
        self._update(batch)
        return y

    @nn.compact
    def _variables(self, features: int) -> tuple[Array, Array, Array, Array]:
        """Scale, bias, running mean and variance."""
        return (
            self.param("scale", nn.initializers.ones, (features,)),
            self.param("bias", nn.initializers.zeros, (features,)),
            self.variable("batch_stats", "mean", jnp.zeros, (features,)).value,
            self.variable("batch_stats", "var", jnp.ones, (features,)).value,
        )

    def _update(self, batch: ops.Moments) -> None:
        """Moves the running statistics towards a batch's; one value alone has no variance."""
        if self.is_initializing():
            return
        running_mean, running_var = (self.get_variable("batch_stats", x) for x in ("mean", "var"))
        unbiased = batch.variance * (batch.count / jnp.maximum(batch.count - 1, 1))
        unbiased = jnp.where(batch.count > 1, unbiased, running_var)
        for name, old, new in (("mean", running_mean, batch.mean), ("var", running_var, unbiased)):
            self.put_variable("batch_stats", name, old + MOMENTUM * (new - old))

    def affine(self) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
        """Factor and offset of each channel by the running statistics."""
        learned, running = self.variables["params"], self.variables["batch_stats"]
        return _affine(learned["scale"], learned["bias"], running["mean"], running["var"])


def _affine(scale: Array, bias: Array, mean: Array, variance: Array) -> tuple[Array, Array]:
    factor = scale * lax.rsqrt(variance + EPSILON)
    return factor, bias - mean * factor


def layer_norm() -> nn.LayerNorm:
    """Layer normalisation of the last axis with PyTorch's epsilon, variance in two passes."""
    return nn.LayerNorm(epsilon=EPSILON, use_fast_variance=False)
