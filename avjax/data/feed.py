"""Feeds batches to devices, with cached clips and prefetching.

Frames are transferred as uint8. The cache changes neither the order nor the values of batches.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Int

from avjax.data.pipeline import Batch, Clips
from avjax.errors import InputError
from avjax.runtime.devices import Parallel
from avjax.runtime.memory import free_device_memory, free_host_memory

CACHES = ("auto", "device", "host", "none")
DEVICE_SHARE = 0.4  # of a device's free memory that `auto` uses; the step needs the remainder
HOST_SHARE = 0.25  # of the host's free memory that `auto` uses
DEPTH = 2  # batches to prefetch


def check_cache(cache: str) -> None:
    """Raises InputError for an unknown cache."""
    if cache not in CACHES:
        raise InputError(f"unknown config.data.cache {cache!r}; choose one of {', '.join(CACHES)}")


def choose_cache(
    cache: str,
    nbytes: int,
    device_memory: int | None,
    host_memory: int | None,
    possible: Sequence[str] = CACHES,
) -> str:
    """Chooses where to cache clips.

    Args:
      cache: `device`, `host` or `none`; `auto` is the first of them with enough memory.
      nbytes: size of all decoded clips.
      device_memory: free bytes of the fullest device; None if unknown, as on CPU.
      host_memory: free bytes of the host; None if unknown.
      possible: caches that the parallel mode supports.

    Raises:
      InputError: the name is unknown, or the clips do not fit into the cache.
    """
    check_cache(cache)
    if cache == "auto":
        if "device" in possible and nbytes <= DEVICE_SHARE * (device_memory or 0):
            return "device"
        fits = "host" in possible and nbytes <= HOST_SHARE * (host_memory or 0)
        return "host" if fits else "none"
    if cache not in possible:
        raise InputError(
            f"config.data.cache={cache!r} needs a single process, and 'device' also "
            f"config.parallel='jit'; choose auto or {' or '.join(possible)}"
        )
    free = {"device": device_memory, "host": host_memory}.get(cache)
    if free is not None and nbytes > free:
        raise InputError(
            f"config.data.cache={cache!r} needs {nbytes / 1e9:.1f} GB for the clips and "
            f"{free / 1e9:.1f} GB are free; choose auto or none"
        )
    return cache


class Prefetcher:
    """Prefetches items of an iterator in a thread.

    Attributes:
      waited: seconds that the consumer has waited for items.
    """

    def __init__(self, items: Iterator[Any], depth: int = DEPTH) -> None:
        self._items, self._end = items, object()
        self._pool = ThreadPoolExecutor(1)
        self._pending = deque(self._next() for _ in range(depth))
        self.waited = 0.0

    def _next(self) -> Any:
        return self._pool.submit(next, self._items, self._end)

    def __iter__(self) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            item = self._pending.popleft().result()
            self.waited += time.perf_counter() - start
            if item is self._end:
                return
            self._pending.append(self._next())
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stops the thread after its current item."""
        self._pool.shutdown(cancel_futures=True)


class Feed:
    """Batches from several selections of clips that share one cache.

    A batch is given by the positions of its clips, as returned by `rows`. Positions may have more
    axes: leading ones for several steps per call, trailing ones for several models trained at once.

    Attributes:
      cache: `device`, `host` or `none`.
    """

    def __init__(self, selections: Sequence[Clips], cache: str, parallel: Parallel) -> None:
        """Chooses the cache; clips are read when the first batch is needed.

        Args:
          selections: clips of one dataset for one network.
          cache: see `choose_cache`.
          parallel: the devices.
        """
        self._all = selections[0].union(selections[1:])
        memory = free_device_memory(), free_host_memory()
        self.cache = choose_cache(cache, self._all.nbytes, *memory, parallel.caches)
        self._parallel = parallel
        self._resident: Any = None

    @property
    def resident(self) -> Any:
        """All clips on every device, ``[clips + 1, ...]``; None unless cached on the device."""
        if self.cache == "device" and self._resident is None:
            self._resident = self._parallel.replicate(self._all.columns)
            del self._all.columns
        return self._resident

    @property
    def clip_ids(self) -> list[str]:
        """Ids of all clips."""
        return self._all.clip_ids

    def rows(
        self, clips: Clips, batch_size: int, *, shuffle_key: int | None = None, epoch: int = 0
    ) -> Int[np.ndarray, "steps b"]:
        """Returns each batch's positions among all clips; -1 is padding. See `Clips.order`."""
        order = clips.order(batch_size, shuffle_key=shuffle_key, epoch=epoch)
        return np.where(order < 0, -1, clips.positions_in(self._all)[order]).astype(np.int32)

    def batches(
        self,
        rows: Sequence[Int[np.ndarray, "*rows"]],
        place: Callable[[Any], Any] = lambda batch: batch,
        *,
        gather: bool = True,
    ) -> Prefetcher:
        """Prefetches batches.

        Args:
          rows: positions of each batch, all of one shape.
          place: puts a batch on devices, such as `Parallel.split`.
          gather: False yields positions instead of batches if clips are cached on the device; the
            compiled step then gathers them from `resident` with `take`.
        """
        return Prefetcher(self._batches(rows, place, gather))

    def _batches(
        self, rows: Sequence[np.ndarray], place: Callable[[Any], Any], gather: bool
    ) -> Iterator[Any]:
        if self.cache == "device":
            for batch_rows in rows:
                placed = place(batch_rows)
                yield place(_take_on_device(self.resident, placed)) if gather else placed
            return
        for batch in self._from_host(rows):
            yield place(batch)

    def _from_host(self, rows: Sequence[np.ndarray]) -> Iterator[Batch]:
        if self.cache == "host":
            for batch_rows in rows:
                yield take(self._all.columns, batch_rows)
            return
        if len(rows):
            yield from self._all.read(np.stack(rows), whole="host" in self._parallel.caches)


def take(columns: Batch, rows: Any) -> Batch:
    """Gathers the clips at the given positions; -1 is the last row, which is padding."""
    return {name: column[rows] for name, column in columns.items()}


_take_on_device = jax.jit(take)
