"""Batch normalisation of rows with multiplicities: statistics now, affine map later."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.device_axis import total
from avjax.models.ops.forms import choose, jit
from avjax.models.ops.map import Map, materialise
from avjax.models.ops.sums import sum_positions


class Moments(NamedTuple):
    """Batch statistics, in float32 or wider.

    Attributes:
      mean: mean of each channel.
      variance: biased variance of each channel.
      count: number of values per channel.
    """

    mean: Any
    variance: Any
    count: Any  # hides tuple.count


EPSILON = 1e-5  # PyTorch's default, also for LayerNorm


def running_affine(scale: Any, bias: Any, mean: Any, var: Any) -> tuple[Array, Array]:
    """Returns the scale and offset per channel that apply running statistics."""
    factor = scale * lax.rsqrt(var + EPSILON)
    return factor, bias - mean * factor


def running_norm(m: Map, gamma: Any, beta: Any, mean: Any, var: Any) -> Map:
    """Normalises a map by running statistics, as a pending operation."""
    if m.scale is not None or m.relu:
        m = materialise(m)
    mean = mean if m.bias is None else mean - m.bias
    return m.replace(mean=mean, scale=gamma * lax.rsqrt(var + EPSILON), bias=beta)


def batch_norm(m: Map, gamma: Float[Array, "c"], beta: Float[Array, "c"]) -> tuple[Map, Moments]:
    """Normalises a map by the statistics of the enlarged batch.

    A row of multiplicity m counts m times, and receives the share m/N of the statistics' gradient.
    A pending bias only shifts the mean.

    Args:
      m: a map in training.
      gamma: scale.
      beta: bias.

    Returns:
      The map, with the normalisation pending, and its statistics, without gradient.
    """
    rows = m.rows
    assert rows is not None, "batch statistics need rows"
    if m.scale is not None or m.relu:
        m = materialise(m)
    brightness = None if m.dimmed is None else m.dimmed.brightness
    x, mean, scale, bias, moments = _normalise(
        m.x, gamma, beta, brightness, rows.weight, rows.axis_name
    )
    if m.bias is not None:
        moments = moments._replace(mean=moments.mean + lax.stop_gradient(m.bias))
    return m.replace(x=x, mean=mean, scale=scale, bias=bias), moments


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _normalise(
    x: Array,
    gamma: Array,
    beta: Array,
    brightness: Array | None,
    weight: Array,
    axis_name: str | None,
) -> tuple[Array, Array, Array, Array, Moments]:
    return _forward(x, gamma, beta, brightness, weight, axis_name)[0]


@jit(static_argnums=(5,))
def _forward(x, gamma, beta, brightness, weight, axis_name):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weight = weight.astype(wide)
    if brightness is None:
        moments = _moments(x, weight, axis_name)
    else:
        brightness = brightness.astype(wide)
        moments = _dimmed_moments(x, brightness, weight, axis_name)
    inverse = lax.rsqrt(moments.variance + EPSILON)
    scale = inverse * gamma
    share = weight / moments.count
    return (x, moments.mean, scale, beta, moments), (
        x,
        brightness,
        share,
        moments.mean,
        inverse,
        scale,
    )


def _moments(x: Array, weight: Array, axis_name: str | None) -> Moments:
    """Weights the rows' sums, not the rows: XLA then reads x without copying it.

    Forms: the variance around the mean (``two_passes``), or around the first row's mean, corrected
    (``one_pass``), which loses nothing to rounding while the two means are alike.
    """
    wide, positions = weight.dtype, math.prod(x.shape[1:-1])
    count = total(weight.sum() * positions, axis_name)

    def two_passes(x: Array, weight: Array) -> tuple[Array, Array]:
        sums = sum_positions(lambda x: x.astype(wide), x)
        mean = total(weight @ sums, axis_name) / count
        squares = sum_positions(lambda x, mean: jnp.square(x.astype(wide) - mean), x, mean)
        return mean, total(weight @ squares, axis_name) / count

    def one_pass(x: Array, weight: Array) -> tuple[Array, Array]:
        centre = x[0].astype(wide).reshape(-1, x.shape[-1]).mean(0)
        sums = weight @ sum_positions(lambda x, centre: x.astype(wide) - centre, x, centre)
        squares = sum_positions(lambda x, centre: jnp.square(x.astype(wide) - centre), x, centre)
        own = weight.sum() * positions
        mean = total(sums + own * centre, axis_name) / count
        shift = centre - mean
        squares = weight @ squares + 2 * shift * sums + own * jnp.square(shift)
        return mean, total(squares, axis_name) / count

    mean, variance = choose("statistics", two_passes=two_passes, one_pass=one_pass)(x, weight)
    return Moments(mean, variance, count)


def _dimmed_moments(x: Array, brightness: Array, weight: Array, axis_name: str | None) -> Moments:
    """Computes all rows' statistics from sums over the stored images, centred near their mean."""
    wide, positions = weight.dtype, math.prod(x.shape[1:-1])
    count = total(weight.sum() * positions, axis_name)
    dimmed_weight = weight[:-1].reshape(brightness.shape)
    sums = sum_positions(lambda x: x.astype(wide), x)
    mean = total((dimmed_weight * brightness).sum(0) @ sums, axis_name) / count
    centre = sums.mean(0) / positions
    squares = sum_positions(lambda x, centre: jnp.square(x.astype(wide) - centre), x, centre)
    # For a row of brightness s: s * x - mean == s * (x - centre) + shift.
    shift = brightness[:, :, None] * centre - mean
    product = 2 * brightness[:, :, None] * shift * (sums - positions * centre)
    rows = jnp.square(brightness)[:, :, None] * squares + product + positions * jnp.square(shift)
    variance = (dimmed_weight[:, :, None] * rows).sum((0, 1)) + weight[-1] * positions * jnp.square(
        mean
    )
    return Moments(mean, total(variance, axis_name) / count, count)


@jit(static_argnums=(0,))
def _backward(axis_name, residuals, cotangents):
    """Adds the gradient through mean and variance, ``share * (slope * x + constant)``.

    The direct gradient of a distinct row already includes all its copies, so the multiplicity only
    enters the gradient through the statistics. For a dimmed row, that is linear in x.
    """
    x, brightness, share, mean, inverse, scale = residuals
    direct, _, dscale, dbeta, _ = cotangents
    dgamma = inverse * dscale
    slope = -scale * inverse * total(dgamma, axis_name)
    constant = -scale * total(dbeta, axis_name) - slope * mean
    space = (1,) * (x.ndim - 2)
    if brightness is None:
        row_share = share.reshape(-1, *space, 1)
        dx = direct + row_share * (slope * x + constant)
    else:
        dimmed_share = share[:-1].reshape(brightness.shape)
        linear = (jnp.square(brightness) * dimmed_share).sum(0).reshape(-1, *space, 1)
        shift = (brightness * dimmed_share).sum(0).reshape(-1, *space, 1)
        dx = direct + linear * slope * x + shift * constant
    return lax.optimization_barrier(dx.astype(x.dtype)), dgamma, dbeta, None, None


_normalise.defvjp(_forward, _backward)
