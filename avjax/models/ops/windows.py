"""Windows of 3x3 over a padded map: what depthwise convolution and max-pooling share."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def taps(padded: Array, height: int, width: int, stride: int) -> list[Array]:
    """The nine shifted views of a padded map ``[*b h w c]``, in row-major order of the window."""
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
