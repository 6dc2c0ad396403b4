"""The files that predictions are written to: their names, and what must not be there."""

import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from avjax.errors import InputError
from avjax.runtime.files import explain_unwritable, temporary_name

_SUFFIXES = {
    "csv": (".csv", ".tsv"),
    "plot": (".png", ".svg", ".pdf", ".jpg"),
    "annotate": (".mp4",),
}


def check_suffix(flag: str, path: Path) -> None:
    """Raises InputError unless the suffix names a format that the flag writes."""
    if path.suffix.lower() not in _SUFFIXES[flag]:
        good = " or ".join(_SUFFIXES[flag])
        raise InputError(f"--{flag}={path} has another suffix than it writes; choose {good}")


def check_outputs(files: Sequence[Path], outputs: Mapping[str, Path]) -> None:
    """Checks all names that will be written, before any work.

    Args:
      files: the media files that will be read.
      outputs: by ``csv`` one table of all of them; by ``plot`` and ``annotate`` figure and video,
        for several files see `beside`.

    Raises:
      InputError: a suffix names no format of its flag, a name is that of a file to read, also
        through links, or nothing can be written there.
    """
    inputs = {_identity(file): file for file in files}
    for flag, out in outputs.items():
        check_suffix(flag, out)
        for name in [out] if flag == "csv" else beside(out, files).values():
            for written in (name, temporary_name(name)):
                if (file := inputs.get(_identity(written))) is not None:
                    raise InputError(
                        f"--{flag}={out} would overwrite {file}, which is read; name another file"
                    )
            _check_writable(flag, name)


def _identity(path: Path) -> tuple[int, int] | str:
    """Returns what two names of one file share; of a file that is absent, its path."""
    try:
        status = path.stat()
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _check_writable(flag: str, path: Path) -> None:
    with explain_unwritable(path, f"choose another --{flag}"):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with tempfile.TemporaryFile(dir=path.parent):
            pass


def beside(out: Path | None, files: Sequence[Path]) -> dict[Path, Path]:
    """Returns an output file for each of several files.

    One file has ``out`` itself. Each of several has its own beside it, whose name begins with that
    of ``out`` and ends with the file's: ``timeline.png`` becomes ``timeline-clip.png``, and where
    two files have one name ``timeline-clip-2.png``.
    """
    if out is None:
        return {}
    if len(files) == 1:
        return {files[0]: out}
    taken: set[str] = set()
    names: dict[Path, Path] = {}
    for file in files:
        name, number = f"{out.stem}-{file.stem}", 1
        while name in taken:
            number += 1
            name = f"{out.stem}-{file.stem}-{number}"
        taken.add(name)
        names[file] = out.with_name(name + out.suffix)
    return names
