"""Depthwise convolution of the four quarters of a map at once, for inference."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def quartered_conv3x3(
    x: Float[Array, "b 2 h 2 w c"],
    kernel: Float[Array, "3 3 2 2 o"],
    offset: Float[Array, "2 2 o"],
    stride: int,
) -> Float[Array, "b 2 oh 2 ow o"]:
    """3x3 depthwise convolution, an offset and ReLU; each quarter has its own and is padded by 1.

    Args:
      x: the map, its height and width split into halves; a map of whole rows and columns again,
        once reshaped, so that no quarter is cut out or put back.
      kernel: windows of each quarter; output o reads input ``o // (outputs // c)``.
      offset: of each quarter.
      stride: 1, or 2 for even heights and widths.
    """
    padding = ((0, 0), (0, 0), (1, 1), (0, 0), (1, 1), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(x, padding))
    height, width, channels = x.shape[2] // stride, x.shape[4] // stride, x.shape[5]
    weights = kernel[:, :, :, None, :, None].reshape(3, 3, 2, 1, 2, 1, channels, -1)
    y = offset[:, None, :, None].reshape(2, 1, 2, 1, channels, -1)
    for i in range(3):
        for j in range(3):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            y = y + padded[:, :, rows, :, columns, :, None] * weights[i, j]
    return jnp.maximum(y, 0).reshape(x.shape[0], 2, height, 2, width, -1)
