"""What commands set up on the machine."""

import os

import jax

from avjax import machine


def test_the_cache_of_programs_has_a_place_that_the_user_may_choose(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    try:
        machine.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == before  # the tests' own
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        machine.keep_compiled_programs()
        assert jax.config.jax_compilation_cache_dir == str(tmp_path / "avjax" / "jax")
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_cores_are_counted():
    assert 1 <= machine.available_cores() <= (os.cpu_count() or 1)
