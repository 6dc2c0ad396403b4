"""Files that are whole or not there, disks that are full, folders that one process holds."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from avjax.errors import InputError


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name, and is durable, once the block ends; a failed block leaves none.

    A reader sees the old file or the new one, never a part.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON; see `atomic_file`."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def append_json_line(path: Path, content: Mapping[str, Any]) -> None:
    """Appends one line of JSON, durable on return."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(directory: Path, nbytes: int, remedy: str) -> None:
    """Raises InputError where a disk has too little space; ``directory`` may not exist yet."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise InputError(
            f"no space left for {nbytes / 1e6:.0f} MB in {directory} ({free / 1e6:.0f} MB free); "
            f"{remedy}"
        )


@contextlib.contextmanager
def explain_full_disk(place: Path, remedy: str) -> Iterator[None]:
    """Turns a full disk into one clear line.

    TensorStore, below Orbax, and array_record report it as text in errors of several types.

    Raises:
      InputError: the disk that holds ``place`` is full.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or os.strerror(errno.ENOSPC) in str(error) or "ENOSPC" in str(error):
            raise InputError(f"no space left in {place}; {remedy}") from error
        raise


@contextlib.contextmanager
def explain_unwritable(place: Path, remedy: str) -> Iterator[None]:
    """Turns an error of the file system into one clear line.

    Raises:
      InputError: ``place`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror}); {remedy}") from error


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Holds a lock file, which the system releases however a process ends.

    Args:
      path: created, with its folder, where absent.
      busy: says who else may hold the lock, and the remedy.

    Raises:
      InputError: another process holds the lock.
    """
    lock = None
    while lock is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _acquire(path, busy)
    try:
        yield
    finally:
        os.close(lock)


def _acquire(path: Path, busy: str) -> int | None:
    """A locked file's descriptor; None where another process has just removed the file."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
            return lock
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(busy) from error
    os.close(lock)
    return None
