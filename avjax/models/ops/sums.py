"""Sums over the positions of a map, channel by channel."""

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.models.ops.platform import by_platform

# Sums that a CPU adds to at once: whole vectors for its cores, long loops, and still in cache.
_SUMS = 1 << 10


def sum_positions(
    function: Callable[..., Array], x: Float[Array, "b *space c"], *vectors: Float[Array, "c"]
) -> Float[Array, "b c"]:
    """Sums ``function(x, *vectors)`` over all positions of every row.

    On a CPU neighbouring positions make one long row of channels, so that many sums are added to
    at once, and come together at the end: half the time of as many sums as there are channels.

    Args:
      function: elementwise.
      x: the map.
      vectors: a value of every channel.
    """
    return by_platform(
        x,
        *vectors,
        cpu=functools.partial(_by_many_positions, function),
        other=functools.partial(_by_single_positions, function),
    )


def _by_single_positions(function: Callable[..., Array], x: Array, *vectors: Array) -> Array:
    return function(x, *vectors).sum(tuple(range(1, x.ndim - 1)))


def _by_many_positions(function: Callable[..., Array], x: Array, *vectors: Array) -> Array:
    rows, *space, channels = x.shape
    positions = math.prod(space)
    most = max(1, min(positions, _SUMS // channels))
    together = next(n for n in range(most, 0, -1) if positions % n == 0)
    long = x.reshape(rows, positions // together, together * channels)
    sums = function(long, *(jnp.tile(vector, together) for vector in vectors)).sum(1)
    return sums.reshape(rows, together, channels).sum(1)
