"""Fetching a file over HTTP: resumed where it was cut, checked against its length and md5."""

import hashlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from typing import NamedTuple

import requests

from avjax.errors import InputError

PART_SUFFIX = ".part"  # of a file that is not yet complete or not yet checked
# Zenodo asks clients to say who they are, and slows down those that say "python-requests".
_HEADERS = {"User-Agent": "avjax", "Accept-Encoding": "identity"}
_CHUNK = 1 << 16  # bytes; what a cut may cost
_LONGEST_WAIT = 300.0  # seconds, whatever a server asks for


class RemoteFile(NamedTuple):
    """A file to fetch: its name here, where it is, its length in bytes, its md5 in hex."""

    name: str
    url: str
    size: int
    md5: str


class Patience(NamedTuple):
    """How long a transfer is tried.

    Attributes:
      attempts: in a row that bring no new bytes, before giving up.
      pause: seconds before the second attempt; doubled before each further one.
      timeout: seconds without a byte after which a connection counts as lost.
    """

    attempts: int = 5
    pause: float = 1.0
    timeout: float = 30.0


PATIENCE = Patience()


class UnreachableError(InputError):
    """The server cannot be reached, or every connection to it is lost."""


class _RefusedError(Exception):
    """An answer that is of no use; ``wait`` is how many seconds the server asks to be spared."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def bytes_held(file: RemoteFile, directory: Path) -> int:
    """How much of a file earlier transfers brought."""
    path = directory / file.name
    held = _length(path) or _length(_part(path))
    return held if held <= file.size else 0


def fetch(
    file: RemoteFile,
    directory: Path,
    *,
    stopping: threading.Event,
    progress: Callable[[int], None],
    patience: Patience,
) -> Path:
    """Brings a file into a directory, or what is missing of it, and checks its md5.

    A file with the wrong md5, be it found there or brought now, is removed and fetched once more.

    Args:
      file: what to fetch.
      directory: exists; ``<name>.part`` in it is the unfinished file, and stays when this fails.
      stopping: when set, the transfer ends at once.
      progress: told how many bytes came in addition to `bytes_held`; negative for bytes that were
        thrown away.
      patience: how long to try.

    Returns:
      The path of the whole file.

    Raises:
      CancelledError: ``stopping`` was set.
      UnreachableError: no connection, or none that lasts.
      InputError: the server refuses, or sends other bytes.
    """
    path = directory / file.name
    part = _part(path)
    if path.exists():
        path.replace(part)  # to be checked like any other
    if _length(part) > file.size:
        part.unlink()
    for _ in range(2):
        _complete(file, part, stopping, progress, patience)
        found = _md5(part)
        if found == file.md5:
            part.replace(path)
            return path
        part.unlink()
        progress(-file.size)
    raise InputError(
        f"{file.name} came twice with wrong bytes: its md5 is {found}, expected {file.md5}; start "
        f"again later, or save {file.url} as {path} by other means and start again"
    )


def _complete(
    file: RemoteFile,
    part: Path,
    stopping: threading.Event,
    progress: Callable[[int], None],
    patience: Patience,
) -> None:
    """Asks for the rest of a file until it is all there."""
    furthest, failures = _length(part), 0
    while (held := _length(part)) < file.size:
        if stopping.is_set():
            raise CancelledError
        problem: requests.RequestException | _RefusedError
        try:
            _append(file, part, held, stopping, progress, patience.timeout)
            continue
        except (requests.RequestException, _RefusedError) as error:
            problem = error
        reached = _length(part)
        failures = 1 if reached > furthest else failures + 1
        furthest = max(furthest, reached)
        if failures >= patience.attempts:
            raise _given_up(file, part, problem) from problem
        wait = problem.wait if isinstance(problem, _RefusedError) else 0.0
        stopping.wait(max(wait, patience.pause * 2 ** (failures - 1)))


def _append(
    file: RemoteFile,
    part: Path,
    held: int,
    stopping: threading.Event,
    progress: Callable[[int], None],
    timeout: float,
) -> None:
    """Makes one request for what follows the first ``held`` bytes, and writes it down.

    Raises:
      requests.RequestException: no connection, or one that was cut.
      _RefusedError: an answer other than the bytes asked for.
    """
    headers = _HEADERS | ({"Range": f"bytes={held}-"} if held else {})
    with (
        requests.Session() as session,
        session.get(file.url, headers=headers, stream=True, timeout=timeout) as response,
    ):
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink(missing_ok=True)  # what is there cannot be a beginning of that file
            progress(-held)
        start = _start(response, file, held)
        progress(start - held)
        with part.open("ab" if start else "wb") as target:
            for chunk in response.iter_content(_CHUNK):
                chunk = chunk[: file.size - start]
                target.write(chunk)
                start += len(chunk)
                progress(len(chunk))
                if stopping.is_set():
                    raise CancelledError
            target.flush()
            os.fsync(target.fileno())
    if start < file.size:
        raise _RefusedError(f"the server ended after {start} of {file.size} bytes")


def _start(response: requests.Response, file: RemoteFile, held: int) -> int:
    """The position in the file at which an answer begins: after what is held, or at 0."""
    status = response.status_code
    if status == requests.codes.partial_content:
        given = response.headers.get("Content-Range", "")
        if not given.startswith(f"bytes {held}-"):
            raise _RefusedError(f"the server sent {given or 'a part'} instead of bytes {held}-")
        start = held
    elif status == requests.codes.ok:
        start = 0
    else:
        wait = response.headers.get("Retry-After", "")
        seconds = min(float(wait), _LONGEST_WAIT) if wait.isdecimal() else 0.0
        raise _RefusedError(f"the server answers {status} {response.reason}", seconds)
    offered = response.headers.get("Content-Length")
    if offered not in (None, str(file.size - start)):
        raise _RefusedError(f"the server offers {offered} bytes, expected {file.size - start}")
    return start


def _given_up(file: RemoteFile, part: Path, problem: Exception) -> InputError:
    path = part.with_name(file.name)
    remedy = f"start again, or save the file as {path} by other means and start again"
    if isinstance(problem, _RefusedError):
        return InputError(f"cannot fetch {file.url} ({problem}); wait and {remedy}")
    cause: BaseException = problem
    while deeper := cause.__cause__ or cause.__context__:  # requests' own words are long
        cause = deeper
    reason = str(cause) or type(cause).__name__
    return UnreachableError(
        f"cannot reach {file.url} ({reason}); check the connection and {remedy}"
    )


def _part(path: Path) -> Path:
    return path.with_name(path.name + PART_SUFFIX)


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
