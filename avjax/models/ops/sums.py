"""Sums over the positions of a map, per channel."""

import math
from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.models.ops.forms import choose

# Accumulators on CPU: enough for full SIMD vectors and long loops, yet in cache.
_SUMS = 1 << 10


def sum_positions(
    function: Callable[..., Array], x: Float[Array, "b *space c"], *vectors: Float[Array, "c"]
) -> Float[Array, "b c"]:
    """Sums ``function(x, *vectors)`` over all positions of each row.

    On CPU, neighbouring positions form one long row of channels. Its accumulators are reduced to
    one per channel at the end, which takes half the time of one accumulator per channel.

    Args:
      function: an elementwise function.
      x: the map.
      vectors: one value per channel.
    """
    return choose("sums", grouped=_by_groups, at_once=_at_once)(function, x, *vectors)


def _at_once(function: Callable[..., Array], x: Array, *vectors: Array) -> Array:
    return function(x, *vectors).sum(tuple(range(1, x.ndim - 1)))


def _by_groups(function: Callable[..., Array], x: Array, *vectors: Array) -> Array:
    rows, *space, channels = x.shape
    positions = math.prod(space)
    limit = max(1, min(positions, _SUMS // channels))
    group = next(n for n in range(limit, 0, -1) if positions % n == 0)
    grouped = x.reshape(rows, positions // group, group * channels)
    sums = function(grouped, *(jnp.tile(vector, group) for vector in vectors)).sum(1)
    return sums.reshape(rows, group, channels).sum(1)
