"""Atomic files and folders, full disks and file locks."""

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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from avjax.errors import DISK_ERRORS, InputError
from avjax.runtime.sealed import finite, seal

_FULL = (errno.ENOSPC, errno.EDQUOT)
_METADATA_BYTES = 1 << 20
_UNFINISHED = ".unfinished"  # ends the name of a folder that is being filled
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Adds a path to errors of the system that name none, such as those of writing."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def temporary_name(path: Path) -> Path:
    """Returns where `atomic_file` writes a file before it is complete."""
    return path.with_name(path.name + ".tmp")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Writes a file atomically: readers see the old file or the new one, never a part.

    The file is durable after the block. If the block fails, the file is unchanged. What stands at
    the temporary name, as a killed process leaves it, is removed; a link there is not followed.
    """
    temporary = temporary_name(path)
    temporary.unlink(missing_ok=True)
    try:
        with naming(path), temporary.open("xb") as file:
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
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(finite(content), allow_nan=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's entries, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with naming(path):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def filled(folder: Path, last: Sequence[str] = ()) -> Iterator[Path]:
    """Yields an empty folder, whose files are in ``folder`` after the block, durably.

    A new folder appears at once. An existing one, which may be a link or a mount point, gets the
    files one by one, replacing those of the same name; `is_occupied` ignores them until the last.
    The files never leave the file system that holds the folder. If the block fails, or the process
    is killed, the next call starts anew.

    Args:
      folder: new, or existing, or a link to either.
      last: names of the files that come last, in this order.
    """
    target = folder.resolve()
    is_new = not target.is_dir()
    staged = target.with_name(target.name + _UNFINISHED) if is_new else target / _UNFINISHED
    try:
        if staged.is_symlink():
            staged.unlink()  # what is written never goes through a link there
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True)
        yield staged
        for path in (*staged.iterdir(), staged):
            sync(path)
        if is_new:
            staged.rename(target)
            sync(target.parent)
            return
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    order = {name: number for number, name in enumerate(last)}
    for path in sorted(staged.iterdir(), key=lambda path: (order.get(path.name, -1), path.name)):
        path.replace(target / path.name)
    sync(target)
    staged.rmdir()


def is_occupied(path: Path) -> bool:
    """Whether ``path`` exists and is not a folder that is empty or not yet `filled`."""
    if not path.is_dir():
        return path.exists()
    return any(path.iterdir()) and not (path / _UNFINISHED).exists()


@contextlib.contextmanager
def checked_write(directory: Path, nbytes: int, remedy: str) -> Iterator[None]:
    """Checks for space before ``nbytes`` and metadata are written, and explains a disk's errors.

    Args:
      directory: need not exist yet.
      nbytes: size of what is written in the block, without metadata.
      remedy: for a full disk.

    Raises:
      InputError: the disk has too little space, or cannot be written, see `explain_disk`.
    """
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < nbytes + _METADATA_BYTES:
        raise InputError(
            f"no space left for {nbytes / 1e6:.0f} MB in {directory} ({free / 1e6:.0f} MB free); "
            f"{remedy}"
        )
    with explain_disk(directory, remedy):
        yield


@contextlib.contextmanager
def explain_disk(place: Path, remedy: str) -> Iterator[None]:
    """Turns errors of the disk, `DISK_ERRORS`, into an InputError.

    TensorStore (used by Orbax) and array_record report them as text in errors of several types.

    Raises:
      InputError: the disk that holds ``place`` is full, with the remedy, or cannot be written.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        for number in DISK_ERRORS:
            texts = (errno.errorcode[number], os.strerror(number))
            if getattr(error, "errno", None) == number or any(text in str(error) for text in texts):
                what = "no space left in {}" if number in _FULL else "{} cannot be written ({})"
                where = getattr(error, "filename", None) or place
                todo = remedy if number in _FULL else "make it writable and run the command again"
                raise InputError(f"{what.format(where, texts[1])}; {todo}") from error
        raise


@contextlib.contextmanager
def explain_unwritable(place: Path, remedy: str) -> Iterator[None]:
    """Turns errors of the file system into an InputError, but for a full disk.

    Raises:
      InputError: ``place`` cannot be written.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise
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
