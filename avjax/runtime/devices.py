"""Data parallelism: compiles steps and shards their inputs over devices.

A step receives its device's rows and an axis name. The `jit` mode maps it over a one-axis mesh with
`shard_map`; the state is replicated and the batch is sharded. The `pmap` mode maps it over a
leading device axis of both. The axis covers the devices of all processes, ordered by process, so a
row's position in the global batch depends neither on the mode nor on the number of processes.
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
# On CPU, memory freed after a call returns to the system, which clears it for the next call. That
# takes a tenth of a step's time.
CPU_STEPS_PER_CALL = 4


class Parallel:
    """Compiles steps for a set of devices with `jit`; see `make_parallel` for other modes.

    Attributes:
      mesh: the devices, on one axis named `AXIS`.
    """

    def __init__(self, batch_size: int, devices: Sequence[jax.Device] | None = None) -> None:
        """Uses ``devices`` (default: all devices of all processes).

        Raises:
          InputError: ``batch_size`` is not a multiple of the number of devices, or processes have
            different numbers of devices.
        """
        devices = jax.devices() if devices is None else devices
        devices = sorted(devices, key=lambda device: device.process_index)
        if batch_size % len(devices):
            raise InputError(
                f"batch_size={batch_size} cannot be split over {len(devices)} devices; use a "
                f"multiple of {len(devices)}, or fewer devices"
            )
        counts = Counter(device.process_index for device in devices)
        if len(set(counts.values())) > 1:
            raise InputError(
                f"the processes have {sorted(counts.values())} devices; give each the same number"
            )
        self.mesh = Mesh(devices, (AXIS,))
        self._sharded = NamedSharding(self.mesh, PartitionSpec(AXIS))
        self._sharded_steps = NamedSharding(self.mesh, PartitionSpec(None, AXIS))
        self._replicated = NamedSharding(self.mesh, PartitionSpec())

    @property
    def axis_name(self) -> str | None:
        """The axis over which steps reduce; None on a single device."""
        return AXIS if self.mesh.size > 1 else None

    @property
    def share(self) -> dict[str, int]:
        """This process's share of each global batch, as arguments of `Clips.batches`."""
        processes = len({device.process_index for device in self.mesh.devices})
        return {"process_index": jax.process_index(), "process_count": processes}

    @property
    def caches(self) -> tuple[str, ...]:
        """The supported caches of clips (`avjax.data.feed`); only "none" for several processes."""
        return ("device", "host", "none") if self.share["process_count"] == 1 else ("none",)

    def local_rows(self, rows: np.ndarray) -> np.ndarray:
        """Returns this process's share of ``[steps, rows, ...]``."""
        share = rows.shape[1] // self.share["process_count"]
        first = self.share["process_index"] * share
        return rows[:, first : first + share]

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicates arrays to all devices; all processes must pass the same values."""
        if self.share["process_count"] == 1:
            return jax.device_put(tree, self._replicated)
        place = functools.partial(jax.make_array_from_process_local_data, self._replicated)
        return jax.tree.map(functools.partial(_from_host, place), tree)

    def split(self, batch: PyTree) -> PyTree:
        """Shards this process's rows over its devices."""
        if self.share["process_count"] == 1:
            return jax.device_put(batch, self._sharded)
        return jax.make_array_from_process_local_data(self._sharded, batch)

    def single(self, tree: PyTree) -> PyTree:
        """Copies replicated arrays to host memory, once."""
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)

    def split_steps(self, batches: Any) -> Any:
        """Shards the batches of several steps, ``[steps, rows, ...]``."""
        return jax.device_put(batches, self._sharded_steps)

    def compile_train_step(self, step: Callable) -> Callable:
        """Compiles ``step(state, batch, key, axis_name) -> (state, sums)``; donates the state.

        The batch is sharded; state, key and results are replicated.
        """
        replicated, sharded = PartitionSpec(), PartitionSpec(AXIS)
        return self._compile(step, (replicated, sharded, replicated), donate=True)

    @property
    def steps_per_call(self) -> int:
        """The default number of steps per call."""
        is_supported = self._platform == "cpu" and "device" in self.caches
        return CPU_STEPS_PER_CALL if is_supported else 1

    def compile_train_steps(self, step: Callable, batch_of: Callable) -> Callable:
        """Compiles a loop over several steps; donates the state. Requires "device" in `caches`.

        Args:
          step: as in `compile_train_step`.
          batch_of: ``batch_of(resident, part)`` returns a step's batch.

        Returns:
          ``steps(state, parts, key, resident, count) -> (state, sums)``: ``parts`` are sharded by
          `split_steps`, ``resident`` is replicated, ``count`` is the number of parts to train on,
          and ``sums`` has a leading axis of parts, with zeros from ``count`` on.
        """

        def steps(
            state: Any, parts: Any, key: Any, resident: Any, count: Any, axis_name: str | None
        ) -> Any:
            @jax.jit  # traces the step once, for both eval_shape and the loop
            def step_at(state: Any, index: Any, parts: Any, key: Any, resident: Any) -> Any:
                part = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, 0, False), parts)
                return step(state, batch_of(resident, part), key, axis_name=axis_name)

            def body(index: Any, carry: Any) -> Any:
                state, sums = carry
                state, step_sums = step_at(state, index, parts, key, resident)
                return state, jax.tree.map(lambda x, y: x.at[index].set(y), sums, step_sums)

            start, num_parts = jnp.int32(0), len(jax.tree.leaves(parts)[0])
            shapes = jax.eval_shape(step_at, state, start, parts, key, resident)[1]
            sums = jax.tree.map(lambda x: jnp.zeros((num_parts, *x.shape), x.dtype), shapes)
            return lax.fori_loop(start, count, body, (state, sums))

        replicated, sharded = PartitionSpec(), PartitionSpec(None, AXIS)
        specs = (replicated, sharded, replicated, replicated, replicated)
        return self._compile(steps, specs, donate=True)

    @property
    def _parallel_cores(self) -> bool:
        """Whether the cores of the device can evaluate different rows."""
        return self.mesh.size == 1 and self._platform == "cpu"

    @property
    def _platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    @property
    def _compiler_options(self) -> dict[str, Any] | None:
        """Enables full vector width on CPU; XLA uses half of AVX-512's by default."""
        return {"xla_cpu_prefer_vector_width": 512} if self._platform == "cpu" else None

    def compile_eval_step(self, step: Callable, *, by_row: bool = False) -> Callable:
        """Compiles ``step(variables, batch)``, which each device runs on its rows.

        Args:
          step: the evaluation step.
          by_row: whether rows are independent, so the step may be called on single rows.

        Returns:
          A function of replicated variables and a sharded batch. It returns the results of all
          devices, stacked along a leading axis, in host memory of every process. With ``by_row``
          and a single CPU device, the leading axis has the results of single rows instead.
        """
        if by_row and self._parallel_cores:
            return _compile_by_row(step, self._compiler_options)

        def gather(variables: Any, batch: Any, axis_name: str | None) -> Any:
            results = step(variables, batch)
            if axis_name is None:
                return jax.tree.map(lambda x: x[None], results)
            return jax.tree.map(lambda x: lax.all_gather(x, axis_name), results)

        compiled = self._compile(gather, (PartitionSpec(), PartitionSpec(AXIS)), donate=False)
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
    """`Parallel` with `pmap`: every array has a leading axis of this process's devices."""

    @property
    def caches(self) -> tuple[str, ...]:
        """The supported caches, without "device", which would need a gather across devices."""
        return tuple(cache for cache in super().caches if cache != "device")

    @property
    def _parallel_cores(self) -> bool:
        """False, since batches have a leading device axis."""
        return False

    @property
    def _sharded_by_device(self) -> NamedSharding:
        """Shards the leading axis over this process's devices."""
        return NamedSharding(Mesh(self.mesh.local_devices, (AXIS,)), PartitionSpec(AXIS))

    def replicate(self, tree: PyTree) -> PyTree:
        """Replicates arrays to all devices of this process."""
        devices = len(self.mesh.local_devices)

        def place(x: np.ndarray) -> jax.Array:
            stacked = np.broadcast_to(x, (devices, *x.shape))
            return jax.device_put(stacked, self._sharded_by_device)

        return jax.tree.map(functools.partial(_from_host, place), tree)

    def split(self, batch: PyTree) -> PyTree:
        """Shards this process's rows over its devices."""
        devices = len(self.mesh.local_devices)
        rows = jax.tree.map(lambda x: x.reshape(devices, len(x) // devices, *x.shape[1:]), batch)
        return jax.device_put(rows, self._sharded_by_device)

    def single(self, tree: PyTree) -> PyTree:
        """Copies replicated arrays to host memory, once."""
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)).reshape(x.shape[1:]), tree)

    def _compile(self, step: Callable, specs: tuple[PartitionSpec, ...], donate: bool) -> Callable:
        del specs  # every array has the leading device axis
        return jax.pmap(
            functools.partial(step, axis_name=self.axis_name),
            axis_name=AXIS,
            devices=list(self.mesh.devices),
            donate_argnums=(0,) if donate else (),
        )


MODES = {"jit": Parallel, "pmap": PmapParallel}


def check_mode(mode: str) -> None:
    """Raises InputError for an unknown parallel mode."""
    if mode not in MODES:
        raise InputError(f"unknown config.parallel {mode!r}; choose one of {', '.join(MODES)}")


def make_parallel(
    mode: str, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Parallel:
    """Creates the `Parallel` of a mode (``config.parallel``).

    Raises:
      InputError: the mode is unknown, or as in `Parallel`.
    """
    check_mode(mode)
    return MODES[mode](batch_size, devices)


def _compile_by_row(step: Callable, compiler_options: dict[str, Any] | None) -> Callable:
    """Compiles an evaluation step for a CPU, with one row per core.

    If all cores worked on one row, they would wait for each other after every small operation.
    """

    @functools.partial(jax.jit, compiler_options=compiler_options)
    def one_row(variables: Any, batch: Any, row: Array) -> Any:
        return step(variables, jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, row, 1), batch))

    dispatch_lock = threading.Lock()  # so that only the first thread compiles
    threads = ThreadPoolExecutor(available_cores())

    def all_rows(variables: Any, batch: Any) -> Any:
        def evaluate(row: int) -> Any:
            with dispatch_lock:
                results = one_row(variables, batch, row)
            return jax.device_get(results)

        results = threads.map(evaluate, range(len(jax.tree.leaves(batch)[0])))
        return jax.tree.map(lambda *x: np.stack(x), *results)

    return all_rows


def _from_host(place: Callable[[np.ndarray], jax.Array], x: Any) -> jax.Array:
    """Places the host's copy of an array; PRNG keys are placed as their data."""
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = place(np.asarray(jax.random.key_data(x)))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    return place(np.asarray(x))
