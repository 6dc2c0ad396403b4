"""Feeds the devices without letting them wait: clips kept in memory, batches made ahead of use.

Frames cross the bus as uint8. Where the clips are kept changes neither their order nor a digit.
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
DEVICE_SHARE = 0.4  # of a device's free memory that `auto` gives to clips; the rest is the step's
HOST_SHARE = 0.25  # of the machine's free memory
DEPTH = 2  # batches made ahead


def check_cache(cache: str) -> None:
    """Raises InputError for an unknown place to keep clips."""
    if cache not in CACHES:
        raise InputError(f"unknown config.data.cache {cache!r}; choose one of {', '.join(CACHES)}")


def choose_cache(
    cache: str,
    nbytes: int,
    device_memory: int | None,
    host_memory: int | None,
    possible: Sequence[str] = CACHES,
) -> str:
    """Where clips are kept.

    Args:
      cache: `device`, `host` or `none`; or `auto`, the first of them with room enough.
      nbytes: of all clips, decoded.
      device_memory: free bytes of the fullest device; None where that is not known, as on CPU.
      host_memory: free bytes of the machine; None where that is not known.
      possible: places that the way of training allows.

    Raises:
      InputError: unknown name, or clips that do not fit where they should be kept.
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
            f"config.data.cache={cache!r} wants {nbytes / 1e9:.1f} GB for the clips and "
            f"{free / 1e9:.1f} GB are free there; choose auto or none"
        )
    return cache


class ReadAhead:
    """Takes items from an iterator in a thread of its own, some ahead of their use.

    Attributes:
      waited: seconds in which the reader of this iterator was kept waiting.
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
            began = time.perf_counter()
            item = self._pending.popleft().result()
            self.waited += time.perf_counter() - began
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
        """Ends the thread; what it has in hand is finished first."""
        self._pool.shutdown(cancel_futures=True)


class Feed:
    """Batches of several selections of clips, which are kept once for all of them.

    A batch is named by the positions of its clips, as `rows` gives them. Axes may be added before
    and behind that of rows: for steps of one call, and for models that train together.

    Attributes:
      cache: `device`, `host` or `none`.
    """

    def __init__(self, selections: Sequence[Clips], cache: str, parallel: Parallel) -> None:
        """Chooses a place to keep the clips; they are read for the first batch.

        Args:
          selections: clips of a dataset for one network.
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
        """All clips on every device, ``[clips + 1, ...]``; None where they are not kept there."""
        if self.cache == "device" and self._resident is None:
            self._resident = self._parallel.replicate(self._all.columns)
            del self._all.columns
        return self._resident

    def rows(
        self, clips: Clips, batch_size: int, *, shuffle_key: int | None = None, epoch: int = 0
    ) -> Int[np.ndarray, "steps b"]:
        """Positions of an epoch's batches among all clips; -1 is padding. See `Clips.order`."""
        order = clips.order(batch_size, shuffle_key=shuffle_key, epoch=epoch)
        return np.where(order < 0, -1, clips.positions_in(self._all)[order]).astype(np.int32)

    def batches(
        self,
        rows: Sequence[Int[np.ndarray, "*rows"]],
        place: Callable[[Any], Any] = lambda batch: batch,
        *,
        gather: bool = True,
    ) -> ReadAhead:
        """Batches in memory or on devices, made ahead of their use.

        Args:
          rows: positions of each batch, of one shape.
          place: puts a batch on devices, such as `Parallel.split`.
          gather: False leaves clips that lie on the device to the compiled step: what comes is
            the positions, to be looked up in `resident` by `take`.
        """
        return ReadAhead(self._made(rows, place, gather))

    def _made(
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
    """The clips at given positions; -1 is the last row."""
    return {name: column[rows] for name, column in columns.items()}


_take_on_device = jax.jit(take)
