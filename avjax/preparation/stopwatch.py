"""Times the phases of preparation."""

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
        """Adds the duration of the ``with`` block to a phase."""
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            with self._lock:
                self._seconds[name] = self._seconds.get(name, 0.0) + elapsed

    def seconds(self) -> dict[str, float]:
        """Returns seconds by phase, rounded to 0.01, in the order in which phases first ended."""
        return {name: round(seconds, 2) for name, seconds in self._seconds.items()}
