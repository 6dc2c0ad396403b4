"""Progress: bars that are live on a terminal and a line a minute in a log, lines, durations."""

import sys
import threading
from collections.abc import Iterable
from typing import Any, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 60.0

# Processes share no bars; tqdm's lock between them is a semaphore that a killed process leaves.
tqdm.set_lock(threading.RLock())


def progress_bar(iterable: Iterable[Any] | None = None, **options: Any) -> tqdm:
    """Returns a tqdm bar on standard error.

    Args:
      iterable: what to go through, if anything.
      **options: those of tqdm.
    """
    if is_live():
        return tqdm(iterable, dynamic_ncols=True, **options)
    return tqdm(
        iterable,
        file=_Lines(sys.stderr),
        mininterval=SECONDS_BETWEEN_LINES,
        maxinterval=SECONDS_BETWEEN_LINES,
        ascii=True,
        **options,
    )


def is_live() -> bool:
    """Whether standard error can draw over a line: a terminal or a notebook's cell."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def say(text: str) -> None:
    """Prints lines on standard error, above a live bar."""
    tqdm.write(text, file=sys.stderr)
    sys.stderr.flush()


def duration(seconds: float) -> str:
    """Formats a duration: ``2 h 5 min``, ``12 min`` or ``40 s``."""
    hours, minutes = divmod(round(seconds / 60), 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"


class _Lines:
    """A file to which tqdm writes lines, without carriage returns and cursor movements."""

    def __init__(self, file: TextIO):
        self._file, self.encoding = file, "ascii"

    def write(self, text: str) -> None:
        if line := text.replace("\x1b[A", "").strip():
            self._file.write(line + "\n")

    def flush(self) -> None:
        self._file.flush()
