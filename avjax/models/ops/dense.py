"""Dense convolutions as matrix products over gathered patches, in the form that a platform likes.

On CPU the patches of one image are gathered, multiplied and forgotten while they are in cache. GPUs
and TPUs have convolutions of their own.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.normalised import Map, Source, as_normalised, keep, recall
from avjax.models.ops.platform import by_platform


def channel_matmul(x: Map, kernel: Float[Array, "i o"]) -> Float[Array, "b *space o"]:
    """Maps the channels of every position: a 1x1 convolution, or a dense layer.

    Args:
      x: ``[b *space i]``.
      kernel: its gradient is summed up in float32 at least.
    """
    value, source, relu = as_normalised(x)
    return _matmul(value, source, kernel, relu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _matmul(value: Array, source: Source | None, kernel: Array, relu: bool) -> Array:
    return value @ kernel.astype(value.dtype)


def _matmul_forward(value, source, kernel, relu):
    return _matmul(value, source, kernel, relu), (keep(value, source), kernel)


@functools.partial(jax.jit, static_argnums=0)
def _matmul_backward(relu, residuals, dy):
    kept, kernel = residuals
    x = recall(kept, relu, dy)
    gradient = _kernel_gradient(x, dy)
    return dy @ kernel.astype(dy.dtype).T, None, gradient.astype(kernel.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


class Shifted(NamedTuple):
    """A map that is ``value + shift``, for what needs no sum: batch normalisation takes it away."""

    value: Float[Array, "b *space o"]
    shift: Float[Array, "o"]


@jax.custom_vjp
def affine_matmul(source: Source, kernel: Float[Array, "i o"]) -> Shifted:
    """`channel_matmul` of the map behind a source, which is never computed.

    ``(x * factor + offset) @ kernel`` is ``x @ (factor * kernel) + offset @ kernel``.
    """
    x, factor, offset = source
    return Shifted(x @ _folded(factor, kernel, x.dtype), offset @ kernel)


def _folded(factor: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    return (factor[:, None] * kernel).astype(dtype)


def _affine_matmul_forward(source, kernel):
    return affine_matmul(source, kernel), (source, kernel)


@jax.jit
def _affine_matmul_backward(residuals, cotangents):
    (x, factor, offset), kernel = residuals
    dy, shift_gradient = cotangents
    products = _kernel_gradient(x, dy)
    source = Source(
        dy @ _folded(factor, kernel, dy.dtype).T,
        (kernel * products).sum(1),
        kernel @ shift_gradient,
    )
    gradient = factor[:, None] * products + offset[:, None] * shift_gradient
    return source, gradient.astype(kernel.dtype)


affine_matmul.defvjp(_affine_matmul_forward, _affine_matmul_backward)


def _kernel_gradient(x: Float[Array, "*b i"], dy: Float[Array, "*b o"]) -> Float[Array, "i o"]:
    """The sum of x^T dy over all positions, in float32 at least."""
    # As two matrices: where several axes are contracted, XLA transposes one through memory.
    rows = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    return by_platform(*rows, cpu=_product_of_widened, other=_widening_product)


def _product_of_widened(x: Float[Array, "n i"], dy: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """``x^T dy`` in float32 at least; CPUs multiply bfloat16 to bfloat16 only."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(wide).T @ dy.astype(wide)


def _widening_product(x: Float[Array, "n i"], dy: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """The same, widened as it is summed up."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x.T, dy, preferred_element_type=wide)


def _sum_rows(patches: Callable[[Array], Array], x: Array, dy: Array) -> Float[Array, "i o"]:
    """Sums ``patches(x_b)^T dy_b`` over the rows b."""
    outer = dy.shape[-1]
    inner = jax.eval_shape(patches, x[0]).shape[-1]

    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add_row(index, acc):
        row = patches(x[index]).reshape(-1, inner).astype(wide)
        return acc + row.T @ dy[index].reshape(-1, outer).astype(wide)

    return lax.fori_loop(0, x.shape[0], add_row, jnp.zeros((inner, outer), wide))


class Window(NamedTuple):
    """How a square kernel moves over an image."""

    stride: int
    padding: int
    dilation: int


def conv2d(
    x: Map,
    kernel: Float[Array, "k k c o"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Float[Array, "b oh ow o"]:
    """Dense 2-D convolution (cross-correlation) of ``[b h w c]`` with zero padding."""
    if kernel.shape[:2] == (1, 1) and (stride, padding) == (1, 0):
        return channel_matmul(x, kernel[0, 0])
    value, source, relu = as_normalised(x)
    return _conv2d(value, source, kernel, Window(stride, padding, dilation), relu)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _conv2d(
    value: Array, source: Source | None, kernel: Array, window: Window, relu: bool
) -> Array:
    return by_platform(
        value,
        kernel.astype(value.dtype),
        cpu=functools.partial(_conv2d_by_rows, window=window),
        other=functools.partial(_conv2d_at_once, window=window),
    )


def _conv2d_forward(value, source, kernel, window, relu):
    return _conv2d(value, source, kernel, window, relu), (keep(value, source), kernel)


def _conv2d_backward(window, relu, residuals, dy):
    kept, kernel = residuals
    x = recall(kept, relu, dy)
    weights = kernel.astype(x.dtype)

    def by_rows(x, dy):
        gradient = _sum_rows(lambda row: _patches(row, kernel.shape[0], window), x, dy)
        gradient = gradient.reshape(kernel.shape).astype(kernel.dtype)
        return _image_gradient(x, weights, dy, window), gradient

    def at_once(x, dy):
        conv = functools.partial(_conv2d_at_once, window=window)
        dx, gradient = jax.vjp(conv, x, weights)[1](dy)
        return dx, gradient.astype(kernel.dtype)

    dx, gradient = by_platform(x, dy, cpu=by_rows, other=at_once)
    return dx, None, gradient


_conv2d.defvjp(_conv2d_forward, _conv2d_backward)


def _conv2d_at_once(x: Array, kernel: Array, window: Window) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.stride,) * 2,
        [(window.padding, window.padding)] * 2,
        rhs_dilation=(window.dilation,) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _conv2d_by_rows(x: Array, kernel: Array, window: Window) -> Array:
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return lax.map(lambda row: _patches(row, kernel.shape[0], window) @ matrix, x)


def _image_gradient(x: Array, kernel: Array, dy: Array, window: Window) -> Array:
    """The gradient of the images: a convolution of ``dy`` with the turned kernel."""
    if window.stride > 1:
        conv = functools.partial(_conv2d_at_once, kernel=kernel, window=window)
        return jax.vjp(conv, x)[1](dy)[0]
    padding = window.dilation * (kernel.shape[0] - 1) - window.padding
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return _conv2d_by_rows(dy, turned, Window(1, padding, window.dilation))


def _patches(x: Float[Array, "h w c"], size: int, window: Window) -> Float[Array, "oh ow p"]:
    """What the kernel sees at every position: ``size * size * c`` values, row by row."""
    stride, padding, dilation = window
    padded = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    height, width = ((n - dilation * (size - 1) - 1) // stride + 1 for n in padded.shape[:2])

    def tap(i, j):
        rows = slice(i * dilation, i * dilation + stride * (height - 1) + 1, stride)
        columns = slice(j * dilation, j * dilation + stride * (width - 1) + 1, stride)
        return padded[rows, columns]

    return jnp.concatenate([tap(i, j) for i in range(size) for j in range(size)], axis=-1)


def conv1d(
    x: Float[Array, "b t c"], kernel: Float[Array, "k c o"], *, padding: int
) -> Float[Array, "b u o"]:
    """Dense 1-D convolution (cross-correlation), stride 1, as one matrix product."""
    size = kernel.shape[0]
    padded = jnp.pad(x, ((0, 0), (padding, padding), (0, 0)))
    length = padded.shape[1] - size + 1
    patches = jnp.concatenate([padded[:, i : i + length] for i in range(size)], axis=-1)
    return channel_matmul(patches, kernel.reshape(-1, kernel.shape[-1]))
