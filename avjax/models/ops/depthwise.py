"""Depthwise 3x3 convolution and its gradients.

Forms of all three: nine shifted multiply-adds over a padded copy (``padded``; of the kernel's
gradient ``reductions``) or without one (``fused``, ``one_pass``), XLA's grouped convolution of
either layout (``nhwc``, ``nchw``). On CPU the kernel's gradient is summed ``by_image``.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from avjax.models.ops.forms import choose
from avjax.models.ops.map import zero_after
from avjax.models.ops.windows import scatter_stride2, taps

# Floats per tap of the kernel gradient's accumulators, to stay in a core's cache.
_ACCUMULATOR_FLOATS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Depthwise:
    """Depthwise convolution, padding 1; output o reads input ``o // (outputs // inputs)``."""

    stride: int

    def forward(self, y: Array, kernel: Array) -> Array:
        """Computes the convolution."""
        form = choose(
            "depthwise",
            padded=lambda y, k: _correlate(_kept(_pad(_repeated(y, k))), k, self.stride),
            fused=lambda y, k: _correlate(_pad(_repeated(y, k)), k, self.stride),
            nhwc=self._nhwc,
            nchw=self._nchw,
        )
        z: Array = form(y, kernel.astype(y.dtype))
        return z

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        """Returns the gradients of the map and the kernel."""
        (kernel,) = params
        dz = lax.optimization_barrier(dz)
        weights = kernel.astype(dz.dtype)

        def of_map(convolution: Callable) -> Callable:
            return lambda y, dz: jax.vjp(lambda y: convolution(y, weights), y)[1](dz)[0]

        def of_kernel(convolution: Callable) -> Callable:
            return lambda y, dz: jax.vjp(lambda k: convolution(y, k), weights)[1](dz)[0]

        def repeated(gradient: Callable) -> Callable:
            return lambda y, dz: gradient(_repeated(y, weights), dz, self.stride)

        def fused(y: Array, dz: Array) -> Array:
            return self._map_gradient(y, weights, dz, lambda x: x)

        is_strided = self.stride > 1  # XLA's gradient then takes twice the time on an H200
        map_gradient = choose(
            "depthwise_input",
            padded=lambda y, dz: self._map_gradient(y, weights, dz, _kept),
            fused=fused,
            nhwc=fused if is_strided else of_map(self._nhwc),
            nchw=fused if is_strided else of_map(self._nchw),
        )
        kernel_gradient = choose(
            "depthwise_kernel",
            by_image=repeated(_kernel_gradient_by_image),
            reductions=repeated(_kernel_gradient_by_reductions),
            one_pass=repeated(_kernel_gradient_in_one_pass),
            nhwc=of_kernel(self._nhwc),
            nchw=of_kernel(self._nchw),
        )
        return map_gradient(y, dz), kernel_gradient(y, dz).astype(kernel.dtype)

    def _map_gradient(self, y: Array, kernel: Array, dz: Array, kept: Callable) -> Array:
        if self.stride == 1:
            dy = _correlate(kept(_pad(dz)), kernel[::-1, ::-1], 1)
        else:
            dy = scatter_stride2(lambda i, j: dz * kernel[i, j])
        multiplier = kernel.shape[-1] // y.shape[-1]
        return dy if multiplier == 1 else dy.reshape(*y.shape, multiplier).sum(-1)

    def _nhwc(self, y: Array, kernel: Array) -> Array:
        return self._grouped(y, kernel[:, :, None], "NHWC", "HWIO")

    def _nchw(self, y: Array, kernel: Array) -> Array:
        y, kernel = y.transpose(0, 3, 1, 2), kernel.transpose(2, 0, 1)[:, None]
        return self._grouped(y, kernel, "NCHW", "OIHW").transpose(0, 2, 3, 1)

    def _grouped(self, y: Array, kernel: Array, maps: str, kernels: str) -> Array:
        return lax.conv_general_dilated(
            y,
            kernel,
            (self.stride,) * 2,
            [(1, 1)] * 2,
            dimension_numbers=(maps, kernels, maps),
            feature_group_count=y.shape[maps.index("C")],
        )


def _repeated(x: Array, kernel: Array) -> Array:
    """Repeats input channels, one per output channel."""
    multiplier = kernel.shape[-1] // x.shape[-1]
    return x if multiplier == 1 else jnp.repeat(x, multiplier, axis=-1)


def _pad(x: Array) -> Array:
    """Zero-pads height and width by 1."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _kept(padded: Array) -> Array:
    """A padded map in memory, so that XLA does not compute its values anew for each tap."""
    return lax.optimization_barrier(padded)


@functools.partial(jax.jit, static_argnums=2)
def _correlate(padded: Array, kernel: Array, stride: int) -> Array:
    height, width = ((n - 2) // stride for n in padded.shape[1:3])
    windows = taps(padded, height, width, stride)
    weights = kernel.reshape(9, -1)
    return sum(
        (tap * w for tap, w in zip(windows[1:], weights[1:], strict=True)), windows[0] * weights[0]
    )


def _kernel_gradient_by_reductions(x: Array, dz: Array, stride: int) -> Array:
    windows = taps(_kept(_pad(x)), dz.shape[1], dz.shape[2], stride)
    wide = jnp.promote_types(x.dtype, jnp.float32)
    sums = [(tap * dz).sum((0, 1, 2), dtype=wide) for tap in windows]
    return jnp.stack(sums).reshape(3, 3, -1)


def _kernel_gradient_in_one_pass(x: Array, dz: Array, stride: int) -> Array:
    """Nine sums as one reduction, which reads both maps once."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    windows = taps(_pad(x), dz.shape[1], dz.shape[2], stride)
    products = [tap.astype(wide) * dz.astype(wide) for tap in windows]
    zeros = [jnp.zeros((), wide)] * 9
    sums = lax.reduce(
        products, zeros, lambda a, b: [x + y for x, y in zip(a, b, strict=True)], (0, 1, 2)
    )
    return jnp.stack(sums).reshape(3, 3, -1)


def _kernel_gradient_by_image(x: Array, dz: Array, stride: int) -> Array:
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
