"""Signals that ask a program to stop."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Self


class StopRequest:
    """Turns Ctrl-C and a termination signal into a request that a loop grants between two steps.

    Within the ``with`` block the first signal sets `requested`; a second one interrupts at once.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = self.SIGNALS if in_main_thread else ()
        self._former = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
