"""What commands set up on the compilation."""

import os

import jax
import pytest

from avjax.runtime import compilation


@pytest.fixture
def cache_settings():
    """Puts JAX's settings back that a test lets commands change."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_cache_of_programs_has_a_place_that_the_user_may_choose(
    monkeypatch, tmp_path, cache_settings
):
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == cache_settings["jax_compilation_cache_dir"]
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.keep_compiled_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "avjax" / "jax")


@pytest.mark.usefixtures("cache_settings")
def test_programs_that_compile_fast_are_kept_too_unless_the_user_says_when(monkeypatch):
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 3.0)
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "3")
    compilation.keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 3
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS")
    compilation.keep_compiled_programs()
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


def test_cores_are_counted():
    assert 1 <= compilation.available_cores() <= (os.cpu_count() or 1)
