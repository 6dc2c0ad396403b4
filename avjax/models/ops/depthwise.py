"""Depthwise 3x3 convolution as nine shifted multiply-adds."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.normalised import Map, Source, as_normalised, keep, recall, zero_after
from avjax.models.ops.platform import by_platform
from avjax.models.ops.windows import scatter_stride2, taps

# Accumulators of the kernel's gradient should stay in a core's cache: floats per tap.
_ACCUMULATOR_FLOATS = 1 << 15


def depthwise_conv3x3(
    x: Map, kernel: Float[Array, "3 3 o"], stride: int = 1
) -> Float[Array, "b oh ow o"]:
    """3x3 depthwise convolution with zero padding of one.

    Args:
      x: ``[b h w c]``; output o reads input ``o // (outputs // c)``.
      kernel: one window an output.
      stride: 1, or 2 for even heights and widths (padding (1, 1), as PyTorch pads).
    """
    value, source, relu = as_normalised(x)
    return _conv(value, source, kernel, stride, relu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv(value: Array, source: Source | None, kernel: Array, stride: int, relu: bool) -> Array:
    return _correlate(_repeated(value, kernel), kernel.astype(value.dtype), stride)


def _repeated(x: Array, kernel: Array) -> Array:
    """The input channel of every output."""
    times = kernel.shape[-1] // x.shape[-1]
    return x if times == 1 else jnp.repeat(x, times, axis=-1)


@functools.partial(jax.jit, static_argnums=2)
def _correlate(x: Array, kernel: Array, stride: int) -> Array:
    windows = taps(_pad_one(x), x.shape[1] // stride, x.shape[2] // stride, stride)
    weights = kernel.reshape(9, -1)
    return sum(
        (tap * w for tap, w in zip(windows[1:], weights[1:], strict=True)), windows[0] * weights[0]
    )


def _pad_one(x: Array) -> Array:
    """Zero-pads height and width by one; the barrier stops XLA recomputing x for each tap."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def _forward(value, source, kernel, stride, relu):
    return _conv(value, source, kernel, stride, relu), (keep(value, source), kernel)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _backward(stride, relu, residuals, dy):
    kept, kernel = residuals
    x, dy = recall(kept, relu, dy), lax.optimization_barrier(dy)
    weights = kernel.astype(dy.dtype)
    if stride == 1:
        dx = _correlate(dy, weights[::-1, ::-1], 1)
    else:
        dx = scatter_stride2(lambda i, j: dy * weights[i, j])
    times = kernel.shape[-1] // x.shape[-1]
    if times > 1:
        dx = dx.reshape(*x.shape, times).sum(-1)
    gradient = by_platform(
        _repeated(x, kernel),
        dy,
        cpu=functools.partial(_kernel_gradient_by_images, stride=stride),
        other=functools.partial(_kernel_gradient_by_reductions, stride=stride),
    )
    return dx, None, gradient.astype(kernel.dtype)


_conv.defvjp(_forward, _backward)


def _kernel_gradient_by_reductions(x: Array, dy: Array, stride: int) -> Array:
    windows = taps(_pad_one(x), dy.shape[1], dy.shape[2], stride)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    sums = [(tap * dy).sum((0, 1, 2), dtype=wide) for tap in windows]
    return jnp.stack(sums).reshape(3, 3, -1)


def _kernel_gradient_by_images(x: Array, dy: Array, stride: int) -> Array:
    """Loops over blocks of images with nine elementwise accumulators of one block's size.

    On CPU a reduction to ``[c]`` vectorises badly; accumulating maps and reducing them once at the
    end turns nearly all the work into contiguous multiply-adds.
    """
    images, height, width, channels = dy.shape
    block = max(1, min(images, _ACCUMULATOR_FLOATS // (height * width * channels)))
    spare = -images % block
    padding = ((0, spare), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(x, padding, constant_values=zero_after(dy))  # not the forward pass's own
    dy = jnp.pad(dy, ((0, spare), (0, 0), (0, 0), (0, 0)))

    def add_block(index, sums):
        some_dy = lax.dynamic_slice_in_dim(dy, index * block, block)
        some_x = lax.dynamic_slice_in_dim(padded, index * block, block)
        windows = taps(some_x, height, width, stride)
        return tuple(acc + tap * some_dy for acc, tap in zip(sums, windows, strict=True))

    wide = jnp.promote_types(x.dtype, jnp.float32)
    start = tuple(jnp.zeros((block, height, width, channels), wide) for _ in range(9))
    sums = lax.fori_loop(0, (images + spare) // block, add_block, start)
    return jnp.stack([acc.sum((0, 1, 2)) for acc in sums]).reshape(3, 3, channels)
