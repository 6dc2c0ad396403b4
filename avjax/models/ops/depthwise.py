"""Depthwise 3x3 convolution as nine shifted multiply-adds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from avjax.models.ops.map import zero_after
from avjax.models.ops.platform import by_platform
from avjax.models.ops.windows import scatter_stride2, taps

# Floats per tap of the kernel gradient's accumulators, to stay in a core's cache.
_ACCUMULATOR_FLOATS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """Depthwise convolution, padding 1; output o reads input ``o // (outputs // inputs)``."""

    stride: int

    def forward(self, y: Array, kernel: Array) -> Array:
        """Computes the convolution."""
        return _correlate(_repeated(y, kernel), kernel.astype(y.dtype), self.stride)

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        """Returns the gradients of the map and the kernel."""
        (kernel,) = params
        dz = lax.optimization_barrier(dz)
        weights = kernel.astype(dz.dtype)
        if self.stride == 1:
            dy = _correlate(dz, weights[::-1, ::-1], 1)
        else:
            dy = scatter_stride2(lambda i, j: dz * weights[i, j])
        multiplier = kernel.shape[-1] // y.shape[-1]
        if multiplier > 1:
            dy = dy.reshape(*y.shape, multiplier).sum(-1)
        gradient = by_platform(
            _repeated(y, kernel),
            dz,
            cpu=functools.partial(_kernel_gradient_by_images, stride=self.stride),
            other=functools.partial(_kernel_gradient_by_reductions, stride=self.stride),
        )
        return dy, gradient.astype(kernel.dtype)


def _repeated(x: Array, kernel: Array) -> Array:
    """Repeats input channels, one per output channel."""
    multiplier = kernel.shape[-1] // x.shape[-1]
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)


@functools.partial(jax.jit, static_argnums=2)
def _correlate(x: Array, kernel: Array, stride: int) -> Array:
    windows = taps(_pad_one(x), x.shape[1] // stride, x.shape[2] // stride, stride)
    weights = kernel.reshape(9, -1)
    return sum(
        (tap * w for tap, w in zip(windows[1:], weights[1:], strict=True)), windows[0] * weights[0]
    )


def _pad_one(x: Array) -> Array:
    """Zero-pads height and width by 1; the barrier stops XLA from recomputing x for each tap."""
    return lax.optimization_barrier(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))


def _kernel_gradient_by_reductions(x: Array, dz: Array, stride: int) -> Array:
    windows = taps(_pad_one(x), dz.shape[1], dz.shape[2], stride)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    sums = [(tap * dz).sum((0, 1, 2), dtype=wide) for tap in windows]
    return jnp.stack(sums).reshape(3, 3, -1)


def _kernel_gradient_by_images(x: Array, dz: Array, stride: int) -> Array:
    """Accumulates blocks of images in nine elementwise accumulators, reduced at the end.

    On CPU a reduction to ``[c]`` vectorises badly; this makes nearly all the work contiguous
    multiply-adds.
    """
    images, height, width, channels = dz.shape
    block = max(1, min(images, _ACCUMULATOR_FLOATS // (height * width * channels)))
    extra = -images % block
    padding = ((0, extra), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(x, padding, constant_values=zero_after(dz))  # stops CSE with the forward pass
    dz = jnp.pad(dz, ((0, extra), (0, 0), (0, 0), (0, 0)))

    def add_block(index, sums):
        block_dz = lax.dynamic_slice_in_dim(dz, index * block, block)
        block_x = lax.dynamic_slice_in_dim(padded, index * block, block)
        windows = taps(block_x, height, width, stride)
        return tuple(acc + tap * block_dz for acc, tap in zip(sums, windows, strict=True))

    wide = jnp.promote_types(x.dtype, jnp.float32)
    start = tuple(jnp.zeros((block, height, width, channels), wide) for _ in range(9))
    sums = lax.fori_loop(0, (images + extra) // block, add_block, start)
    return jnp.stack([acc.sum((0, 1, 2)) for acc in sums]).reshape(3, 3, channels)
