"""What commands set up on the machine."""

import os
import subprocess
import sys

import jax
import pytest

from avjax import machine

ONE_STEP = """
import resource, numpy
from avjax import machine
if {keep}: machine.keep_freed_memory()
numpy.ones(40_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    numpy.ones(40_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(keep):
    environment = {name: os.environ[name] for name in os.environ if name != "GLIBC_TUNABLES"}
    command = [sys.executable, "-c", ONE_STEP.format(keep=keep)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
def test_freed_memory_serves_the_next_step():
    assert page_faults(True) < 0.1 * page_faults(False)


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
