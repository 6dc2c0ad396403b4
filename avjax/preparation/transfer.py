"""Resumable HTTP downloads, checked by size and md5."""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import NamedTuple

import requests

from avjax.errors import InputError
from avjax.runtime.files import naming

PART_SUFFIX = ".part"  # of incomplete or unchecked files
# Zenodo asks clients to identify themselves, and throttles "python-requests".
_HEADERS = {"User-Agent": "avjax", "Accept-Encoding": "identity"}
_CHUNK = 1 << 16  # bytes
_MAX_WAIT = 300.0  # seconds; limits a server's Retry-After


class RemoteFile(NamedTuple):
    """A file to download: local name, URL, size in bytes, md5 in hex."""

    name: str
    url: str
    size: int
    md5: str


class Patience(NamedTuple):
    """Retry policy.

    Attributes:
      attempts: consecutive attempts without new bytes before giving up.
      pause: seconds before the first retry; doubles with every further one.
      timeout: seconds without data after which a connection is considered lost.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 30.0


PATIENCE = Patience()


class UnreachableError(InputError):
    """The server cannot be reached, or every connection is lost."""


class _RefusedError(Exception):
    """An unusable response; ``wait`` is the server's Retry-After in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def bytes_held(file: RemoteFile, directory: Path) -> int:
    """Returns the number of bytes that earlier downloads stored."""
    path = directory / file.name
    size = _size(path) or _size(part_of(path))
    return size if size <= file.size else 0


def fetch(
    file: RemoteFile,
    directory: Path,
    *,
    stopping: threading.Event,
    progress: Callable[[int], None],
    patience: Patience,
) -> Path:
    """Downloads a file, or its missing part, and checks its md5.

    A file with the wrong md5, whether old or new, is deleted and downloaded once more.

    Args:
      file: the file to download.
      directory: an existing folder. ``<name>.part`` in it is the unfinished file; it remains after
        a failure. Links may lead to complete files, but nothing is written through them.
      stopping: stops the download when set.
      progress: called with the number of new bytes, not counting `bytes_held`; negative if bytes
        were discarded.
      patience: the retry policy.

    Returns:
      The path of the complete file.

    Raises:
      CancelledError: ``stopping`` was set.
      UnreachableError: there is no connection, or none lasts.
      InputError: the server refuses the request or sends wrong bytes.
    """
    path = directory / file.name
    part = part_of(path)
    if path.exists():
        path.replace(part)  # so that its md5 is checked
    if _size(part) > file.size or (part.is_symlink() and _size(part) != file.size):
        progress(-bytes_held(file, directory))
        part.unlink()  # what is written never goes through a link
    for _ in range(2):
        _complete(file, part, stopping, progress, patience)
        md5 = _md5(part)
        if md5 == file.md5:
            part.replace(path)
            return path
        part.unlink()
        progress(-file.size)
    raise InputError(
        f"{file.name} came twice with wrong bytes: its md5 is {md5}, expected {file.md5}; start "
        f"again later, or save {file.url} as {path} by other means and start again"
    )


def _complete(
    file: RemoteFile,
    part: Path,
    stopping: threading.Event,
    progress: Callable[[int], None],
    patience: Patience,
) -> None:
    """Requests missing bytes until the file is complete."""
    furthest, failures = _size(part), 0
    while (size := _size(part)) < file.size:
        if stopping.is_set():
            raise CancelledError
        last_error: requests.RequestException | _RefusedError
        try:
            _append(file, part, size, stopping, progress, patience.timeout)
            continue
        except (requests.RequestException, _RefusedError) as error:
            last_error = error
        size = _size(part)
        failures = 1 if size > furthest else failures + 1
        furthest = max(furthest, size)
        if failures >= patience.attempts:
            raise _explained(last_error, file, part) from last_error
        wait = last_error.wait if isinstance(last_error, _RefusedError) else 0.0
        stopping.wait(max(wait, patience.pause * 2 ** (failures - 1)))


def _append(
    file: RemoteFile,
    part: Path,
    offset: int,
    stopping: threading.Event,
    progress: Callable[[int], None],
    timeout: float,
) -> None:
    """Makes one request for the bytes from ``offset`` on and appends them.

    Raises:
      requests.RequestException: there is no connection, or it was lost.
      _RefusedError: the response is not the requested bytes.
    """
    headers = _HEADERS | ({"Range": f"bytes={offset}-"} if offset else {})
    with (
        requests.Session() as session,
        session.get(file.url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)  # not the beginning of that file
            progress(-offset)
        position = _start(response, file, offset)
        progress(position - offset)
        mode = "ab" if position else "wb"
        with naming(part), open(part, mode, opener=_open_itself) as target:
            for chunk in response.iter_content(_CHUNK):
                chunk = chunk[: file.size - position]
                target.write(chunk)
                position += len(chunk)
                progress(len(chunk))
                if stopping.is_set():
                    raise CancelledError
            target.flush()
            os.fsync(target.fileno())
    if position < file.size:
        raise _RefusedError(f"the server ended after {position} of {file.size} bytes")


def _open_itself(path: str, flags: int) -> int:
    """Opens a file, but no link: what it leads to may be another's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} became a link; remove it and start again") from error


def _start(response: requests.Response, file: RemoteFile, offset: int) -> int:
    """Returns the position of the response in the file: ``offset`` or 0."""
    status = response.status_code
    if status == requests.codes.partial_content:
        content_range = response.headers.get("Content-Range", "")
        if not content_range.startswith(f"bytes {offset}-"):
            raise _RefusedError(
                f"the server sent {content_range or 'a part'} instead of bytes {offset}-"
            )
        start = offset
    elif status == requests.codes.ok:
        start = 0
    else:
        retry_after = response.headers.get("Retry-After", "")
        wait = min(float(retry_after), _MAX_WAIT) if retry_after.isdecimal() else 0.0
        raise _RefusedError(f"the server answers {status} {response.reason}", wait)
    length = response.headers.get("Content-Length")
    if length not in (None, str(file.size - start)):
        raise _RefusedError(f"the server offers {length} bytes, expected {file.size - start}")
    return start


def _explained(failure: Exception, file: RemoteFile, part: Path) -> InputError:
    path = part.with_name(file.name)
    remedy = f"start again, or save the file as {path} by other means and start again"
    if isinstance(failure, _RefusedError):
        return InputError(f"cannot fetch {file.url} ({failure}); wait and {remedy}")
    cause: BaseException = failure
    while deeper := cause.__cause__ or cause.__context__:  # requests' own messages are long
        cause = deeper
    reason = str(cause) or type(cause).__name__
    return UnreachableError(
        f"cannot reach {file.url} ({reason}); check the connection and {remedy}"
    )


def part_of(path: Path) -> Path:
    """Returns the path of a file while it is incomplete, unchecked or not to be kept."""
    return path.with_name(path.name + PART_SUFFIX)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
