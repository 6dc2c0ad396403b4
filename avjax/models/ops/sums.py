"""Sums over the positions of a map, channel by channel."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.platform import by_platform

# Numbers that are added to as many sums at once. A CPU's vectors fill up, and its loops are long.
_WIDTH = 1 << 10


def sum_positions(
    function: Callable[..., Array],
    *arrays: Float[Array, "b *space c"],
    vectors: tuple[Float[Array, "c"], ...] = (),
) -> Float[Array, "b c"]:
    """Sums ``function(*arrays, *vectors)`` over all positions of every row.

    On CPU neighbouring positions are one long vector, whose parts are added up in the end: sums of
    few channels take twice as long.

    Args:
      function: elementwise.
      *arrays: all of one shape.
      vectors: values of every channel, broadcast against the arrays.
    """
    return by_platform(
        *arrays,
        *vectors,
        cpu=functools.partial(_by_many_positions, function, len(arrays)),
        other=functools.partial(_by_one_position, function),
    )


def _by_one_position(function: Callable[..., Array], *operands: Array) -> Array:
    values = function(*operands)
    return values.sum(tuple(range(1, values.ndim - 1)))


def _by_many_positions(function: Callable[..., Array], arrays: int, *operands: Array) -> Array:
    rows, *space, channels = operands[0].shape
    positions = math.prod(space)
    fitting = max(1, min(positions, _WIDTH // channels))
    count = next(n for n in range(fitting, 0, -1) if positions % n == 0)
    shape = rows, positions // count, count * channels
    long = [array.reshape(shape) for array in operands[:arrays]]
    repeated = [jnp.tile(vector, count) for vector in operands[arrays:]]
    # Without the barrier XLA makes one sum over all axes of this one and those that follow.
    sums = lax.optimization_barrier(function(*long, *repeated).sum(1))
    return sums.reshape(rows, count, channels).sum(1)
