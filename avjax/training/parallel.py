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
        self._rows_of_steps = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
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

    def split_steps(self, batches: Any) -> Any:
        """The same for the batches of several steps, ``[steps, rows, ...]``."""
        return jax.device_put(batches, self._rows_of_steps)

    def compile_train_step(self, step: Callable) -> Callable:
        """Compiles ``step(state, batch, key, axis_name) -> (state, sums)``; donates the state."""
        rows = PartitionSpec(AXIS)
        return self._compile(step, (PartitionSpec(), rows, PartitionSpec()))

    def compile_train_steps(self, step: Callable, batch_of: Callable) -> Callable:
        """Compiles several steps as one scan; donates the state.

        Args:
          step: as of `compile_train_step`.
          batch_of: ``batch_of(resident, part)`` makes a step's batch.

        Returns:
          ``steps(state, parts, key, resident) -> (state, sums)``: ``parts`` are placed by
          `split_steps`, ``resident`` is replicated, ``sums`` have a leading axis of steps.
        """

        def steps(state, parts, key, resident, axis_name):
            def one(state, part):
                return step(state, batch_of(resident, part), key, axis_name=axis_name)

            return jax.lax.scan(one, state, parts)

        rows, whole = PartitionSpec(None, AXIS), PartitionSpec()
        return self._compile(steps, (whole, rows, whole, whole))

    def _compile(self, step: Callable, specs: tuple[PartitionSpec, ...]) -> Callable:
        mapped = functools.partial(step, axis_name=self.axis_name)
        if self.axis_name is not None:
            mapped = jax.shard_map(
                mapped, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
            )
        return jax.jit(mapped, donate_argnums=(0,))
