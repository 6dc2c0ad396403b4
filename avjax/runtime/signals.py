"""Signals that ask a program to stop."""

import contextlib
import gc
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Self

INTERRUPT_STATUS = 130  # shells' exit status after SIGINT
TERMINATION_STATUS = 143  # and after SIGTERM
_AFTER_COLLECTION = 0.2  # seconds; a garbage collection takes less


@contextlib.contextmanager
def exiting() -> Iterator[None]:
    """Exits at once on Ctrl-C or SIGTERM within the block, with one line.

    Does nothing outside the main thread or if a signal has an unusual handler.
    """
    with _handled(signal.SIGINT, _exit_at_once), _handled(signal.SIGTERM, _exit_at_once):
        yield


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Exits at once on Ctrl-C or SIGTERM, as `exiting`, while large libraries are imported.

    Their initialisation code could swallow a KeyboardInterrupt or crash. Garbage collection pauses,
    and leaves out what was imported from then on: it would take a tenth of a program's start.
    """
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        with exiting():
            yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """Raises `Terminated` on SIGTERM within the block, as Python does KeyboardInterrupt on Ctrl-C.

    Does nothing outside the main thread or if SIGTERM has an unusual handler.
    """
    with _handled(signal.SIGTERM, _raise_terminated):
        yield


@contextlib.contextmanager
def _handled(number: signal.Signals, handler: Callable[..., None]) -> Iterator[None]:
    """Sets a signal's handler within the block, if it has its usual one."""
    usual = (signal.SIG_DFL, signal.default_int_handler, _raise_terminated)
    previous = signal.getsignal(number)
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or previous not in usual:
        yield
        return
    signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, previous)


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(128 + number)


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated


@contextlib.contextmanager
def repeat_lost_interrupts() -> Iterator[None]:
    """Repeats an interruption raised in a callback, where Python prints and ignores it.

    JAX, for example, has a callback at every garbage collection.
    """
    previous = sys.unraisablehook
    repeats: list[threading.Timer] = []

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            is_termination = isinstance(unraisable.exc_value, Terminated)
            number = signal.SIGTERM if is_termination else signal.SIGINT
            thread = threading.main_thread().ident
            # After the collection: a signal that arrives in it would be seen after the next call
            # only. A real signal also ends a wait.
            repeat = threading.Timer(_AFTER_COLLECTION, signal.pthread_kill, [thread, number])
            repeats.append(repeat)
            repeat.start()
        else:
            previous(unraisable)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for repeat in repeats:
            repeat.cancel()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Delivers SIGINT and SIGTERM only after the block.

    Does nothing outside the main thread, where Python delivers no signals.
    """
    arrived: list[int] = []
    in_main_thread = threading.current_thread() is threading.main_thread()
    previous = {
        number: signal.signal(number, lambda number, frame: arrived.append(number))
        for number in (StopRequest.SIGNALS if in_main_thread else ())
    }
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for received in arrived:
            signal.raise_signal(received)


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
