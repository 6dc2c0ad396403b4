"""The machine that a program runs on: its cores, and what was compiled on it before."""

import os
from pathlib import Path
from typing import Any

import jax


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_compiled_programs() -> None:
    """Makes JAX keep compiled programs on disk, for the next start of a command.

    They lie in ``$XDG_CACHE_HOME/avjax/jax`` (``~/.cache/avjax/jax``), or where the environment
    variable ``JAX_COMPILATION_CACHE_DIR`` says; an empty one keeps none. JAX itself would leave out
    programs that compile within a second: the dozens behind a run's start take seconds together.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "avjax" / "jax"))


def quick_compilation() -> dict[str, Any] | None:
    """Options of `jax.jit` for a small program that runs once: to optimize it would take longer."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
