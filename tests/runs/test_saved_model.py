"""Saved models: variables and card; errors for anything that is not a model."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.runs.run_config import write_config
from avjax.runs.saved_model import ModelCard, load_model, read_model, save_model


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


def test_model_and_card_are_restored(tmp_path):
    save_model(tmp_path / "out", variables(2.5), card())
    model, loaded_card = load_model(tmp_path / "out")
    assert loaded_card == card()
    assert jax.tree.structure(model) == jax.tree.structure(variables(0))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(model))
    for a, b in zip(jax.tree.leaves(model), jax.tree.leaves(variables(2.5)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_model_of_several_devices_is_loaded_to_one(tmp_path):
    mesh = jax.sharding.Mesh(jax.devices(), "b")
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    save_model(tmp_path, jax.device_put(variables(1.5), sharding), card())
    model, _ = load_model(tmp_path)
    assert value_of(model) == 1.5
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(model)} == {1}


def test_saving_the_same_epoch_replaces_the_model(tmp_path):
    for value in (1.0, 2.0, 3.0):
        save_model(tmp_path / "best", variables(value), card(epoch=4))
    assert value_of(load_model(tmp_path)[0]) == 3.0
    assert len(list((tmp_path / "best").iterdir())) == 1


def test_workdir_loads_the_best_epoch(tmp_path):
    write_config(tmp_path, {"seed": 1})
    save_model(tmp_path / "best", variables(2.0), card(epoch=9))
    assert load_model(str(tmp_path))[1].epoch == 9


def test_loading_does_not_change_the_directory(tmp_path):
    save_model(tmp_path, variables(1.0), card())
    (tmp_path / "1.orbax-checkpoint-tmp").mkdir()  # as if another process were saving
    before = sorted(tmp_path.rglob("*"))
    load_model(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_backbone_can_be_read_but_not_loaded(tmp_path):
    save_model(tmp_path, variables(1.0), card(kind="efficientface"))
    assert read_model(tmp_path)[1].network["kind"] == "efficientface"
    with pytest.raises(InputError, match=r"backbone alone.*--config\.model\.pretrained"):
        load_model(tmp_path)


def test_saving_and_loading_print_nothing(tmp_path, capfd):
    save_model(tmp_path, variables(1.0), card())
    load_model(tmp_path)
    assert capfd.readouterr() == ("", "")


def test_missing_path_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"no checkpoint at .*nowhere"):
        load_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["0", "notes.txt", "0/variables/_METADATA"])
def test_directory_without_a_model_is_refused(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("something else")
    with pytest.raises(InputError, match="holds no model that this version reads"):
        load_model(tmp_path)


def test_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"is a file; name a"):
        load_model(path)


@pytest.mark.parametrize("interrupted", [False, True])
def test_run_without_best_epoch_is_refused(tmp_path, interrupted):
    write_config(tmp_path, {"seed": 1})
    if interrupted:  # killed while saving the first model
        (tmp_path / "best" / "0.orbax-checkpoint-tmp").mkdir(parents=True)
    with pytest.raises(InputError, match="no best epoch yet"):
        load_model(tmp_path)


def test_card_of_another_version_is_refused(tmp_path):
    save_model(tmp_path, variables(1.0), card())
    path = tmp_path / "0" / "card" / "metadata"
    content = json.loads(path.read_text())
    del content["profile"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds no model that this version reads"):
        load_model(tmp_path)
