"""Max-pooling over 3x3 windows of images and over neighbouring steps of sequences."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.normalised import Source, normalise
from avjax.models.ops.platform import by_platform
from avjax.models.ops.windows import scatter_stride2, taps


@jax.custom_vjp
def max_pool3x3_stride2(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Max over 3x3 windows, stride 2, padding 1 (never the maximum); height and width even."""
    return winners(x)[0]


def winners(x: Array | Source) -> tuple[Array, Array]:
    """The maxima and which tap won: the first maximum in row-major order, as PyTorch does.

    Ties are common (black borders give constant maps), so the choice is part of the gradient.
    """
    return by_platform(x, cpu=_best_by_rows, other=_best)


def scattered(winner: Array, dy: Float[Array, "b h w c"]) -> Float[Array, "b 2*h 2*w c"]:
    """Adjoint of the choice: puts each value where its window's maximum was, and adds up."""
    return scatter_stride2(lambda i, j: jnp.where(winner == 3 * i + j, dy, 0))


def _best_by_rows(x: Array | Source) -> tuple[Array, Array]:
    """Row by row: a scaled map is made, pooled and forgotten while it is in cache."""
    if not isinstance(x, Source):
        return lax.map(_best, x)
    return lax.map(lambda row: _best(x._replace(x=row)), x.x)


def _best(x: Array | Source) -> tuple[Array, Array]:
    """Maxima and winning taps of ``[*b h w c]``."""
    y = normalise(x, relu=False) if isinstance(x, Source) else x
    *rows, h, w, c = y.shape
    padding = ((0, 0),) * len(rows) + ((1, 1), (1, 1), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(y, padding, constant_values=-jnp.inf))
    windows = taps(padded, h // 2, w // 2, 2)
    best, winner = windows[0], jnp.zeros((*rows, h // 2, w // 2, c), jnp.uint8)
    for index, value in enumerate(windows[1:], start=1):
        better = value > best
        best = jnp.where(better, value, best)
        winner = jnp.where(better, jnp.uint8(index), winner)
    return best, winner


max_pool3x3_stride2.defvjp(winners, lambda winner, dy: (scattered(winner, dy),))


def max_pool_time(x: Float[Array, "b t c"]) -> Float[Array, "b t-1 c"]:
    """Max over two neighbouring steps, stride 1; the first wins a tie, as in PyTorch."""
    first, second = x[:, :-1], x[:, 1:]
    return jnp.where(second > first, second, first)
