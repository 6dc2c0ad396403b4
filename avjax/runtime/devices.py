"""How steps are compiled and spread over devices; no other module knows.

A step sees its own rows and an axis name. `jit` maps it over a one-axis mesh with `shard_map`: the
state is replicated, the batch split. `pmap` maps it over a leading device axis of both. Either way
the axis runs over the devices of all processes, those of the first process first, so that a row's
place in the global batch is the same in both modes and for any number of processes.
"""

import functools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from avjax.errors import InputError
from avjax.runtime.compilation import available_cores

AXIS = "batch"
# On a CPU memory that a call frees goes back to the system, which clears it for the next one: as
# much as a step holds, a tenth of its time.
CPU_STEPS_PER_CALL = 4


class Parallel:
    """Compiles steps for a set of devices, by `jit`; see `spread` for the other mode.

    Attributes:
      mesh: the devices, on one axis named `AXIS`.
    """

    def __init__(self, batch_size: int, devices: Sequence[jax.Device] | None = None) -> None:
        """Uses ``devices`` (default: all of all processes).

        Raises:
          InputError: ``batch_size`` is not a multiple of the number of devices, or processes have
            different numbers of devices.
        """
        chosen = jax.devices() if devices is None else devices
        chosen = sorted(chosen, key=lambda device: device.process_index)
        if batch_size % len(chosen):
            raise InputError(
                f"batch_size={batch_size} cannot be split over {len(chosen)} devices; use a "
                f"multiple of {len(chosen)}, or fewer devices"
            )
        counts = Counter(device.process_index for device in chosen)
        if len(set(counts.values())) > 1:
            raise InputError(
                f"the processes have {sorted(counts.values())} devices; give each the same number"
            )
        self.mesh = Mesh(chosen, (AXIS,))
        self._rows = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._rows_of_steps = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
        self._whole = NamedSharding(self.mesh, PartitionSpec())

    @property
    def axis_name(self) -> str | None:
        """The axis over which steps must sum; None on a single device."""
        return AXIS if self.mesh.size > 1 else None

    @property
    def share(self) -> dict[str, int]:
        """Which rows of each global batch this process reads, as arguments of `Clips.batches`."""
        processes = len({device.process_index for device in self.mesh.devices})
        return {"process_index": jax.process_index(), "process_count": processes}

    @property
    def caches(self) -> tuple[str, ...]:
        """Where clips may be kept (`avjax.data.feed`); several processes read shares alone."""
        return ("device", "host", "none") if self.share["process_count"] == 1 else ("none",)

    def own(self, rows: np.ndarray) -> np.ndarray:
        """This process's part of ``[steps, rows, ...]``."""
        share = rows.shape[1] // self.share["process_count"]
        first = self.share["process_index"] * share
        return rows[:, first : first + share]

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a copy of every array on every device; all processes pass the same values."""
        if self.share["process_count"] == 1:
            return jax.device_put(tree, self._whole)
        place = functools.partial(jax.make_array_from_process_local_data, self._whole)
        return jax.tree.map(functools.partial(_from_host, place), tree)

    def split(self, batch: PyTree) -> PyTree:
        """Puts an equal share of the rows that this process read on each of its devices."""
        if self.share["process_count"] == 1:
            return jax.device_put(batch, self._rows)
        return jax.make_array_from_process_local_data(self._rows, batch)

    def single(self, tree: PyTree) -> PyTree:
        """One copy, in host memory, of what `replicate` or a step put on every device."""
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)

    def split_steps(self, batches: Any) -> Any:
        """The same for the batches of several steps, ``[steps, rows, ...]``."""
        return jax.device_put(batches, self._rows_of_steps)

    def compile_train_step(self, step: Callable) -> Callable:
        """Compiles ``step(state, batch, key, axis_name) -> (state, sums)``; donates the state.

        State and key are replicated, the batch is split, and what is returned is replicated.
        """
        rows = PartitionSpec(AXIS)
        return self._compile(step, (PartitionSpec(), rows, PartitionSpec()), donate=True)

    @property
    def steps_per_call(self) -> int:
        """How many steps of one call suit the devices."""
        several = self._platform == "cpu" and "device" in self.caches
        return CPU_STEPS_PER_CALL if several else 1

    def compile_train_steps(self, step: Callable, batch_of: Callable) -> Callable:
        """Compiles several steps as one loop; donates the state. Only where `caches` has "device".

        Args:
          step: as of `compile_train_step`.
          batch_of: ``batch_of(resident, part)`` makes a step's batch.

        Returns:
          ``steps(state, parts, key, resident, count) -> (state, sums)``: ``parts`` are placed by
          `split_steps`, ``resident`` is replicated, ``count`` tells how many of the parts are
          trained on, ``sums`` have a leading axis of parts and are 0 behind ``count``.
        """

        def steps(
            state: Any, parts: Any, key: Any, resident: Any, count: Any, axis_name: str | None
        ) -> Any:
            @jax.jit  # traced once for both the shapes of sums and the loop
            def one(state: Any, index: Any, parts: Any, key: Any, resident: Any) -> Any:
                part = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, 0, False), parts)
                return step(state, batch_of(resident, part), key, axis_name=axis_name)

            def add(index: Any, carry: Any) -> Any:
                state, new = one(carry[0], index, parts, key, resident)
                return state, jax.tree.map(lambda each, x: each.at[index].set(x), carry[1], new)

            start, most = jnp.int32(0), len(jax.tree.leaves(parts)[0])
            shapes = jax.eval_shape(one, state, start, parts, key, resident)[1]
            sums = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), shapes)
            return lax.fori_loop(start, count, add, (state, sums))

        rows, whole = PartitionSpec(None, AXIS), PartitionSpec()
        return self._compile(steps, (whole, rows, whole, whole, whole), donate=True)

    @property
    def _cores_apart(self) -> bool:
        """Whether the cores of a single device can work apart."""
        return self.mesh.size == 1 and self._platform == "cpu"

    @property
    def _platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    @property
    def _compiler_options(self) -> dict[str, Any] | None:
        """For CPUs: vectors as wide as they have; by itself XLA halves those of AVX-512."""
        return {"xla_cpu_prefer_vector_width": 512} if self._platform == "cpu" else None

    def compile_eval_step(self, step: Callable, *, by_row: bool = False) -> Callable:
        """Compiles ``step(variables, batch)``, run by each device on its own rows.

        Args:
          step: to be compiled.
          by_row: rows do not depend on one another, so that the step may be given them singly.

        Returns:
          A function of replicated variables and a split batch. It returns, in host memory of every
          process and below a leading axis, what the step found in each device's rows; by rows, on a
          CPU that is one device, what it found in each row.
        """
        if by_row and self._cores_apart:
            return _by_cores(step, self._compiler_options)

        def gathered(variables: Any, batch: Any, axis_name: str | None) -> Any:
            found = step(variables, batch)
            if axis_name is None:
                return jax.tree.map(lambda x: x[None], found)
            return jax.tree.map(lambda x: lax.all_gather(x, axis_name), found)

        compiled = self._compile(gathered, (PartitionSpec(), PartitionSpec(AXIS)), donate=False)
        return lambda variables, batch: self.single(compiled(variables, batch))

    def _compile(self, step: Callable, specs: tuple[PartitionSpec, ...], donate: bool) -> Callable:
        mapped = functools.partial(step, axis_name=self.axis_name)
        if self.axis_name is not None:
            mapped = jax.shard_map(
                mapped, mesh=self.mesh, in_specs=specs, out_specs=PartitionSpec(), check_vma=False
            )
        return jax.jit(
            mapped, donate_argnums=(0,) if donate else (), compiler_options=self._compiler_options
        )


class PmapParallel(Parallel):
    """As `Parallel`, by `pmap`: every array has a leading axis of this process's devices."""

    @property
    def caches(self) -> tuple[str, ...]:
        """As of `Parallel`, but for the devices, from which a batch would have to be gathered."""
        return tuple(place for place in super().caches if place != "device")

    @property
    def _cores_apart(self) -> bool:
        """False: rows lie below the devices' axis."""
        return False

    @property
    def _by_device(self) -> NamedSharding:
        """The leading axis over this process's devices."""
        return NamedSharding(Mesh(self.mesh.local_devices, (AXIS,)), PartitionSpec(AXIS))

    def replicate(self, tree: PyTree) -> PyTree:
        """Puts a copy of every array on every device of this process."""
        devices = len(self.mesh.local_devices)

        def place(x: np.ndarray) -> jax.Array:
            return jax.device_put(np.broadcast_to(x, (devices, *x.shape)), self._by_device)

        return jax.tree.map(functools.partial(_from_host, place), tree)

    def split(self, batch: PyTree) -> PyTree:
        """Puts an equal share of the rows that this process read on each of its devices."""
        devices = len(self.mesh.local_devices)
        rows = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
        return jax.device_put(rows, self._by_device)

    def single(self, tree: PyTree) -> PyTree:
        """One copy, in host memory, of what `replicate` or a step put on every device."""
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)).reshape(x.shape[1:]), tree)

    def _compile(self, step: Callable, specs: tuple[PartitionSpec, ...], donate: bool) -> Callable:
        del specs  # everything has the leading axis
        return jax.pmap(
            functools.partial(step, axis_name=self.axis_name),
            axis_name=AXIS,
            devices=list(self.mesh.devices),
            donate_argnums=(0,) if donate else (),
        )


MODES = {"jit": Parallel, "pmap": PmapParallel}


def check_mode(mode: str) -> None:
    """Raises InputError for an unknown way to spread steps."""
    if mode not in MODES:
        raise InputError(f"unknown config.parallel {mode!r}; choose one of {', '.join(MODES)}")


def spread(mode: str, batch_size: int, devices: Sequence[jax.Device] | None = None) -> Parallel:
    """What compiles and spreads steps in the way that ``config.parallel`` names.

    Raises:
      InputError: an unknown mode, or as `Parallel`.
    """
    check_mode(mode)
    return MODES[mode](batch_size, devices)


def _by_cores(step: Callable, compiler_options: dict[str, Any] | None) -> Callable:
    """Compiles an evaluation step for a CPU whose cores take a row each.

    Together on one row they would wait for one another at the end of every small product.
    """

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def one_row(variables: Any, batch: Any, row: Array) -> Any:
        return step(variables, jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, row, 1), batch))

    dispatch = threading.Lock()  # compiled by the first thread that comes; then without delay
    threads = ThreadPoolExecutor(available_cores())

    def rows(variables: Any, batch: Any) -> Any:
        def found(row: int) -> Any:
            with dispatch:
                started = one_row(variables, batch, row)
            return jax.device_get(started)

        each = threads.map(found, range(len(jax.tree.leaves(batch)[0])))
        return jax.tree.map(lambda *x: np.stack(x), *each)

    return rows


def _from_host(place: Callable[[np.ndarray], jax.Array], x: Any) -> jax.Array:
    """Places the host's copy of an array; keys go as the numbers that they are made of."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = place(np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return place(np.asarray(x))
