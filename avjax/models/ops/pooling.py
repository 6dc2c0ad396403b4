"""Pooling: max over 3x3 windows, max over time, and mean over positions."""

import dataclasses
import functools
import operator
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from avjax.models.ops.convolution import Convolution
from avjax.models.ops.forms import choose, jit
from avjax.models.ops.frames import as_normalised
from avjax.models.ops.map import Map, apply, as_map, values
from avjax.models.ops.stem import pooled_conv3x3
from avjax.models.ops.windows import scatter_stride2, taps


def max_pool(m: Map | Array) -> Map:
    """Max over 3x3 windows, stride 2, padding 1 with -inf; height and width must be even.

    A map's pending operations are monotone in each channel, so the stored array is pooled first:
    by its maximum, or by its minimum in channels of negative scale. An image and its dimmed copies
    are pooled once. In channels of scale 0, the gradient goes to the window's greatest stored
    value, not to the first.
    """
    m = as_map(m)
    if isinstance(m.x, Convolution):
        return _pooled_convolution(m)
    if m.scale is None:
        return Map(_pool(values(m)), rows=m.rows)
    brightness = None if m.dimmed is None else m.dimmed.brightness
    return Map(_pool_affine(m.x, m.mean, m.scale, m.bias, brightness, m.relu), rows=m.rows)


def _pooled_convolution(m: Map) -> Map:
    """Pools a pending first layer; on CPU both are computed image by image, to stay in cache."""
    convolution: Convolution = m.x

    def by_images(images: Any) -> Array:
        dtype = convolution.images.dtype
        kernel = (convolution.kernel * m.scale).astype(dtype)
        offset = (m.bias - m.mean * m.scale).astype(dtype)
        return lax.map(lambda image: pooled_conv3x3(as_normalised(image), kernel, offset), images)

    def at_once(images: Any) -> Array:
        return max_pool(m.replace(x=convolution._replace(images=images).compute())).x

    if m.scale is None or not m.relu:
        return Map(at_once(convolution.images))
    return Map(choose("stem", by_image=by_images, at_once=at_once)(convolution.images))


@jax.custom_vjp
def _pool(x: Array) -> Array:
    return max_and_argmax(x)[0]


_pool.defvjp(lambda x: max_and_argmax(x), lambda winner, dz: (_scatter(winner, dz),))


@functools.partial(jax.custom_vjp, nondiff_argnums=(5,))
def _pool_affine(
    x: Array, mean: Array, scale: Array, bias: Array, brightness: Array | None, relu: bool
) -> Array:
    return _pool_forward(x, mean, scale, bias, brightness, relu)[0]


@jit(static_argnums=(5,))
def _pool_forward(x, mean, scale, bias, brightness, relu):
    sign = jnp.where(scale < 0, -1, 1).astype(x.dtype)
    best, winner = max_and_argmax(x, sign)
    pooled = best * sign
    rows = pooled if brightness is None else dimmed_rows(pooled, brightness)
    y = rows * scale + (bias - mean * scale)
    y = (jnp.maximum(y, 0) if relu else y).astype(x.dtype)
    return y, (pooled, winner, y, mean, scale, brightness)


@jit(static_argnums=(0,))
def _pool_backward(relu, residuals, dz):
    pooled, winner, y, mean, scale, brightness = residuals
    dy = dz.astype(scale.dtype)
    dy = jnp.where(y > 0, dy, 0) if relu else dy
    rows = pooled if brightness is None else dimmed_rows(pooled, brightness)
    dbias = dy.sum((1, 2)).sum(0)
    dscale = (dy * (rows - mean)).sum((1, 2)).sum(0)
    if brightness is not None:
        # Not one reduction: CPUs are slow to reduce an axis of two.
        count = len(pooled)
        copies = [dy[i * count : (i + 1) * count] for i in range(len(brightness))]
        scaled = [b[:, None, None, None] * copy for b, copy in zip(brightness, copies, strict=True)]
        dy = functools.reduce(operator.add, scaled)
    dx = _scatter(winner, (scale * dy).astype(pooled.dtype))
    return dx, -scale * dbias, dscale, dbias, None


_pool_affine.defvjp(_pool_forward, _pool_backward)


def dimmed_rows(x: Array, brightness: Array) -> Array:
    """Returns rows ``[k*b + 1 h w c]``: ``x`` times each brightness, then a row of zeros."""
    rows = brightness.astype(x.dtype)[:, :, None, None, None] * x
    rows = rows.reshape(-1, *x.shape[1:])
    return jnp.concatenate([rows, jnp.zeros_like(rows[:1])])


def max_and_argmax(x: Array, sign: Array | None = None) -> tuple[Array, Array]:
    """Returns the windows' maxima of ``x``, times a sign per channel, and the winning taps.

    The first tap wins ties, as in PyTorch. Ties are common, as black borders give constant maps, so
    this choice affects the gradient.
    """

    def by_rows(x: Array) -> tuple[Array, Array]:
        """Processes row by row, to keep the signed map in cache."""
        return lax.map(lambda row: _best(row if sign is None else row * sign), x)

    def padded(x: Array) -> tuple[Array, Array]:
        return _best(x if sign is None else x * sign)

    def fused(x: Array) -> tuple[Array, Array]:
        return _best(x if sign is None else x * sign, keep_padded=False)

    return choose("max_pool", by_image=by_rows, padded=padded, fused=fused)(x)


def _best(y: Array, keep_padded: bool = True) -> tuple[Array, Array]:
    """Returns the maxima and winning taps of ``[*b h w c]``."""
    *rows, h, w, c = y.shape
    padding = ((0, 0),) * len(rows) + ((1, 1), (1, 1), (0, 0))
    padded = jnp.pad(y, padding, constant_values=-jnp.inf)
    padded = lax.optimization_barrier(padded) if keep_padded else padded
    windows = taps(padded, h // 2, w // 2, 2)
    best, winner = windows[0], jnp.zeros((*rows, h // 2, w // 2, c), jnp.uint8)
    for index, value in enumerate(windows[1:], start=1):
        better = value > best
        best = jnp.where(better, value, best)
        winner = jnp.where(better, jnp.uint8(index), winner)
    return best, winner


def _scatter(winner: Array, dz: Array) -> Array:
    """Adds each gradient to the position of its window's maximum."""
    return scatter_stride2(lambda i, j: jnp.where(winner == 3 * i + j, dz, 0))


# --------------------------------------------------------------------------- time and means


def max_pool_time(m: Map | Array) -> Map:
    """Max over two neighbouring time steps of ``[b t c]``, stride 1; the first wins ties."""
    m = as_map(m)
    y = values(m)
    first, second = y[:, :-1], y[:, 1:]
    return Map(jnp.where(second > first, second, first), rows=m.rows)


def mean(m: Map | Array) -> Map:
    """Mean over all positions, ``[b c]``."""
    return apply(_Mean(), as_map(m))


@dataclasses.dataclass(frozen=True)
class _Mean:
    def forward(self, y: Array) -> Array:
        return y.mean(tuple(range(1, y.ndim - 1)))

    def backward(self, y: Array, params: tuple[()], dz: Array) -> tuple[Array]:
        space = (1,) * (y.ndim - 2)
        share = dz / (y.size // (y.shape[0] * y.shape[-1]))
        return (jnp.broadcast_to(share.reshape(len(y), *space, -1), y.shape),)
