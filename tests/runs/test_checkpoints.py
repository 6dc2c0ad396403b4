"""Checkpoints of the training state: exact and atomic."""

import errno
import shutil
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from avjax.errors import InputError
from avjax.runs.checkpoints import RunCheckpoints


@flax.struct.dataclass
class Progress:
    state: dict
    sums: tuple


def progress(seed: int) -> Progress:
    """Returns a state as in training: device arrays of several dtypes, and float64 host sums."""
    key = jax.random.key(seed)
    state = {
        "step": jnp.asarray(seed, jnp.int32),
        "params": {"a": jax.random.normal(key, (3, 4)), "b": jnp.zeros((5,), jnp.bfloat16)},
        "opt_state": (jnp.ones((2,)) * seed, None),
    }
    rng = np.random.default_rng(seed)
    return Progress(state, (np.float64(rng.random()), np.asarray(1 / 3), rng.random((2, 2))))


def test_state_is_restored_exactly(tmp_path):
    saved = progress(3)
    with RunCheckpoints(tmp_path) as run:
        run.save(7, saved)
    with RunCheckpoints(tmp_path) as run:
        restored = run.restore(progress(0))
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for actual, expected in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert actual.dtype == expected.dtype
        np.testing.assert_array_equal(actual, expected)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.state))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.sums))


def test_state_is_restored_to_the_devices_of_the_target(tmp_path):
    device = jax.devices()[-1]
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.arange(3.0)})
        restored = run.restore({"x": jax.device_put(jnp.zeros(3), device)})
    assert restored["x"].devices() == {device}


def test_run_without_checkpoint_restores_none(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        assert run.restore(progress(0)) is None


def test_only_the_newest_state_is_kept(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2, 10):
            run.save(step, {"x": jnp.asarray(step)})
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 10
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]


@pytest.mark.parametrize("step", [5, 3])
def test_saving_the_same_or_an_earlier_step_replaces_the_checkpoint(tmp_path, step):
    with RunCheckpoints(tmp_path) as run:
        run.save(5, {"x": jnp.asarray(1)})
    with RunCheckpoints(tmp_path) as run:
        run.save(step, {"x": jnp.asarray(2)})
    with RunCheckpoints(tmp_path) as run:
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 2


SAVE_FOREVER = """
import sys, itertools, jax.numpy as jnp
from pathlib import Path
from avjax.runs.checkpoints import RunCheckpoints
with RunCheckpoints(Path(sys.argv[1])) as run:
    for step in itertools.count(1):
        run.save(step, {"x": jnp.full((1000, 1000), step, jnp.int32)})
        print(step, flush=True)
"""


def test_kill_while_saving_keeps_a_complete_state(tmp_path, root_dir):
    command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root_dir) as process:
        saved = [int(process.stdout.readline()) for _ in range(3)]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # kill during a save
            if any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir()):
                break
        process.kill()
        saved += [int(line) for line in process.stdout]
    with RunCheckpoints(tmp_path) as run:
        restored = np.asarray(run.restore({"x": jnp.zeros((1000, 1000), jnp.int32)})["x"])
        assert restored.min() == restored.max() >= max(saved)
        run.save(10**6, {"x": jnp.zeros((2,))})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(10**6)]


def test_full_disk_is_detected_before_saving(tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.asarray(1)})
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
        with pytest.raises(InputError, match=r"no space left.*free space or choose another --work"):
            run.save(2, {"x": jnp.asarray(2)})
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError("UNKNOWN: No space left on device [x]")]
)
def test_disk_that_fills_up_while_saving_is_an_input_error(tmp_path, monkeypatch, error):
    with RunCheckpoints(tmp_path) as run:

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
        with pytest.raises(InputError, match="no space left"):
            run.save(2, {"x": jnp.asarray(2)})


def test_other_errors_while_saving_are_not_hidden(tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path) as run:

        def fail(*_, **__):
            raise ValueError("a bug")

        monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
        with pytest.raises(ValueError, match="a bug"):
            run.save(2, {"x": jnp.asarray(2)})


def test_saving_and_restoring_print_nothing(tmp_path, capfd):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, progress(1))
        run.restore(progress(0))
    assert capfd.readouterr() == ("", "")
