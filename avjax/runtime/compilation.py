"""Compilation settings, the persistent compilation cache, and available cores."""

import os
from pathlib import Path
from typing import Any

import jax


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def keep_compiled_programs() -> None:
    """Enables JAX's persistent compilation cache.

    The cache is in ``$XDG_CACHE_HOME/avjax/jax`` (``~/.cache/avjax/jax``) or in
    ``$JAX_COMPILATION_CACHE_DIR``; if that is empty, the cache is disabled. JAX's default skips
    programs that compile within a second, but a run starts with dozens of them.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "avjax" / "jax"))


def quick_compilation() -> dict[str, Any] | None:
    """Returns `jax.jit` compiler options for a small program that runs once: no optimisation."""
    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
