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

# Accumulators of the kernel's gradient should stay in a core's cache: floats per tap.
_ACCUMULATOR_FLOATS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """A window per channel, padded by one; output o reads input ``o // (outputs // inputs)``."""

    stride: int

    def forward(self, y: Array, kernel: Array) -> Array:
        """The convolution."""
        return _correlate(_repeated(y, kernel), kernel.astype(y.dtype), self.stride)

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        """Gradients of the map and of the kernel."""
        (kernel,) = params
        dz = lax.optimization_barrier(dz)
        weights = kernel.astype(dz.dtype)
        if self.stride == 1:
            dy = _correlate(dz, weights[::-1, ::-1], 1)
        else:
            dy = scatter_stride2(lambda i, j: dz * weights[i, j])
        times = kernel.shape[-1] // y.shape[-1]
        if times > 1:
            dy = dy.reshape(*y.shape, times).sum(-1)
        gradient = by_platform(
            _repeated(y, kernel),
            dz,
            cpu=functools.partial(_kernel_gradient_by_images, stride=self.stride),
            other=functools.partial(_kernel_gradient_by_reductions, stride=self.stride),
        )
        return dy, gradient.astype(kernel.dtype)


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


def _kernel_gradient_by_reductions(x: Array, dz: Array, stride: int) -> Array:
    windows = taps(_pad_one(x), dz.shape[1], dz.shape[2], stride)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    sums = [(tap * dz).sum((0, 1, 2), dtype=wide) for tap in windows]
    return jnp.stack(sums).reshape(3, 3, -1)


def _kernel_gradient_by_images(x: Array, dz: Array, stride: int) -> Array:
    """Loops over blocks of images with nine elementwise accumulators of one block's size.

    On CPU a reduction to ``[c]`` vectorises badly; accumulating maps and reducing them once at the
    end turns nearly all the work into contiguous multiply-adds.
    """
    images, height, width, channels = dz.shape
    block = max(1, min(images, _ACCUMULATOR_FLOATS // (height * width * channels)))
    spare = -images % block
    padding = ((0, spare), (1, 1), (1, 1), (0, 0))
    padded = jnp.pad(x, padding, constant_values=zero_after(dz))  # not the forward pass's own
    dz = jnp.pad(dz, ((0, spare), (0, 0), (0, 0), (0, 0)))

    def add_block(index, sums):
        some_dz = lax.dynamic_slice_in_dim(dz, index * block, block)
        some_x = lax.dynamic_slice_in_dim(padded, index * block, block)
        windows = taps(some_x, height, width, stride)
        return tuple(acc + tap * some_dz for acc, tap in zip(sums, windows, strict=True))

    wide = jnp.promote_types(x.dtype, jnp.float32)
    start = tuple(jnp.zeros((block, height, width, channels), wide) for _ in range(9))
    sums = lax.fori_loop(0, (images + spare) // block, add_block, start)
    return jnp.stack([acc.sum((0, 1, 2)) for acc in sums]).reshape(3, 3, channels)
