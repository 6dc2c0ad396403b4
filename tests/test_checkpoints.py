"""Checkpoints: exact, atomic, and clear about what is not one."""

import errno
import json
import shutil
import subprocess
import sys
import time

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax import checkpoints
from avjax.checkpoints import ModelCard, RunCheckpoints, load_model, read_model, save_model
from avjax.errors import InputError


@flax.struct.dataclass
class Progress:
    state: dict
    sums: tuple


def progress(seed: int) -> Progress:
    """As in training: device arrays of several types, and host sums in float64."""
    key = jax.random.key(seed)
    state = {
        "step": jnp.asarray(seed, jnp.int32),
        "params": {"a": jax.random.normal(key, (3, 4)), "b": jnp.zeros((5,), jnp.bfloat16)},
        "opt_state": (jnp.ones((2,)) * seed, None),
    }
    rng = np.random.default_rng(seed)
    return Progress(state, (np.float64(rng.random()), np.asarray(1 / 3), rng.random((2, 2))))


def card(epoch: int = 1, kind: str = "audio_visual") -> ModelCard:
    network = {"kind": kind, "fusion": "ia", "num_heads": 1, "num_classes": 2}
    return ModelCard(
        network=network,
        classes=["calm", "sad"],
        profile="fixed",
        num_frames=15,
        image_size=224,
        audio_steps=156,
        epoch=epoch,
        metrics={"accuracy": 1 / 3},
        versions={"jax": "1"},
    )


def variables(value: float) -> dict:
    return {
        "params": {"layer": {"kernel": jnp.full((4, 2), value)}},
        "batch_stats": {"layer": {"mean": np.full(2, value, np.float32)}},
    }


def value_of(model: dict) -> float:
    return float(model["params"]["layer"]["kernel"][0, 0])


# ------------------------------------------------------------------------------------------ runs


def test_state_comes_back_exactly(tmp_path):
    saved = progress(3)
    with RunCheckpoints(tmp_path) as run:
        run.save(7, saved)
    with RunCheckpoints(tmp_path) as run:
        restored = run.restore(progress(0))
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    for got, want in zip(jax.tree.leaves(restored), jax.tree.leaves(saved), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.state))
    assert not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored.sums))


def test_state_takes_the_devices_of_what_it_is_restored_like(tmp_path):
    device = jax.devices()[-1]
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.arange(3.0)})
        restored = run.restore({"x": jax.device_put(jnp.zeros(3), device)})
    assert restored["x"].devices() == {device}


def test_run_without_checkpoint_restores_nothing(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        assert run.restore(progress(0)) is None


def test_only_the_newest_state_is_kept(tmp_path):
    with RunCheckpoints(tmp_path) as run:
        for step in (1, 2, 10):
            run.save(step, {"x": jnp.asarray(step)})
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 10
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["10"]


@pytest.mark.parametrize("again", [5, 3])
def test_saving_an_update_again_replaces_it(tmp_path, again):
    with RunCheckpoints(tmp_path) as run:
        run.save(5, {"x": jnp.asarray(1)})
    with RunCheckpoints(tmp_path) as run:
        run.save(again, {"x": jnp.asarray(2)})
    with RunCheckpoints(tmp_path) as run:
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 2


SAVE_FOREVER = """
import sys, itertools, jax.numpy as jnp
from pathlib import Path
from avjax.checkpoints import RunCheckpoints
with RunCheckpoints(Path(sys.argv[1])) as run:
    for step in itertools.count(1):
        run.save(step, {"x": jnp.full((1000, 1000), step, jnp.int32)})
        print(step, flush=True)
"""


def test_killed_while_saving_keeps_a_complete_state(tmp_path, root_dir):
    command = [sys.executable, "-c", SAVE_FOREVER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root_dir) as process:
        done = [int(process.stdout.readline()) for _ in range(3)]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:  # strike while a save is under way
            if any("tmp" in path.name for path in (tmp_path / "checkpoints").iterdir()):
                break
        process.kill()
        done += [int(line) for line in process.stdout]
    with RunCheckpoints(tmp_path) as run:
        restored = np.asarray(run.restore({"x": jnp.zeros((1000, 1000), jnp.int32)})["x"])
        assert restored.min() == restored.max() >= max(done)
        run.save(10**6, {"x": jnp.zeros((2,))})
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [str(10**6)]


def test_too_little_room_is_noticed_before_saving(tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": jnp.asarray(1)})
        usage = shutil.disk_usage(tmp_path)._replace(free=1000)
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda _: usage)
        with pytest.raises(InputError, match=r"no space left.*free space or choose another --work"):
            run.save(2, {"x": jnp.asarray(2)})
        assert int(run.restore({"x": jnp.asarray(0)})["x"]) == 1


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError("UNKNOWN: No space left on device [x]")]
)
def test_disk_that_fills_while_saving_is_an_input_error(tmp_path, monkeypatch, error):
    with RunCheckpoints(tmp_path) as run:

        def fail(*_, **__):
            raise error

        monkeypatch.setattr(run._manager, "save", fail)
        with pytest.raises(InputError, match="no space left"):
            run.save(2, {"x": jnp.asarray(2)})


def test_other_errors_of_saving_are_not_hidden(tmp_path, monkeypatch):
    with RunCheckpoints(tmp_path) as run:

        def fail(*_, **__):
            raise ValueError("a bug")

        monkeypatch.setattr(run._manager, "save", fail)
        with pytest.raises(ValueError, match="a bug"):
            run.save(2, {"x": jnp.asarray(2)})


# ---------------------------------------------------------------------------------------- models


def test_model_comes_back_with_its_card(tmp_path):
    save_model(tmp_path / "out", variables(2.5), card())
    model, read = load_model(tmp_path / "out")
    assert read == card()
    assert jax.tree.structure(model) == jax.tree.structure(variables(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    for got, want in zip(jax.tree.leaves(model), jax.tree.leaves(variables(2.5)), strict=True):
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)


def test_model_of_several_devices_loads_on_one(tmp_path):
    mesh = jax.sharding.Mesh(jax.devices(), "b")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    save_model(tmp_path, jax.device_put(variables(1.5), sharding), card())
    model, _ = load_model(tmp_path)
    assert value_of(model) == 1.5
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(model)} == {1}


def test_same_epoch_again_replaces_the_model(tmp_path):
    for value in (1.0, 2.0, 3.0):
        save_model(tmp_path / "best", variables(value), card(epoch=4))
    assert value_of(load_model(tmp_path)[0]) == 3.0
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_workdir_stands_for_its_best_epoch(tmp_path):
    checkpoints.check_config(tmp_path, {"seed": 1})
    save_model(tmp_path / "best", variables(2.0), card(epoch=9))
    assert load_model(str(tmp_path))[1].epoch == 9


def test_loading_leaves_the_directory_as_it_was(tmp_path):
    save_model(tmp_path, variables(1.0), card())
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()  # another process may be saving this
    before = sorted(tmp_path.rglob("*"))
    load_model(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_backbone_alone_is_read_but_not_loaded(tmp_path):
    save_model(tmp_path, variables(1.0), card(kind="efficientface"))
    assert read_model(tmp_path)[1].network["kind"] == "efficientface"
    with pytest.raises(InputError, match=r"backbone alone.*--config\.model\.pretrained"):
        load_model(tmp_path)


def test_nothing_is_printed(tmp_path, capfd):
    save_model(tmp_path, variables(1.0), card())
    load_model(tmp_path)
    with RunCheckpoints(tmp_path / "run") as run:
        run.save(1, progress(1))
        run.restore(progress(0))
    assert capfd.readouterr() == ("", "")


def test_missing_path(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["0", "notes.txt", "0/variables/_METADATA"])
def test_foreign_directory(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something else")
    with pytest.raises(InputError, match="holds no model that this version reads"):
        load_model(tmp_path)


def test_file_instead_of_directory(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is a file; name a"):
        load_model(path)


@pytest.mark.parametrize("interrupted", [False, True])
def test_run_without_best_epoch(tmp_path, interrupted):
    checkpoints.check_config(tmp_path, {"seed": 1})
    if interrupted:  # killed in the first save of a model
        (tmp_path / "best" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(InputError, match="no best epoch yet"):
        load_model(tmp_path)


def test_card_of_another_version(tmp_path):
    save_model(tmp_path, variables(1.0), card())
    path = tmp_path / "0" / "card" / "metadata"
    content = json.loads(path.read_text())
    del content["profile"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds no model that this version reads"):
        load_model(tmp_path)


# ---------------------------------------------------------------------------------------- config


CONFIG = {"seed": 1, "optimizer": {"milestones": (40, 55), "learning_rate": 0.04}}


def test_same_config_is_accepted(tmp_path):
    checkpoints.check_config(tmp_path / "run", CONFIG)
    checkpoints.check_config(tmp_path / "run", CONFIG)
    stored = checkpoints.read_config(tmp_path / "run")
    assert stored["optimizer"] == {"milestones": [40, 55], "learning_rate": 0.04}


def test_differing_keys_are_named_with_both_values(tmp_path):
    checkpoints.check_config(tmp_path, {**CONFIG, "mask": "noise"})
    other = {"seed": 2, "optimizer": {"milestones": (40,), "learning_rate": 0.04}, "new": None}
    with pytest.raises(InputError) as raised:
        checkpoints.check_config(tmp_path, other)
    message = str(raised.value)
    for part in (
        "mask was 'noise' and is absent",
        "new was absent and is None",
        "optimizer.milestones was [40, 55] and is [40]",
        "seed was 1 and is 2",
        "choose another --workdir",
    ):
        assert part in message
    assert "learning_rate" not in message
    assert checkpoints.read_config(tmp_path)["seed"] == 1


def test_config_of_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is not a run.*name a workdir"):
        checkpoints.read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json.*damaged"):
        checkpoints.read_config(tmp_path)


# ----------------------------------------------------------------------------------------- files


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    checkpoints.write_json_atomically(path, {"a": 1})
    with pytest.raises(TypeError):
        checkpoints.write_json_atomically(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_appended(tmp_path):
    for number in (1, 2):
        checkpoints.append_jsonl(tmp_path / "x.jsonl", {"n": number})
    assert (tmp_path / "x.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n'
