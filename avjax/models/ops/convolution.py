"""Convolutions and dense products of maps.

Forms of `conv2d`: patches gathered and multiplied image by image, to stay in a CPU's cache
(``by_image``), or all at once (``patches``); XLA's convolution of either layout (``nhwc``,
``nchw``).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.channels import Channels, gather
from avjax.models.ops.depthwise import Depthwise
from avjax.models.ops.forms import choose
from avjax.models.ops.frames import as_normalised
from avjax.models.ops.map import Map, apply, as_map


def conv1x1(m: Map | Channels | Array, kernel: Float[Array, "i o"]) -> Map:
    """Pointwise convolution.

    A normalisation without ReLU is folded into the kernel: ``((x - mean) * scale + bias) @ kernel``
    is ``x @ (scale * kernel)`` plus a constant. The constant becomes the result's pending bias,
    which the next batch normalisation cancels.

    Args:
      m: ``[b *space i]``; channels in any order.
      kernel: its gradient accumulates in float32 or wider.
    """
    if isinstance(m, Channels):
        m, order = gather(m)
        kernel = kernel if order is None else kernel[order]
    m = as_map(m)
    if m.relu or m.scale is None:
        return apply(_Product(), m, kernel)
    value, constant = _folded_product(m.x, m.mean, m.scale, m.bias, kernel)
    return Map(value, bias=constant, rows=m.rows)


@dataclasses.dataclass(frozen=True)
class _Product:
    def forward(self, y: Array, kernel: Array) -> Array:
        return y @ kernel.astype(y.dtype)

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        (kernel,) = params
        gradient = _kernel_gradient(y, dz).astype(kernel.dtype)
        return dz @ kernel.astype(dz.dtype).T, gradient


@jax.custom_vjp
def _folded_product(
    x: Array, mean: Array, scale: Array, bias: Array, kernel: Array
) -> tuple[Array, Array]:
    folded = (scale[:, None] * kernel).astype(x.dtype)
    return x @ folded, (bias - mean * scale) @ kernel


def _folded_forward(x, mean, scale, bias, kernel):
    return _folded_product(x, mean, scale, bias, kernel), (x, mean, scale, bias, kernel)


@jax.jit
def _folded_backward(residuals, cotangents):
    x, mean, scale, bias, kernel = residuals
    dz, dconstant = cotangents
    products = _kernel_gradient(x, dz)  # x^T dz
    dx = dz @ (scale[:, None] * kernel).astype(dz.dtype).T
    doffset = kernel @ dconstant
    dscale = (kernel * products).sum(1) - mean * doffset
    dkernel = scale[:, None] * products + (bias - mean * scale)[:, None] * dconstant
    return dx, -scale * doffset, dscale, doffset, dkernel.astype(kernel.dtype)


_folded_product.defvjp(_folded_forward, _folded_backward)


def _kernel_gradient(x: Float[Array, "*b i"], dz: Float[Array, "*b o"]) -> Float[Array, "i o"]:
    """Sums x^T dz over all positions, in float32 or wider."""
    # As two matrices: contracting several axes makes XLA transpose one operand in memory.
    rows = x.reshape(-1, x.shape[-1]), dz.reshape(-1, dz.shape[-1])
    form = choose(
        "kernel_gradient", upcast=_upcast_then_multiply, accumulate=_multiply_accumulating_wide
    )
    gradient: Array = form(*rows)
    return gradient


def _upcast_then_multiply(x: Float[Array, "n i"], dz: Float[Array, "n o"]) -> Float[Array, "i o"]:
    """Computes ``x^T dz`` in float32 or wider; on CPU a bfloat16 product is bfloat16."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return x.astype(wide).T @ dz.astype(wide)


def _multiply_accumulating_wide(
    x: Float[Array, "n i"], dz: Float[Array, "n o"]
) -> Float[Array, "i o"]:
    """Computes ``x^T dz`` with accumulation in float32 or wider."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    return jnp.matmul(x.T, dz, preferred_element_type=wide)


# --------------------------------------------------------------------------------- two dimensions


class Convolution(NamedTuple):
    """A pending first layer, computed alone or fused with the pooling after it."""

    images: Any
    kernel: Array

    @property
    def shape(self) -> tuple[Any, ...]:  # symbols in exported programs
        """Shape of the result."""
        b, h, w, _ = self.images.shape
        return b, h // 2, w // 2, self.kernel.shape[-1]

    def compute(self) -> Array:
        """Computes the result."""
        return apply(_Conv2d(2, 1, 1), Map(as_normalised(self.images)), self.kernel).x


def conv2d(
    m: Map | Array,
    kernel: Float[Array, "k k c o"],
    *,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
) -> Map:
    """Dense 2-D convolution (cross-correlation) of ``[b h w c]`` with zero padding."""
    m = as_map(m)
    if m.rows is None and kernel.shape[2] == 3 and (stride, padding, dilation) == (2, 1, 1):
        return Map(Convolution(m.x, kernel))
    return apply(_Conv2d(stride, padding, dilation), m, kernel).replace(dimmed=m.dimmed)


@dataclasses.dataclass(frozen=True)
class _Conv2d:
    """Stride, padding and dilation of a square kernel."""

    stride: int
    padding: int
    dilation: int

    def forward(self, y: Array, kernel: Array) -> Array:
        """Computes the convolution."""
        form: Callable[..., Array] = choose(
            "conv2d",
            by_image=self._by_image,
            patches=self._product,
            nhwc=self._nhwc,
            nchw=self._nchw,
        )
        return form(y, kernel.astype(y.dtype))

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        """Returns the gradients of the images and the kernel."""
        (kernel,) = params
        size, weights = kernel.shape[0], kernel.astype(y.dtype)

        def by_image(y: Array, dz: Array) -> tuple[Array, Array]:
            gradient = _sum_rows(lambda row: self._patches(row, size), y, dz)
            return self._image_gradient(_Conv2d._by_image, y, weights, dz), gradient

        def patches(y: Array, dz: Array) -> tuple[Array, Array]:
            gradient = _kernel_gradient(self._patches(y, size), dz)
            return self._image_gradient(_Conv2d._product, y, weights, dz), gradient

        def of(convolution: Callable) -> Callable:
            return lambda y, dz: jax.vjp(convolution, y, weights)[1](dz)

        form = choose(
            "conv2d",
            by_image=by_image,
            patches=patches,
            nhwc=of(self._nhwc),
            nchw=of(self._nchw),
        )
        dy, gradient = form(y, dz)
        return dy, gradient.reshape(kernel.shape).astype(kernel.dtype)

    def _by_image(self, y: Array, kernel: Array) -> Array:
        return lax.map(lambda image: self._product(image, kernel), y)

    def _product(self, y: Array, kernel: Array) -> Array:
        """Multiplies patches ``[*b oh ow p]``."""
        return self._patches(y, kernel.shape[0]) @ kernel.reshape(-1, kernel.shape[-1])

    def _nhwc(self, y: Array, kernel: Array) -> Array:
        return self._convolution(y, kernel, "NHWC", "HWIO")

    def _nchw(self, y: Array, kernel: Array) -> Array:
        y, kernel = y.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1)
        return self._convolution(y, kernel, "NCHW", "OIHW").transpose(0, 2, 3, 1)

    def _convolution(self, y: Array, kernel: Array, maps: str, kernels: str) -> Array:
        return lax.conv_general_dilated(
            y,
            kernel,
            (self.stride,) * 2,
            [(self.padding, self.padding)] * 2,
            rhs_dilation=(self.dilation,) * 2,
            dimension_numbers=(maps, kernels, maps),
        )

    def _image_gradient(self, form: Callable, y: Array, kernel: Array, dz: Array) -> Array:
        """Convolves ``dz`` with the rotated kernel."""
        if self.stride > 1:
            return jax.vjp(functools.partial(self._nhwc, kernel=kernel), y)[1](dz)[0]
        padding = self.dilation * (kernel.shape[0] - 1) - self.padding
        return form(_Conv2d(1, padding, self.dilation), dz, kernel[::-1, ::-1].swapaxes(2, 3))

    def _patches(self, images: Float[Array, "*b h w c"], size: int) -> Float[Array, "*b oh ow p"]:
        """Gathers the ``size * size * c`` inputs of every output position, in row-major order."""
        stride, padding, dilation = self.stride, self.padding, self.dilation
        sides = ((0, 0),) * (images.ndim - 3) + ((padding, padding), (padding, padding), (0, 0))
        padded = jnp.pad(images, sides)
        height, width = ((n - dilation * (size - 1) - 1) // stride + 1 for n in padded.shape[-3:-1])

        def tap(i: int, j: int) -> Array:
            rows = slice(i * dilation, i * dilation + stride * (height - 1) + 1, stride)
            columns = slice(j * dilation, j * dilation + stride * (width - 1) + 1, stride)
            return padded[..., rows, columns, :]

        return jnp.concatenate([tap(i, j) for i in range(size) for j in range(size)], axis=-1)


def _sum_rows(patches: Callable[[Array], Array], x: Array, dz: Array) -> Float[Array, "i o"]:
    """Sums ``patches(x_b)^T dz_b`` over the rows b."""
    outputs = dz.shape[-1]
    inputs = jax.eval_shape(patches, x[0]).shape[-1]
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add_row(index, acc):
        row = patches(x[index]).reshape(-1, inputs).astype(wide)
        return acc + row.T @ dz[index].reshape(-1, outputs).astype(wide)

    return lax.fori_loop(0, x.shape[0], add_row, jnp.zeros((inputs, outputs), wide))


def depthwise_conv3x3(m: Map | Array, kernel: Float[Array, "3 3 o"], stride: int = 1) -> Map:
    """3x3 depthwise convolution with zero padding of 1.

    Args:
      m: ``[b h w c]``; output o reads input ``o // (outputs // c)``.
      kernel: one window per output channel.
      stride: 1, or 2 for even heights and widths (padding (1, 1), as in PyTorch).
    """
    return apply(Depthwise(stride), as_map(m), kernel)


# ---------------------------------------------------------------------------------- one dimension


def conv1d(m: Map | Array, kernel: Float[Array, "k c o"], *, padding: int) -> Map:
    """Dense 1-D convolution (cross-correlation) of ``[b t c]``, stride 1, as a matrix product."""
    return apply(_Conv1d(padding), as_map(m), kernel)


@dataclasses.dataclass(frozen=True)
class _Conv1d:
    padding: int

    def forward(self, y: Array, kernel: Array) -> Array:
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(y.dtype)
        return self._patches(y, kernel.shape[0]) @ matrix

    def backward(self, y: Array, params: tuple[Array], dz: Array) -> tuple[Array, Array]:
        (kernel,) = params
        size, matrix = kernel.shape[0], kernel.reshape(-1, kernel.shape[-1]).astype(dz.dtype)
        patches, adjoint = jax.vjp(lambda y: self._patches(y, size), y)
        gradient = _kernel_gradient(patches, dz).reshape(kernel.shape)
        return adjoint(dz @ matrix.T)[0], gradient.astype(kernel.dtype)

    def _patches(self, y: Float[Array, "b t c"], size: int) -> Float[Array, "b u p"]:
        padded = jnp.pad(y, ((0, 0), (self.padding, self.padding), (0, 0)))
        length = padded.shape[1] - size + 1
        return jnp.concatenate([padded[:, i : i + length] for i in range(size)], axis=-1)
