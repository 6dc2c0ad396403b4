"""Batch normalisation of rows with multiplicities: statistics now, the rest later."""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.device_axis import total
from avjax.models.ops.map import Map, materialise
from avjax.models.ops.sums import sum_positions


class Moments(NamedTuple):
    """Statistics of a batch, float32 at least.

    Attributes:
      mean: of each channel.
      variance: biased.
      count: number of values behind each channel's statistics.
    """

    mean: Any
    variance: Any
    count: Any  # hides tuple.count


EPSILON = 1e-5  # PyTorch's default, for LayerNorm as well


def running_affine(scale: Any, bias: Any, mean: Any, var: Any) -> tuple[Array, Array]:
    """Factor and offset of each channel by running statistics."""
    factor = scale * lax.rsqrt(var + EPSILON)
    return factor, bias - mean * factor


def running_norm(m: Map, gamma: Any, beta: Any, mean: Any, var: Any) -> Map:
    """The map normalised by running statistics, which is still to be done."""
    if m.scale is not None or m.relu:
        m = materialise(m)
    mean = mean if m.bias is None else mean - m.bias
    return m.replace(mean=mean, scale=gamma * lax.rsqrt(var + EPSILON), bias=beta)


def batch_norm(m: Map, gamma: Float[Array, "c"], beta: Float[Array, "c"]) -> tuple[Map, Moments]:
    """The map normalised by the statistics of the batch that its rows stand for.

    A row of multiplicity m counts m times, and receives the share m/N of the gradient that flows
    through the statistics. A constant yet to be added moves the mean alone.

    Args:
      m: a map in training.
      gamma: scale.
      beta: bias.

    Returns:
      The map, in which the normalisation is still to be done; and its statistics, through which no
      gradient flows.
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


@functools.partial(jax.jit, static_argnums=5)
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
    """Sums of rows before their weights: XLA then reads x itself, not a weighted copy of it."""
    wide = weight.dtype
    count = total(weight.sum() * math.prod(x.shape[1:-1]), axis_name)
    sums = sum_positions(lambda x: x.astype(wide), x)
    mean = total(weight @ sums, axis_name) / count
    squares = sum_positions(lambda x, mean: jnp.square(x.astype(wide) - mean), x, mean)
    return Moments(mean, total(weight @ squares, axis_name) / count, count)


def _dimmed_moments(x: Array, brightness: Array, weight: Array, axis_name: str | None) -> Moments:
    """Statistics of all rows, from sums over the images around a value near their mean."""
    wide, positions = weight.dtype, math.prod(x.shape[1:-1])
    count = total(weight.sum() * positions, axis_name)
    each = weight[:-1].reshape(brightness.shape)
    sums = sum_positions(lambda x: x.astype(wide), x)
    mean = total((each * brightness).sum(0) @ sums, axis_name) / count
    centre = sums.mean(0) / positions
    squares = sum_positions(lambda x, centre: jnp.square(x.astype(wide) - centre), x, centre)
    # s x - mean is s (x - centre) + away, of a row of brightness s
    away = brightness[:, :, None] * centre - mean
    product = 2 * brightness[:, :, None] * away * (sums - positions * centre)
    rows = jnp.square(brightness)[:, :, None] * squares + product + positions * jnp.square(away)
    variance = (each[:, :, None] * rows).sum((0, 1)) + weight[-1] * positions * jnp.square(mean)
    return Moments(mean, total(variance, axis_name) / count, count)


@functools.partial(jax.jit, static_argnums=0)
def _backward(axis_name, residuals, cotangents):
    """What x gets by way of mean and variance: ``share * (slope * x + constant)``.

    The gradient that reached the stored array directly holds each distinct row's whole gradient
    (all its copies), so only the share of the statistics carries the multiplicity. A dimmed row's
    share is linear in the row, hence in x.
    """
    x, brightness, share, mean, inverse, scale = residuals
    direct, _, dscale, dbeta, _ = cotangents
    dgamma = inverse * dscale
    slope = -scale * inverse * total(dgamma, axis_name)
    constant = -scale * total(dbeta, axis_name) - slope * mean
    space = (1,) * (x.ndim - 2)
    if brightness is None:
        of_row = share.reshape(-1, *space, 1)
        dx = direct + of_row * (slope * x + constant)
    else:
        each = share[:-1].reshape(brightness.shape)
        linear = (jnp.square(brightness) * each).sum(0).reshape(-1, *space, 1)
        shift = (brightness * each).sum(0).reshape(-1, *space, 1)
        dx = direct + linear * slope * x + shift * constant
    return lax.optimization_barrier(dx.astype(x.dtype)), dgamma, dbeta, None, None


_normalise.defvjp(_forward, _backward)
