"""3x3 windows over a padded map, for depthwise convolution and max-pooling."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def taps(padded: Array, height: int, width: int, stride: int) -> list[Array]:
    """Returns the nine shifted views of a padded map ``[*b h w c]``, in row-major order."""
    return [
        padded[
            ...,
            i : i + stride * (height - 1) + 1 : stride,
            j : j + stride * (width - 1) + 1 : stride,
            :,
        ]
        for i in range(3)
        for j in range(3)
    ]


def scatter_stride2(tap: Callable[[int, int], Array]) -> Array:
    """Adjoint of `taps` with stride 2 and padding 1: adds ``tap(i, j)`` to the positions read.

    Output row a reads input row 2a by tap 1. Input row 2a + 1 is read by output row a (tap 2) and
    a + 1 (tap 0). The four phases are interleaved at the end.

    Args:
      tap: maps window coordinates to their contributions ``[b oh ow c]``.

    Returns:
      ``[b 2*oh 2*ow c]``.
    """

    def shift(x, axis):  # x[a + 1], zero past the end
        shifted = lax.slice_in_dim(x, 1, x.shape[axis], axis=axis)
        padding = [(0, 0)] * x.ndim
        padding[axis] = (0, 1)
        return jnp.pad(shifted, padding)

    def odd_columns(i):
        return tap(i, 2) + shift(tap(i, 0), 2)

    even = jnp.stack([tap(1, 1), odd_columns(1)], axis=3)
    odd = jnp.stack(
        [tap(2, 1) + shift(tap(0, 1), 1), odd_columns(2) + shift(odd_columns(0), 1)], axis=3
    )
    b, height, width, _, c = even.shape
    return jnp.stack([even, odd], axis=2).reshape(b, 2 * height, 2 * width, c)
