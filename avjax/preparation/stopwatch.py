"""How long each phase of the work takes."""

import contextlib
import threading
import time
from collections.abc import Iterator


class Stopwatch:
    """Seconds spent in named phases, summed over all threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the time within the ``with`` block to a phase."""
        began = time.perf_counter()
        try:
            yield
        finally:
            took = time.perf_counter() - began
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + took

    def seconds(self) -> dict[str, float]:
        """Seconds by phase, to the hundredth, in the order in which phases first ended."""
        return {name: round(seconds, 2) for name, seconds in self._seconds.items()}
