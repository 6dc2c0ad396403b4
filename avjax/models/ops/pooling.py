"""Pooling: the largest of 3x3 windows, of two steps in time, and means."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from avjax.models.ops.convolution import Convolution
from avjax.models.ops.frames import as_seen
from avjax.models.ops.map import Map, apply, as_map, values
from avjax.models.ops.platform import by_platform
from avjax.models.ops.stem import pooled_conv3x3
from avjax.models.ops.windows import scatter_stride2, taps


def max_pool(m: Map | Array) -> Map:
    """Max over 3x3 windows, stride 2, padding 1 (never the maximum); height and width even.

    What is left to be done to a map is monotone in each channel, so that the maximum of what it
    gives is what it gives of the maximum, or of the minimum where a channel's scale is negative:
    the map is pooled first, once for an image and its dimmed copies. Where a scale is 0, the
    gradient is that of the greatest value of each window, not of the first.
    """
    m = as_map(m)
    if isinstance(m.x, Convolution):
        return _pooled_convolution(m)
    if m.scale is None:
        return Map(_pool(values(m)), rows=m.rows)
    brightness = None if m.dimmed is None else m.dimmed.brightness
    return Map(_pool_affine(m.x, m.mean, m.scale, m.bias, brightness, m.relu), rows=m.rows)


def _pooled_convolution(m: Map) -> Map:
    """A first layer, normalised by running statistics, image by image where that suits caches."""
    convolution: Convolution = m.x

    def by_images(images: Any) -> Array:
        dtype = convolution.images.dtype
        kernel = (convolution.kernel * m.scale).astype(dtype)
        offset = (m.bias - m.mean * m.scale).astype(dtype)
        return lax.map(lambda image: pooled_conv3x3(as_seen(image), kernel, offset), images)

    def at_once(images: Any) -> Array:
        return max_pool(m.replace(x=convolution._replace(images=images).compute())).x

    if m.scale is None or not m.relu:
        return Map(at_once(convolution.images))
    return Map(by_platform(convolution.images, cpu=by_images, other=at_once))


@jax.custom_vjp
def _pool(x: Array) -> Array:
    return winners(x)[0]


_pool.defvjp(lambda x: winners(x), lambda winner, dz: (_scattered(winner, dz),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _pool_affine(
    x: Array, mean: Array, scale: Array, bias: Array, brightness: Array | None, relu: bool
) -> Array:
    return _pool_forward(x, mean, scale, bias, brightness, relu)[0]


@functools.partial(jax.jit, static_argnums=(5,))
def _pool_forward(x, mean, scale, bias, brightness, relu):
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
    best, winner = winners(x, sign)
    pooled = best * sign
    rows = pooled if brightness is None else dimmed_rows(pooled, brightness)
    y = rows * scale + (bias - mean * scale)
    y = (jnp.maximum(y, 0) if relu else y).astype(x.dtype)
    return y, (pooled, winner, y, mean, scale, brightness)


@functools.partial(jax.jit, static_argnums=(0,))
def _pool_backward(relu, residuals, dz):
    pooled, winner, y, mean, scale, brightness = residuals
    through = dz.astype(scale.dtype)
    through = jnp.where(y > 0, through, 0) if relu else through
    rows = pooled if brightness is None else dimmed_rows(pooled, brightness)
    dbias = through.sum((1, 2)).sum(0)
    dscale = (through * (rows - mean)).sum((1, 2)).sum(0)
    if brightness is None:
        direct = through
    else:
        # One after the other: CPUs are slow to reduce an axis of two.
        count = len(pooled)
        each = [through[i * count : (i + 1) * count] for i in range(len(brightness))]
        seen = [b[:, None, None, None] * dy for b, dy in zip(brightness, each, strict=True)]
        direct = functools.reduce(operator.add, seen)
    dx = _scattered(winner, (scale * direct).astype(pooled.dtype))
    return dx, -scale * dbias, dscale, dbias, None


_pool_affine.defvjp(_pool_forward, _pool_backward)


def dimmed_rows(x: Array, brightness: Array) -> Array:
    """Every row ``[k*b + 1 h w c]``: ``x`` times each brightness, then one of zeros."""
    rows = brightness.astype(x.dtype)[:, :, None, None, None] * x
    rows = rows.reshape(-1, *x.shape[1:])
    return jnp.concatenate([rows, jnp.zeros_like(rows[:1])])


def winners(x: Array, sign: Array | None = None) -> tuple[Array, Array]:
    """The maxima of ``x``, times a sign by channel, and which tap won: the first, as in PyTorch.

    Ties are common (black borders give constant maps), so the choice is part of the gradient.
    """

    def by_rows(x: Array) -> tuple[Array, Array]:
        """Row by row: a signed map is made, pooled and forgotten while it is in cache."""
        return lax.map(lambda row: _best(row if sign is None else row * sign), x)

    def at_once(x: Array) -> tuple[Array, Array]:
        return _best(x if sign is None else x * sign)

    return by_platform(x, cpu=by_rows, other=at_once)


def _best(y: Array) -> tuple[Array, Array]:
    """Maxima and winning taps of ``[*b h w c]``."""
    *rows, h, w, c = y.shape
    padding = ((0, 0),) * len(rows) + ((1, 1), (1, 1), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(y, padding, constant_values=-jnp.inf))
    windows = taps(padded, h // 2, w // 2, 2)
    best, winner = windows[0], jnp.zeros((*rows, h // 2, w // 2, c), jnp.uint8)
    for index, value in enumerate(windows[1:], start=1):
        better = value > best
        best = jnp.where(better, value, best)
        winner = jnp.where(better, jnp.uint8(index), winner)
    return best, winner


def _scattered(winner: Array, dz: Array) -> Array:
    """Adjoint of the choice: puts each value where its window's maximum was, and adds up."""
    return scatter_stride2(lambda i, j: jnp.where(winner == 3 * i + j, dz, 0))


# ------------------------------------------------------------------------------- time, and means


def max_pool_time(m: Map | Array) -> Map:
    """Max over two neighbouring steps of ``[b t c]``, stride 1; the first wins a tie."""
    m = as_map(m)
    y = values(m)
    first, second = y[:, :-1], y[:, 1:]
    return Map(jnp.where(second > first, second, first), rows=m.rows)


def mean(m: Map | Array) -> Map:
    """The mean over all positions, ``[b c]``."""
    return apply(_Mean(), as_map(m))


@dataclasses.dataclass(frozen=True)
class _Mean:
    def forward(self, y: Array) -> Array:
        return y.mean(tuple(range(1, y.ndim - 1)))

    def backward(self, y: Array, params: tuple[()], dz: Array) -> tuple[Array]:
        space = (1,) * (y.ndim - 2)
        share = dz / (y.size // (y.shape[0] * y.shape[-1]))
        return (jnp.broadcast_to(share.reshape(len(y), *space, -1), y.shape),)
