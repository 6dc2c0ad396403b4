"""Atomic files, full disks and file locks."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from avjax.errors import InputError
from avjax.runtime.sealed import finite, seal

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Writes a file atomically: readers see the old file or the new one, never a part.

    The file is durable after the block. If the block fails, the file is unchanged. What stands at
    the temporary name, as a killed process leaves it, is removed; a link there is not followed.
    """
    temporary = path.with_name(path.name + ".tmp")
    temporary.unlink(missing_ok=True)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically; see `atomic_file`."""
    with atomic_file(path) as file:
        file.write(text.encode())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file with a digest atomically; see `atomic_file` and `avjax.runtime.sealed`."""
    write_text(path, json.dumps(seal(content), indent=2) + "\n")


def append_json_line(path: Path, content: Mapping[str, Any]) -> None:
    """Appends one line of JSON, durable on return; NaN and infinities become null."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(content), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_space(directory: Path, nbytes: int, remedy: str) -> None:
    """Raises InputError if the disk has too little space; ``directory`` need not exist yet."""
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes:
        raise InputError(
            f"no space left for {nbytes / 1e6:.0f} MB in {directory} ({free / 1e6:.0f} MB free); "
            f"{remedy}"
        )


@contextlib.contextmanager
def explain_full_disk(place: Path, remedy: str) -> Iterator[None]:
    """Turns errors of a full disk into an InputError.

    TensorStore (used by Orbax) and array_record report it as text in errors of several types.

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
    """Turns errors of the file system into an InputError.

    Raises:
      InputError: ``place`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{place} cannot be written ({error.strerror}); {remedy}") from error


@contextlib.contextmanager
def locked(path: Path, busy: str, *, wait: float = 0.0) -> Iterator[None]:
    """Holds a file lock, which the system releases when the process ends.

    The file tells who holds it.

    Args:
      path: the lock file; created, with its folder, if absent.
      busy: the error message if the lock is taken, including the remedy.
      wait: seconds to wait for the lock, which is told.

    Raises:
      InputError: another process holds the lock; names it. Or the lock file is a link.

    Warns and goes on where the file system has no locks, as some of clusters do.
    """
    deadline, is_told = time.monotonic() + wait, False
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = _acquire(path)
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise InputError(f"{busy} (it is {_holder(path)})") from error
            if not is_told:
                print(
                    f"note: waiting up to {wait:.0f} s for {_holder(path)}, which uses "
                    f"{path.parent}",
                    file=sys.stderr,
                    flush=True,
                )
                is_told = True
            time.sleep(0.2)
        else:
            if descriptor is not None:
                break
    try:
        yield
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    """Returns the text of a lock file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or "unknown"
    except OSError:
        return "unknown"


def _acquire(path: Path) -> int | None:
    """Returns the locked file's descriptor, or None if another process just removed the file.

    Raises:
      BlockingIOError: the lock is taken.
      InputError: the file is a link.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        # Its target would be overwritten.
        raise InputError(f"{path} is a link, which no lock is; remove it") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            text = f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
            with contextlib.suppress(OSError):  # a full disk does not matter here
                os.ftruncate(descriptor, 0)
                os.write(descriptor, text.encode())
            return descriptor
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            os.close(descriptor)
            raise
        warnings.warn(
            f"{path} cannot be locked on this file system ({error.strerror}); do not run the same "
            "command twice at once",
            stacklevel=2,
        )
        return descriptor
    os.close(descriptor)
    return None
