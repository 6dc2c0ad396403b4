"""Runs an iterator ahead of its reader, in a thread."""

import contextlib
import queue
import threading
from collections.abc import Generator, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
_POLL_SECONDS = 0.1


def ahead(items: Generator[T], depth: int) -> Generator[T]:
    """Yields the items of a generator that runs in a thread, at most ``depth`` items ahead.

    Its exceptions are raised here. Closed early, it closes the generator too.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    closed, ended = threading.Event(), threading.Event()

    def put(kind: str, value: Any) -> bool:
        while not closed.is_set():
            with contextlib.suppress(queue.Full):
                ready.put((kind, value), timeout=_POLL_SECONDS)
                return True
        return False

    def work() -> None:
        try:
            with contextlib.closing(items):
                for item in items:
                    if not put("item", item):
                        return
            put("end", None)
        except BaseException as error:
            put("error", error)
        finally:
            ended.set()

    threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        yield from _received(ready)
    finally:
        closed.set()
        ended.wait()  # not join: an interrupted join takes the thread for ended


def _received(ready: "queue.Queue[tuple[str, Any]]") -> Iterator[Any]:
    while True:
        kind, value = ready.get()
        if kind == "error":
            raise value
        if kind == "end":
            return
        yield value
