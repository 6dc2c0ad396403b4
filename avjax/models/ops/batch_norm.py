"""Batch normalisation over rows with multiplicities, and its derivative in two passes."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.normalised import Source, normalise, zero_after
from avjax.models.ops.sums import sum_positions


class Scaling(NamedTuple):
    """How a derivative remembers what was done to each channel.

    Attributes:
      mean: taken away.
      inverse: of the standard deviation.
      factor: ``inverse * gamma``.
    """

    mean: Float[Array, "c"]
    inverse: Float[Array, "c"]
    factor: Float[Array, "c"]


class Moments(NamedTuple):
    """Statistics of a batch, float32 at least.

    Attributes:
      mean: of each channel.
      variance: biased.
      count: number of values behind each channel's statistics.
    """

    mean: Float[Array, "c"]
    variance: Float[Array, "c"]
    count: Float[Array, ""]  # type: ignore[assignment]  # hides tuple.count


def total(x: Any, axis_name: str | None) -> Any:
    """Sums arrays over the devices of ``axis_name``; the identity without one."""
    return x if axis_name is None else lax.psum(x, axis_name)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def batch_norm_train(
    x: Float[Array, "b *space c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    weight: Float[Array, "b"],
    relu: bool,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "b *space c"], Moments, Source]:
    """Normalises with the statistics of the batch that ``weight`` says the rows stand for.

    Args:
      x: rows; statistics run over all axes but the last.
      scale: gamma.
      bias: beta.
      weight: multiplicity of each row; its gradient is not defined (None is returned).
      relu: apply ``max(y, 0)`` in the same pass.
      epsilon: added to the variance.
      axis_name: mapped axis over which statistics are summed, or None.

    Returns:
      ``(y, moments, source)``: y of the type of ``x``, the statistics, and what y can be computed
      from again; no gradient flows through the last two.
    """
    return _forward(x, scale, bias, weight, relu, epsilon, axis_name)[0]


@functools.partial(jax.jit, static_argnums=(4, 5, 6))
def _forward(x, scale, bias, weight, relu, epsilon, axis_name):
    (source, moments), residuals = _source_forward(x, scale, bias, weight, epsilon, axis_name)
    return (normalise(source, relu), moments, source), residuals


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(relu, epsilon, axis_name, residuals, cotangents):
    """Row i gets ``scale/sigma * (dy_i - m_i/N * (sum dy + xhat_i * sum dy*xhat))``.

    ``dy`` already holds each distinct row's whole gradient (all its copies), so the sums run over
    distinct rows unweighted, and only the share of the statistics carries the multiplicity m_i.
    """
    del epsilon
    x, offset, share, scaling = residuals
    space = tuple(range(1, x.ndim - 1))
    through = cotangents[0].astype(scaling.mean.dtype)
    zero = zero_after(through)  # of the forward pass nothing is kept for this but its residuals
    mean, inverse, factor = scaling = Scaling(
        scaling.mean + zero, scaling.inverse, scaling.factor + zero
    )
    offset = offset + zero
    if relu:
        through = jnp.where(x * factor + offset > 0, through, 0)
    bias_gradient = through.sum(space).sum(0)
    scale_gradient = inverse * (through * (x - mean)).sum(space).sum(0)
    slope, constant = slopes(scale_gradient, bias_gradient, scaling, axis_name)
    dx = factor * through + _of_rows(share, x) * (slope * x + constant)
    return lax.optimization_barrier(dx.astype(x.dtype)), scale_gradient, bias_gradient, None


def slopes(
    scale_gradient: Float[Array, "c"],
    bias_gradient: Float[Array, "c"],
    scaling: Scaling,
    axis_name: str | None,
) -> tuple[Float[Array, "c"], Float[Array, "c"]]:
    """What an input's gradient gets by way of mean and variance: ``slope * x + constant``.

    That is of an input whose share is the whole; it is to be multiplied by its row's share.
    """
    mean, inverse, factor = scaling
    slope = -factor * inverse * total(scale_gradient, axis_name)
    return slope, -factor * total(bias_gradient, axis_name) - slope * mean


def _of_rows(share: Float[Array, "b"], x: Float[Array, "b *space c"]) -> Array:
    return share.reshape(share.shape + (1,) * (x.ndim - 1))


batch_norm_train.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def batch_norm_source(
    x: Float[Array, "b *space c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    weight: Float[Array, "b"],
    epsilon: float,
    axis_name: str | None,
) -> tuple[Source, Moments]:
    """As `batch_norm_train` without ReLU, for an operation that computes the map itself.

    Returns:
      ``(source, moments)``: gradients flow through the source, not through the moments.
    """
    return _source_forward(x, scale, bias, weight, epsilon, axis_name)[0]


@functools.partial(jax.jit, static_argnums=(4, 5))
def _source_forward(x, scale, bias, weight, epsilon, axis_name):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weight = weight.astype(wide)
    count = total(weight.sum() * math.prod(x.shape[1:-1]), axis_name)
    # Sums of rows before their weights: XLA then reads x itself, not a weighted copy of it.
    sums = sum_positions(lambda x: x.astype(wide), x)
    mean = total(weight @ sums, axis_name) / count
    squares = sum_positions(lambda x, mean: jnp.square(x.astype(wide) - mean), x, mean)
    variance = total(weight @ squares, axis_name) / count
    inverse = lax.rsqrt(variance + epsilon)
    factor = inverse * scale
    source = Source(x, factor, bias - mean * factor)
    residuals = (x, source.offset, weight / count, Scaling(mean, inverse, factor))
    return (source, Moments(mean, variance, count)), residuals


@functools.partial(jax.jit, static_argnums=(0, 1))
def _source_backward(epsilon, axis_name, residuals, cotangents):
    """The factor's gradient is the sum of dy * x, the offset's that of dy."""
    del epsilon
    x, _, share, scaling = residuals
    direct, factor_gradient, bias_gradient = cotangents[0]
    scale_gradient = scaling.inverse * (factor_gradient - scaling.mean * bias_gradient)
    slope, constant = slopes(scale_gradient, bias_gradient, scaling, axis_name)
    dx = (direct + _of_rows(share, x) * (slope * x + constant)).astype(x.dtype)
    return lax.optimization_barrier(dx), scale_gradient, bias_gradient, None


batch_norm_source.defvjp(_source_forward, _source_backward)
