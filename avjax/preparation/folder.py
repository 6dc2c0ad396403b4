"""Lists the files below a folder: follows links, leaves out what operating systems put there."""

import os
import re
from pathlib import Path

from avjax.errors import InputError
from avjax.preparation.notes import counted

# What macOS, Windows, Linux desktops and NAS systems leave beside the files that people put there.
_LEFTOVER_FOLDERS = re.compile(
    r"__MACOSX|\.Trash.*|\$RECYCLE\.BIN|System Volume Information|@eaDir|#recycle",
    re.IGNORECASE,
)
_COPY = re.compile(r"\(\d+\)|\bcopy\b", re.IGNORECASE)


def files_below(root: Path, notes: list[str]) -> list[Path]:
    """Returns the files below ``root``, each once, also those behind links to files and folders.

    Resource forks (``._*``), trash and the like are left out. Folders that are not links come
    first, so a file is listed by its own path where it has one below ``root``.

    Args:
      root: the folder.
      notes: receives a line for what cannot be read.

    Raises:
      InputError: there is no such folder.
    """
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; name the folder that holds the clips")
    entries: set[tuple[int, int]] = set()  # of folders and files that were listed: device and inode
    files: list[Path] = []
    links: list[Path] = []
    pending = [root]  # links to folders are added while it is read

    def is_new(path: Path) -> bool:
        status = path.stat()
        entry = status.st_dev, status.st_ino
        new = entry not in entries
        entries.add(entry)
        return new

    def unreadable(error: OSError) -> None:
        notes.append(f"folder {error.filename} cannot be read: {error.strerror}")

    for start in pending:
        for place, folders, names in os.walk(start, onerror=unreadable):
            folder = Path(place)
            if not is_new(folder):
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not _LEFTOVER_FOLDERS.fullmatch(name))
            pending += [folder / name for name in folders if (folder / name).is_symlink()]
            for name in sorted(names):
                path = folder / name
                if name.startswith("._"):
                    continue
                if path.is_symlink():
                    links.append(path)
                elif path.is_file() and is_new(path):
                    files.append(path)
    broken = [path for path in links if not path.exists()]
    files += [path for path in links if path.is_file() and is_new(path)]
    if broken:
        nowhere = counted(len(broken), "link leads nowhere:", "links lead nowhere, such as")
        notes.append(f"{nowhere} {broken[0]}")
    return sorted(files)


def is_spare(path: Path, root: Path) -> tuple[bool, bool]:
    """Whether a file below ``root`` is hidden, and whether it is a copy such as ``x (1).mp4``.

    Sorts live files before others.
    """
    parts = path.relative_to(root).parts
    return any(part.startswith(".") for part in parts), any(map(_COPY.search, parts))
