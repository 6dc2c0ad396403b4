"""Compilation settings of commands."""

import os

import jax
import pytest

from avjax.runtime import compilation


@pytest.fixture
def cache_settings():
    """Restores JAX's cache settings after the test."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    settings = {name: getattr(jax.config, name) for name in names}
    yield settings
    for name, value in settings.items():
        jax.config.update(name, value)


def test_compilation_cache_has_a_default_directory(monkeypatch, tmp_path, cache_settings):
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == cache_settings["jax_compilation_cache_dir"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "avjax" / "jax")


@pytest.mark.usefixtures("cache_settings")
def test_all_programs_are_cached_unless_the_user_sets_a_minimum_time(monkeypatch):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    compilation.keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 3
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    compilation.keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_cores_are_counted():
    assert 1 <= compilation.available_cores() <= (os.cpu_count() or 1)
