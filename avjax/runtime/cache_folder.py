"""A folder for caches where the user's home cannot be written."""

import atexit
import os
import shutil
import warnings
from pathlib import Path


def ensure_cache_folder() -> None:
    """Points caches to a temporary folder if there is no writable home.

    Numba, which librosa uses, would refuse to be imported, and JAX and Matplotlib would warn. All
    heed ``$XDG_CACHE_HOME``; Matplotlib also ``$MPLCONFIGDIR``, for its settings. Does nothing if
    ``$XDG_CACHE_HOME`` or ``~/.cache`` can be written. The folder is removed when the process ends.
    """
    if _can_write_caches():
        return
    import tempfile  # takes time, and is seldom needed

    try:
        folder = tempfile.mkdtemp(prefix="avjax-")
    except OSError:  # nothing can be written anywhere; some library will say so
        return
    os.environ["XDG_CACHE_HOME"] = folder
    os.environ.setdefault("MPLCONFIGDIR", folder)
    atexit.register(_remove, folder, os.getpid())
    warnings.warn(
        f"there is no home to keep caches in, so they go to {folder} and are lost at the end; set "
        "XDG_CACHE_HOME to a folder that can be written",
        stacklevel=3,
    )


def _can_write_caches() -> bool:
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        existing = next(path for path in (folder, *folder.parents) if path.exists())
    except (RuntimeError, OSError, StopIteration):  # a user without a home, or one out of reach
        return False
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # not in a process forked from it
        shutil.rmtree(folder, ignore_errors=True)
