"""The array operations that decide the cost of a step, each with its own derivative.

XLA's grouped convolutions, max-pooling and the automatic derivative of batch normalisation are slow
on CPU, above all backward (a depthwise 3x3 weight gradient becomes nine reductions over the whole
map). The forms here are plain slices, multiply-adds and matrix products. All arrays are
channels-last: images ``b h w c``, sequences ``b t c``.

XLA adds up in another order than PyTorch, so results differ by rounding: float32 logits by some
1e-6, float64 ones by 1e-15 (docs/fidelity.md).

A *row* is one entry of the leading axis. Rows carry a multiplicity: a row of multiplicity m stands
for m equal rows of an enlarged batch, and one of 0 is padding that must not be seen.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

# Accumulators of the depthwise weight gradient should stay in a core's cache: floats per tap.
_ACCUMULATOR_FLOATS = 1 << 15


# ----------------------------------------------------------------------------- batch normalisation


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
) -> tuple[Float[Array, "b *space c"], Float[Array, "c"], Float[Array, "c"], Float[Array, ""]]:
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
      ``(y, mean, variance, count)``: variance is biased and count the number of values behind each
      channel's statistics. No gradient flows through the last three.
    """
    return _batch_norm_forward(x, scale, bias, weight, relu, epsilon, axis_name)[0]


def _per_row(weight: Array, x: Array) -> Array:
    """Reshapes ``[b]`` to broadcast against ``x``."""
    return weight.astype(x.dtype).reshape(weight.shape + (1,) * (x.ndim - 1))


def _batch_norm_forward(x, scale, bias, weight, relu, epsilon, axis_name):
    axes = tuple(range(x.ndim - 1))
    row_weight = _per_row(weight, x)
    count = total(weight.sum() * math.prod(x.shape[1:-1]), axis_name)
    mean = total((x * row_weight).sum(axes), axis_name) / count
    variance = total((jnp.square(x - mean) * row_weight).sum(axes), axis_name) / count
    inverse = lax.rsqrt(variance + epsilon)
    y = (x - mean) * (inverse * scale) + bias
    if relu:
        y = jnp.maximum(y, 0)
    return (y, mean, variance, count), (x, scale, bias, weight, mean, inverse, count)


def _batch_norm_backward(relu, epsilon, axis_name, residuals, cotangents):
    """Row i gets ``scale/sigma * (dy_i - m_i/N * (sum dy + xhat_i * sum dy*xhat))``.

    ``dy`` already holds each distinct row's whole gradient (all its copies), so the sums run over
    distinct rows unweighted, and only the share of the statistics carries the multiplicity m_i.
    """
    del epsilon
    x, scale, bias, weight, mean, inverse, count = residuals
    dy = cotangents[0]
    axes = tuple(range(x.ndim - 1))
    normalised = (x - mean) * inverse
    if relu:
        dy = jnp.where((x - mean) * (inverse * scale) + bias > 0, dy, 0)
    bias_gradient = dy.sum(axes)
    scale_gradient = (dy * normalised).sum(axes)
    share = _per_row(weight, x) / count
    shared = total(bias_gradient, axis_name) + normalised * total(scale_gradient, axis_name)
    dx = lax.optimization_barrier((scale * inverse) * (dy - share * shared))
    return dx, scale_gradient, bias_gradient, None


batch_norm_train.defvjp(_batch_norm_forward, _batch_norm_backward)


# --------------------------------------------------------------------------- depthwise convolution


def _pad_one(x: Array) -> Array:
    """Zero-pads height and width by one; the barrier stops XLA recomputing x for each tap."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def _taps(padded: Array, height: int, width: int, stride: int) -> list[Array]:
    """The nine shifted views of a padded map, in row-major order of the 3x3 window."""
    return [
        padded[
            :, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride
        ]
        for i in range(3)
        for j in range(3)
    ]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise_conv3x3(
    x: Float[Array, "b h w c"], kernel: Float[Array, "3 3 c"], stride: int
) -> Float[Array, "b oh ow c"]:
    """3x3 depthwise convolution, zero padding of one, as nine shifted multiply-adds.

    ``stride`` is 1, or 2 for even heights and widths (padding (1, 1), as PyTorch pads).
    """
    height, width = x.shape[1] // stride, x.shape[2] // stride
    taps = _taps(_pad_one(x), height, width, stride)
    weights = kernel.reshape(9, -1)
    return sum(
        (tap * w for tap, w in zip(taps[1:], weights[1:], strict=True)), taps[0] * weights[0]
    )


def _depthwise_forward(x, kernel, stride):
    return depthwise_conv3x3(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, residuals, dy):
    x, kernel = residuals
    dy = lax.optimization_barrier(dy)
    if stride == 1:
        dx = depthwise_conv3x3(dy, kernel[::-1, ::-1], 1)
    else:
        dx = _scatter_stride2(lambda i, j: dy * kernel[i, j])
    return dx, _depthwise_kernel_gradient(x, dy, stride)


depthwise_conv3x3.defvjp(_depthwise_forward, _depthwise_backward)


def _depthwise_kernel_gradient(x: Array, dy: Array, stride: int) -> Float[Array, "3 3 c"]:
    """Correlates x with dy per channel, in the form that suits the platform."""
    return lax.platform_dependent(
        x,
        dy,
        cpu=functools.partial(_kernel_gradient_by_images, stride=stride),
        default=functools.partial(_kernel_gradient_by_reductions, stride=stride),
    )


def _kernel_gradient_by_reductions(x: Array, dy: Array, stride: int) -> Array:
    taps = _taps(_pad_one(x), dy.shape[1], dy.shape[2], stride)
    return jnp.stack([(tap * dy).sum((0, 1, 2)) for tap in taps]).reshape(3, 3, -1)


def _kernel_gradient_by_images(x: Array, dy: Array, stride: int) -> Array:
    """Loops over blocks of images with nine elementwise accumulators of one block's size.

    On CPU a reduction to ``[c]`` vectorises badly; accumulating maps and reducing them once at the
    end turns nearly all the work into contiguous multiply-adds.
    """
    images, height, width, channels = dy.shape
    block = max(1, min(images, _ACCUMULATOR_FLOATS // (height * width * channels)))
    spare = -images % block
    padded = jnp.pad(x, ((0, spare), (1, 1), (1, 1), (0, 0)))
    dy = jnp.pad(dy, ((0, spare), (0, 0), (0, 0), (0, 0)))

    def add_block(index, sums):
        some_dy = lax.dynamic_slice_in_dim(dy, index * block, block)
        some_x = lax.dynamic_slice_in_dim(padded, index * block, block)
        taps = _taps(some_x, height, width, stride)
        return tuple(acc + tap * some_dy for acc, tap in zip(sums, taps, strict=True))

    start = tuple(jnp.zeros((block, height, width, channels), x.dtype) for _ in range(9))
    sums = lax.fori_loop(0, (images + spare) // block, add_block, start)
    return jnp.stack([acc.sum((0, 1, 2)) for acc in sums]).reshape(3, 3, channels)


def _scatter_stride2(tap) -> Array:
    """Adjoint of a 3x3 window of stride 2 and padding 1: sums ``tap(i, j)`` where it was read.

    Input row 2a is read by output row a (tap 1); row 2a + 1 by output row a (tap 2) and a + 1
    (tap 0). Hence four phases, interleaved at the end.

    Args:
      tap: maps window coordinates to their contributions ``[b oh ow c]``.

    Returns:
      ``[b 2*oh 2*ow c]``.
    """

    def pull(x, axis):  # x[a + 1], zero past the end
        moved = lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, 1)
        return jnp.pad(moved, padding)

    def odd_columns(i):
        return tap(i, 2) + pull(tap(i, 0), 2)

    even = jnp.stack([tap(1, 1), odd_columns(1)], axis=3)
    odd = jnp.stack(
        [tap(2, 1) + pull(tap(0, 1), 1), odd_columns(2) + pull(odd_columns(0), 1)], axis=3
    )
    b, height, width, _, c = even.shape
    return jnp.stack([even, odd], axis=2).reshape(b, 2 * height, 2 * width, c)


# ------------------------------------------------------------------------------------- max-pooling


@jax.custom_vjp
def max_pool3x3_stride2(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Max over 3x3 windows, stride 2, padding 1 (never the maximum); height and width even."""
    return _max_pool_forward(x)[0]


def _max_pool_forward(x):
    """Keeps which tap won: the first maximum in row-major order, as PyTorch does.

    Ties are common (black borders give constant maps), so the choice is part of the gradient.
    """
    b, h, w, c = x.shape
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(x, padding, constant_values=-jnp.inf))
    taps = _taps(padded, h // 2, w // 2, 2)
    best, winner = taps[0], jnp.zeros((b, h // 2, w // 2, c), jnp.uint8)
    for index, value in enumerate(taps[1:], start=1):
        better = value > best
        best = jnp.where(better, value, best)
        winner = jnp.where(better, jnp.uint8(index), winner)
    return best, winner


def _max_pool_backward(winner, dy):
    dy = lax.optimization_barrier(dy)
    return (_scatter_stride2(lambda i, j: jnp.where(winner == 3 * i + j, dy, 0)),)


max_pool3x3_stride2.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_time(x: Float[Array, "b t c"]) -> Float[Array, "b t-1 c"]:
    """Max over two neighbouring steps, stride 1; the first wins a tie, as in PyTorch."""
    first, second = x[:, :-1], x[:, 1:]
    return jnp.where(second > first, second, first)


# ------------------------------------------------------------------------------ dense convolutions


@jax.custom_vjp
def channel_matmul(
    x: Float[Array, "b *space i"], kernel: Float[Array, "i o"]
) -> Float[Array, "b *space o"]:
    """Maps the channels of every position: a 1x1 convolution, or a dense layer."""
    return x @ kernel


def _channel_matmul_forward(x, kernel):
    return x @ kernel, (jnp.asarray(x), kernel)  # a NumPy array could not be indexed by the loop


def _channel_matmul_backward(residuals, dy):
    x, kernel = residuals
    gradient = lax.platform_dependent(
        x, dy, cpu=_matmul_gradient_by_rows, default=_matmul_gradient_at_once
    )
    return dy @ kernel.T, gradient


channel_matmul.defvjp(_channel_matmul_forward, _channel_matmul_backward)


def _matmul_gradient_at_once(x: Array, dy: Array) -> Float[Array, "i o"]:
    axes = tuple(range(x.ndim - 1))
    return jnp.tensordot(x, dy, (axes, axes))


def _matmul_gradient_by_rows(x: Array, dy: Array) -> Float[Array, "i o"]:
    """Adds up the rows' products: each row is transposed while it is in cache.

    In one product XLA's CPU compiler transposes a whole operand through memory first.
    """
    inner, outer = x.shape[-1], dy.shape[-1]

    def add_row(index, acc):
        return acc + x[index].reshape(-1, inner).T @ dy[index].reshape(-1, outer)

    if x.ndim < 3:  # a row is a single position
        return _matmul_gradient_at_once(x, dy)
    return lax.fori_loop(0, x.shape[0], add_row, jnp.zeros((inner, outer), x.dtype))


def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c o"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "b oh ow o"]:
    """Dense 2-D convolution (cross-correlation) as one matrix product over gathered patches."""
    kh, kw, _, _ = kernel.shape
    if (kh, kw, stride) == (1, 1, 1):
        return channel_matmul(x, kernel[0, 0])
    padded = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    height = (padded.shape[1] - dilation * (kh - 1) - 1) // stride + 1
    width = (padded.shape[2] - dilation * (kw - 1) - 1) // stride + 1

    def tap(i, j):
        rows = slice(i * dilation, i * dilation + stride * (height - 1) + 1, stride)
        columns = slice(j * dilation, j * dilation + stride * (width - 1) + 1, stride)
        return padded[:, rows, columns]

    patches = jnp.concatenate([tap(i, j) for i in range(kh) for j in range(kw)], axis=-1)
    return channel_matmul(patches, kernel.reshape(-1, kernel.shape[-1]))


def conv1d(
    x: Float[Array, "b t c"], kernel: Float[Array, "k c o"], *, padding: int
) -> Float[Array, "b u o"]:
    """Dense 1-D convolution (cross-correlation), stride 1, as one matrix product."""
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))
    length = padded.shape[1] - size + 1
    patches = jnp.concatenate([padded[:, i : i + length] for i in range(size)], axis=-1)
    return channel_matmul(patches, kernel.reshape(-1, kernel.shape[-1]))
