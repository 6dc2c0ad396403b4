"""A process of its own for what strangers send: it can be stopped, and may fail, without harm.

FFmpeg runs in C, where Python can neither interrupt it nor survive its crash. So a worker holds the
model and judges one clip at a time; the server watches its clock and its memory, ends it where a
clip exceeds them, and starts another.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

from avjax.errors import InputError
from avjax.runtime.compilation import keep_compiled_programs
from avjax.serving.judging import Facts, Judging, as_json, as_page, facts, warm_up, without_path
from avjax.serving.limits import Limits

Kind = Literal["json", "page"]
_START_SECONDS = 600.0  # to load and compile
_POLL_SECONDS = 0.05


class BusyError(Exception):
    """As many clips wait as may."""


class BrokenError(Exception):
    """A bug, or a worker that does not start; the log has the traceback."""


class _Reply(NamedTuple):
    """What a worker says: an answer, or why there is none."""

    content: Any = None
    refused: str | None = None
    failed: bool = False


class Worker:
    """Judges clips in a process of its own, one at a time."""

    def __init__(self, load: Callable[[], Judging], limits: Limits) -> None:
        """Starts nothing yet.

        Args:
          load: returns the model; can be pickled, as it is called in the worker.
          limits: see `Limits`.
        """
        self._load, self._limits = load, limits
        self._context = multiprocessing.get_context("spawn")  # a fork does not survive threads
        self._process: Any = None
        self._connection: Connection | None = None
        self._facts: Facts | None = None
        self._usual_memory, self._closed = 0, False
        self._turn, self._count = threading.Lock(), threading.Lock()
        self._places = limits.waiting + 1
        self.taken = 0  # clips that wait or are judged

    def start(self) -> Facts:
        """Starts the process, and waits until the model is compiled.

        Raises:
          InputError: the model cannot be loaded.
          BrokenError: the process ended.
        """
        with self._turn:
            return self._ready()

    def close(self) -> None:
        """Ends the process for good."""
        self._closed = True
        self._end()

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Holds a place in the queue for the block.

        Raises:
          BusyError: there is none.
        """
        with self._count:
            if self.taken >= self._places:
                raise BusyError
            self.taken += 1
        try:
            yield
        finally:
            with self._count:
                self.taken -= 1

    def answer(self, kind: Kind, path: Path, name: str) -> Any:
        """Judges a clip, after those before it; the caller holds a `place`.

        Args:
          kind: `json` for a dict, `page` for HTML.
          path: the clip.
          name: what the client calls it, for messages.

        Raises:
          InputError: the clip cannot be judged, or exceeds a limit.
          BrokenError: a bug.
        """
        with self._turn:
            if self._closed:
                raise InputError("the server ends; ask again later")
            self._ready()
            assert self._connection is not None
            self._connection.send((kind, path, name))
            reply = self._awaited(name)
        if reply.refused is not None:
            raise InputError(reply.refused)
        if reply.failed:
            raise BrokenError
        return reply.content

    def _ready(self) -> Facts:
        """Starts a process if there is none, and waits for it."""
        if self._process is None or not self._process.is_alive():
            self._launch()
        if self._facts is None:
            assert self._connection is not None
            if not self._connection.poll(_START_SECONDS):
                self._end()
                raise BrokenError(f"the model was not ready after {_START_SECONDS:.0f} s")
            try:
                reply = self._connection.recv()
            except EOFError as error:
                self._end()
                raise BrokenError("the process that holds the model ended") from error
            if reply.refused is not None:
                self._end()
                raise InputError(reply.refused)
            if reply.failed:
                self._end()
                raise BrokenError("the model failed on an example clip")
            self._facts = reply.content
            self._usual_memory = _resident(self._process.pid)
        return self._facts

    def _launch(self) -> None:
        self._connection, other = self._context.Pipe()
        arguments = (other, self._load, self._limits)
        self._process = self._context.Process(
            target=_work, args=arguments, name="avjax-judge", daemon=True
        )
        self._process.start()
        other.close()  # so that the end of the process ends the connection
        self._facts = None

    def _awaited(self, name: str) -> _Reply:
        """Waits for an answer, and ends the process where a limit is exceeded."""
        assert self._connection is not None
        limits = self._limits
        deadline = time.monotonic() + limits.answer_seconds
        most = self._usual_memory + limits.memory_bytes
        while not self._connection.poll(_POLL_SECONDS):
            if time.monotonic() > deadline:
                return self._replaced(
                    f"{name} takes more than {limits.answer_seconds:.0f} s to judge; "
                    "send a shorter or smaller clip"
                )
            if self._process is not None and _resident(self._process.pid) > most:
                return self._replaced(
                    f"{name} takes more than {limits.memory_bytes / 1e9:g} GB of memory to "
                    "judge; send a shorter or smaller clip"
                )
        try:
            return self._connection.recv()
        except EOFError:
            return self._replaced(f"{name} makes the decoder crash; convert it to H.264 and AAC")

    def _replaced(self, reason: str) -> _Reply:
        """Ends the process and starts another, which loads while the client reads the reason."""
        if self._closed:
            return _Reply(refused="the server ends; ask again later")
        self._end()
        self._launch()
        return _Reply(refused=reason)

    def _end(self) -> None:
        process, self._process, self._facts = self._process, None, None
        if process is not None:
            process.kill()
            process.join()


def _resident(pid: int) -> int:
    """Returns a process's resident memory in bytes; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _work(connection: Connection, load: Callable[[], Judging], limits: Limits) -> None:
    """Loads the model, then answers until the server ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal; the server ends this process
    try:
        keep_compiled_programs()
        model = load()
        warm_up(model)
        connection.send(_Reply(facts(model)))
    except InputError as error:
        connection.send(_Reply(refused=str(error)))
        return
    except Exception:
        traceback.print_exc()
        connection.send(_Reply(failed=True))
        return
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            connection.send(_reply(model, limits, *connection.recv()))


def _reply(model: Judging, limits: Limits, kind: Kind, path: Path, name: str) -> _Reply:
    try:
        judge = as_page if kind == "page" else as_json
        return _Reply(judge(model, path, name, limits))
    except InputError as error:
        return _Reply(refused=without_path(error, path, name))
    except MemoryError:
        return _Reply(refused=f"{name} takes too much memory to judge; send a smaller clip")
    except Exception:
        traceback.print_exc()
        return _Reply(failed=True)
