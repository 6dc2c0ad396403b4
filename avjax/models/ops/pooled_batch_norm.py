"""Batch normalisation, ReLU and max-pooling in one, of images and of what dimming makes of them.

Both of the first are monotone in each channel, so that the maximum of what they give is what they
give of the maximum, or of the minimum where a channel's scale is negative. The statistics of an
image that is multiplied by a number follow from those of the image. So no map is computed but the
pooled ones, and images are pooled once, however often they appear dimmed.
"""

import functools
import math
import operator

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.batch_norm import Moments, Scaling, slopes, total
from avjax.models.ops.normalised import Source, normalise
from avjax.models.ops.pooling import scattered, winners
from avjax.models.ops.sums import sum_positions


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7))
def pooled_batch_norm(
    x: Float[Array, "b h w c"],
    scale: Float[Array, "c"],
    bias: Float[Array, "c"],
    brightness: Float[Array, "k b"],
    weight: Float[Array, "r"],
    blank: bool,
    epsilon: float,
    axis_name: str | None,
) -> tuple[Float[Array, "r h/2 w/2 c"], Moments]:
    """The pooled maps of ``k b`` rows and, where ``blank``, of one more that is zero.

    The same as `max_pool3x3_stride2` of `batch_norm_train` with ReLU of these rows, but that where
    a channel's scale is 0, its gradient is that of the greatest value of each window, not of the
    first.

    Args:
      x: height and width even.
      scale: gamma.
      bias: beta.
      brightness: what each of the ``b`` images is multiplied by, k times; not below 0. It has no
        gradient.
      weight: multiplicity of each row; it has no gradient.
      blank: whether there is a row that is zero, the last.
      epsilon: added to the variance.
      axis_name: mapped axis over which statistics are summed, or None.

    Returns:
      The pooled maps, of the type of ``x``, and the statistics, which have no gradient.
    """
    return _forward(x, scale, bias, brightness, weight, blank, epsilon, axis_name)[0]


def dimmed_rows(
    x: Float[Array, "b h w c"], brightness: Float[Array, "k b"], blank: bool
) -> Float[Array, "r h w c"]:
    """Every row's map: ``x`` multiplied by each brightness, then, where ``blank``, zeros."""
    rows = brightness.astype(x.dtype)[:, :, None, None, None] * x
    rows = rows.reshape(-1, *x.shape[1:])
    return jnp.concatenate([rows, jnp.zeros_like(rows[:1])]) if blank else rows


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _forward(x, scale, bias, brightness, weight, blank, epsilon, axis_name):
    wide = jnp.promote_types(x.dtype, jnp.float32)
    weight, brightness = weight.astype(wide), brightness.astype(wide)
    moments = _moments(x, brightness, weight, blank, axis_name)
    inverse = lax.rsqrt(moments.variance + epsilon)
    factor = inverse * scale
    sign = jnp.where(scale < 0, -1, 1).astype(wide)
    best, winner = winners(Source(x, sign, jnp.zeros_like(sign)))
    pooled = best * sign.astype(x.dtype)
    rows = dimmed_rows(pooled, brightness, blank)
    y = normalise(Source(rows, factor, bias - moments.mean * factor), relu=True)
    share = weight / moments.count
    scaling = Scaling(moments.mean, inverse, factor)
    residuals = x, pooled, winner, y, brightness, share, scaling
    return (y, moments), residuals


def _moments(x, brightness, weight, blank, axis_name):
    """Statistics of all rows, from sums over the images around a value near their mean."""
    wide, positions = weight.dtype, math.prod(x.shape[1:-1])
    count = total(weight.sum() * positions, axis_name)
    each = (weight[:-1] if blank else weight).reshape(brightness.shape)
    sums = sum_positions(lambda x: x.astype(wide), x)
    mean = total((each * brightness).sum(0) @ sums, axis_name) / count
    centre = sums.mean(0) / positions
    squares = sum_positions(lambda x, centre: jnp.square(x.astype(wide) - centre), x, centre)
    # s x - mean is s (x - centre) + away, of a row of brightness s
    away = brightness[:, :, None] * centre - mean
    product = 2 * brightness[:, :, None] * away * (sums - positions * centre)
    rows = jnp.square(brightness)[:, :, None] * squares + product + positions * jnp.square(away)
    variance = (each[:, :, None] * rows).sum((0, 1))
    if blank:
        variance += weight[-1] * positions * jnp.square(mean)
    return Moments(mean, total(variance, axis_name) / count, count)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _backward(blank, epsilon, axis_name, residuals, cotangents):
    """As of `batch_norm_train`; what the statistics give is linear in each row, hence in x."""
    del epsilon
    x, pooled, winner, y, brightness, share, scaling = residuals
    through = jnp.where(y > 0, cotangents[0], 0).astype(share.dtype)
    rows = dimmed_rows(pooled, brightness, blank)
    bias_gradient = through.sum((1, 2)).sum(0)
    scale_gradient = scaling.inverse * (through * (rows - scaling.mean)).sum((1, 2)).sum(0)
    slope, constant = slopes(scale_gradient, bias_gradient, scaling, axis_name)
    share = (share[:-1] if blank else share).reshape(brightness.shape)
    slope = (jnp.square(brightness) * share).sum(0)[:, None] * slope
    constant = (brightness * share).sum(0)[:, None] * constant
    # One after the other: CPUs are slow to reduce an axis of two.
    each = [through[i * len(x) : (i + 1) * len(x)] for i in range(len(brightness))]
    seen = [b[:, None, None, None] * dy for b, dy in zip(brightness, each, strict=True)]
    direct = scaling.factor * functools.reduce(operator.add, seen)
    dx = scattered(winner, direct) + slope[:, None, None] * x + constant[:, None, None]
    return lax.optimization_barrier(dx.astype(x.dtype)), scale_gradient, bias_gradient, None, None


pooled_batch_norm.defvjp(_forward, _backward)
