"""Signals that ask a program to stop."""

import _thread
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Self

INTERRUPT_STATUS = 130  # as shells report them
TERMINATION_STATUS = 143


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Imports of large libraries, during which Ctrl-C ends the process at once, with one line.

    An exception, raised within their start-up code, would be lost there or end in a crash. Outside
    the main thread, and where something else handles Ctrl-C, nothing changes.
    """
    former = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or former is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _exit_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPT_STATUS)


@contextlib.contextmanager
def unlosable_interrupts() -> Iterator[None]:
    """Repeats a KeyboardInterrupt that came where Python can but print and ignore it.

    That is in callbacks, such as JAX's at every garbage collection.
    """
    former = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()  # when the callback is over
        else:
            former(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = former


class Terminated(KeyboardInterrupt):
    """Interrupted by a termination signal, not by Ctrl-C."""


class StopRequest:
    """Turns Ctrl-C and a termination signal into a request that a loop grants between two steps.

    Within the ``with`` block the first signal sets `requested`; a second one interrupts at once. A
    KeyboardInterrupt that leaves the block after a termination signal becomes `Terminated`.
    Outside the main thread, where Python delivers no signals, nothing changes.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._terminated = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = self.SIGNALS if in_main_thread else ()
        self._former = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True
        self._terminated = number == signal.SIGTERM

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        if self._terminated and kind is KeyboardInterrupt:
            raise Terminated from error
