"""The machine that a program runs on: its cores, its memory, what was compiled on it before."""

import ctypes
import os
from pathlib import Path

import jax

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's malloc.h
_NEVER = (1 << 31) - 1


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next step instead of returning it to the system.

    On CPU a step's buffers are allocated anew each time. Taken from the system, every page of them
    is cleared on first touch, which costs up to a third of a step (docs/performance.md). Elsewhere
    than on glibc nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_MMAP_MAX, 0)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs on disk, for the next start of a command.

    They lie in ``$XDG_CACHE_HOME/avjax/jax`` (``~/.cache/avjax/jax``), or where the environment
    variable ``JAX_COMPILATION_CACHE_DIR`` says; an empty one keeps none.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    jax.config.update("jax_compilation_cache_dir", str(home / "avjax" / "jax"))


def set_up() -> None:
    """What the commands that compute with networks do first; several processes join before."""
    keep_compiled_programs()
    if jax.default_backend() == "cpu":
        keep_freed_memory()
