"""Checkpoints of the training state: exact and atomic."""

import contextlib
import errno
import gc
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
from avjax.runs.checkpoints import RunCheckpoints, open_manager


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


def test_only_the_two_newest_states_are_kept(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2, 10):
            run.save(step, {"x": jnp.asarray(step)})
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 10
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"2", "10"}


@pytest.mark.parametrize("step", [5, 3])
def test_saving_the_same_or_an_earlier_step_replaces_the_checkpoint(tmp_path, step):
    with RunCheckpoints(tmp_path) as run:
        run.save(5, {"x": jnp.asarray(1)})
    with RunCheckpoints(tmp_path) as run:
        run.save(step, {"x": jnp.asarray(2)})
    with RunCheckpoints(tmp_path) as run:
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 2


def flip(folder):
    """Flips a bit in the middle of the largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def line(epoch):
    return {"epoch": epoch, "split": "train", "step": epoch, "accuracy": 0.5}


def test_damaged_state_is_told_and_the_one_before_restored(tmp_path, capsys):
    states = {step: {"x": jnp.arange(1000.0) + step} for step in (1, 2)}
    with RunCheckpoints(tmp_path) as run:
        for step, state in states.items():
            run.save(step, state, [line(step)])
    flip(tmp_path / "checkpoints" / "2" / "default")
    with RunCheckpoints(tmp_path) as run:
        restored = run.restore({"x": jnp.zeros(1000)})
        np.testing.assert_array_equal(restored["x"], states[1]["x"])
        assert run.lines == [line(1)]
        run.save(3, states[2])
    assert "checkpoints/2 is damaged" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"1", "3"}


def test_no_traceback_is_logged_for_a_damaged_state(tmp_path, caplog):
    """Several reads fail at once; Orbax raises the error of one."""
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, {name: jnp.arange(10.0) for name in "abcdef"})
    manifest = tmp_path / "checkpoints" / "2" / "default" / "manifest.ocdbt"
    manifest.write_bytes(manifest.read_bytes()[:10])
    with RunCheckpoints(tmp_path) as run:
        assert run.restore({name: jnp.zeros(10) for name in "abcdef"}) is not None
    gc.collect()
    assert not [record for record in caplog.records if record.name == "asyncio"]


def test_lost_arrays_of_a_state_are_not_guessed(tmp_path):
    """Orbax takes a lost block for zeros, and a lost file for nothing."""
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.arange(1000.0)})
    for path in sorted((tmp_path / "checkpoints" / "1").rglob("*")):
        if path.is_file() and path.name not in ("metadata", "commit_success.txt"):
            content = path.read_bytes()
            path.unlink()
            with RunCheckpoints(tmp_path) as run, contextlib.suppress(InputError):
                restored = run.restore({"x": jnp.zeros(1000)})
                np.testing.assert_array_equal(restored["x"], jnp.arange(1000.0))
            path.write_bytes(content)


def test_damage_to_all_states_is_refused(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2):
            run.save(step, {"x": jnp.arange(1000.0)})
    for step in ("1", "2"):
        flip(tmp_path / "checkpoints" / step / "default")
    with (
        RunCheckpoints(tmp_path) as run,
        pytest.raises(InputError, match=r"2 is damaged.*1 is damaged.*another --workdir"),
    ):
        run.restore({"x": jnp.zeros(1000)})


def test_state_of_an_earlier_version_is_told_to_be_unverified(tmp_path, capsys):
    with open_manager(tmp_path / "checkpoints", ocp.StandardCheckpointHandler()) as manager:
        manager.save(1, args=ocp.args.StandardSave({"x": jnp.arange(3.0)}))
    with RunCheckpoints(tmp_path) as run:
        assert run.restore({"x": jnp.zeros(3)})["x"].tolist() == [0, 1, 2]
        assert run.lines is None
    assert "checkpoints/1 is unverified" in capsys.readouterr().err


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
        for step in (10**6, 10**6 + 1):
            run.save(step, {"x": jnp.zeros((2,))})
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {str(10**6), str(10**6 + 1)}


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
