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

INTERRUPT_STATUS = 130  # shells' exit status after SIGINT
TERMINATION_STATUS = 143  # and after SIGTERM


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Exits at once on Ctrl-C, with one line, while large libraries are imported.

    Their initialisation code could swallow a KeyboardInterrupt or crash. Does nothing outside the
    main thread or if SIGINT already has another handler.
    """
    previous = signal.getsignal(signal.SIGINT)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or previous is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _exit_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(INTERRUPT_STATUS)


@contextlib.contextmanager
def repeat_lost_interrupts() -> Iterator[None]:
    """Repeats a KeyboardInterrupt raised in a callback, where Python prints and ignores it.

    JAX, for example, has a callback at every garbage collection.
    """
    previous = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            threading.Timer(0.01, _thread.interrupt_main).start()  # after the callback
        else:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous


class Terminated(KeyboardInterrupt):
    """Interrupted by a termination signal, not by Ctrl-C."""


class StopRequest:
    """Turns SIGINT and SIGTERM into a request to stop, which a loop checks between steps.

    Within the ``with`` block the first signal sets `requested`; the second one raises
    KeyboardInterrupt. A KeyboardInterrupt that leaves the block after SIGTERM becomes `Terminated`.
    Does nothing outside the main thread, where Python delivers no signals.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.requested = False
        self._terminated = False

    def __enter__(self) -> Self:
        in_main_thread = threading.current_thread() is threading.main_thread()
        numbers = self.SIGNALS if in_main_thread else ()
        self._handlers = {number: signal.signal(number, self._handle) for number in numbers}
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
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
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self._terminated and kind is KeyboardInterrupt:
            raise Terminated from error
