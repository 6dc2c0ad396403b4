"""How steps are compiled and spread over devices; no other module knows.

`jit` maps the step over a one-axis mesh with `shard_map`; the state is replicated, the batch is
split. The step sees its own rows and an axis name, whatever the mode.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from avjax.errors import InputError

AXIS = "batch"
MODES = ("jit",)


class Parallel:
    """Compiles steps for a set of devices.

    Attributes:
      mesh: the devices, on one axis named `AXIS`.
    """

    def __init__(self, batch_size: int, devices: Sequence[jax.Device] | None = None) -> None:
        """Uses ``devices`` (default: all local ones).

        Raises:
          InputError: ``batch_size`` is not a multiple of the number of devices.
        """
        devices = jax.local_devices() if devices is None else list(devices)
        if batch_size % len(devices):
            raise InputError(
                f"batch_size={batch_size} cannot be split over {len(devices)} devices; use a "
                f"multiple of {len(devices)}, or fewer devices"
            )
        self.mesh = Mesh(devices, (AXIS,))
        self._rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._whole = NamedSharding(self.mesh, PartitionSpec())

    @property
    def axis_name(self) -> str | None:
        """The axis over which steps must sum; None on a single device."""
        return AXIS if self.mesh.size > 1 else None

    def replicate(self, tree: Any) -> Any:
        """Puts a copy of every array on every device."""
        return jax.device_put(tree, self._whole)

    def split(self, batch: Any) -> Any:
        """Puts an equal share of the batch's rows on every device."""
        return jax.device_put(batch, self._rows)

    def compile_train_step(self, step: Callable) -> Callable:
        """Compiles ``step(state, batch, key, axis_name) -> (state, sums)``; donates the state."""
        return self._compile(step, (False, True, False), donate=True)

    def _compile(self, step: Callable, split: tuple[bool, ...], donate: bool) -> Callable:
        mapped = functools.partial(step, axis_name=self.axis_name)
        if self.axis_name is not None:
            specs = tuple(PartitionSpec(AXIS) if rows else PartitionSpec() for rows in split)
            mapped = jax.shard_map(
                mapped, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
            )
        return jax.jit(mapped, donate_argnums=(0,) if donate else ())
