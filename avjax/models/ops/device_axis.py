"""The mapped device axis: sums over it, and random keys by row of the global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def total(x: Any, axis_name: str | None) -> Any:
    """Sums arrays over the devices of ``axis_name``; the identity without one."""
    return x if axis_name is None else lax.psum(x, axis_name)


def row_keys(key: Array, rows: int, axis_name: str | None) -> Array:
    """Returns one key per row of this device's shard, by position in the global batch.

    Draws from them do not depend on how a batch is sharded over devices.

    Args:
      key: one key, the same on every device.
      rows: rows on this device.
      axis_name: mapped device axis, or None.

    Returns:
      ``[rows]`` keys; row i of device d gets the key of global row ``d * rows + i``.
    """
    first = 0 if axis_name is None else lax.axis_index(axis_name) * rows
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(rows))


def per_row(sampler: Callable[[Array], Array], keys: Array) -> Array:
    """Stacks ``sampler(key)`` over the keys of the rows."""
    return jax.vmap(sampler)(keys)
