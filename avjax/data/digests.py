"""Digests of a dataset's metadata: ``metadata.sha256``, which ``sha256sum -c`` reads too.

The records need none: array_record checks its own blocks.
"""

import hashlib
from pathlib import Path

from avjax.errors import InputError
from avjax.runtime.files import write_text
from avjax.runtime.sealed import tell_unverified

DIGESTS_FILE = "metadata.sha256"
_FILES = ("dataset_info.json", "features.json", "metadata.json", "*.labels.txt")


def write_digests(directory: Path) -> None:
    """Writes the digests of a new dataset's metadata."""
    lines = [f"{_digest(path)}  {path.name}\n" for path in _metadata_files(directory)]
    write_text(directory / DIGESTS_FILE, "".join(lines))


def check_digests(directory: Path, remedy: str) -> None:
    """Checks the digests; tells if there are none, as in datasets of earlier versions.

    Raises:
      InputError: a file is missing or damaged.
    """
    path = directory / DIGESTS_FILE
    if not path.exists():
        tell_unverified(directory)
        return
    stored = {}
    for line in path.read_bytes().decode(errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        stored[name] = digest
    actual = {file.name: _digest(file) for file in _metadata_files(directory)}
    for name in sorted({*stored, *actual}):
        if stored.get(name) != actual.get(name):
            raise InputError(
                f"{directory / name} is missing, damaged or not in {path.name}; {remedy}"
            )


def _metadata_files(directory: Path) -> list[Path]:
    return sorted(path for pattern in _FILES for path in directory.glob(pattern))


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
