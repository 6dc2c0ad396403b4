"""Saved models: variables and card; errors for anything that is not a model."""

import contextlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.runs.run_config import write_config
from avjax.runs.saved_model import ModelCard, load_model, read_model, save_model
from avjax.weights.safetensors_file import read_with_metadata, write_safetensors


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


@pytest.mark.parametrize("name", ["0", "notes.txt", "0/variables/_METADATA", "model.safetensors"])
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
        (tmp_path / "best").mkdir()
        (tmp_path / "best" / "model.safetensors.tmp").touch()
    with pytest.raises(InputError, match="no best epoch yet"):
        load_model(tmp_path)


def change_card(path, change):
    """Changes the stored card of a model, as if it were another version's."""
    arrays, metadata = read(path)
    content = json.loads(metadata["card"])
    change(content)
    with path.open("wb") as file:
        write_safetensors(file, arrays, {"card": json.dumps(content)})


def read(path):
    with path.open("rb") as file:
        return read_with_metadata(file, path.stat().st_size)


def test_card_of_another_version_is_refused(tmp_path):
    save_model(tmp_path, variables(1.0), card())

    def change(content):
        del content["profile"], content["digest"]

    change_card(tmp_path / "model.safetensors", change)
    with pytest.raises(InputError, match="holds no model that this version reads"):
        load_model(tmp_path)


@pytest.mark.parametrize("first", range(8))
def test_damaged_model_is_never_loaded_as_another(tmp_path, first):
    """Flips bits, of the header's and of the arrays' bytes, and cuts the file."""
    write_config(tmp_path, {"seed": 1})
    save_model(tmp_path / "best", variables(1.0), card())
    path = tmp_path / "best" / "model.safetensors"
    whole = path.read_bytes()
    places = range(first, len(whole), 8)
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << i % 7]) + whole[i + 1 :] for i in places]
    for content in [*flipped, *(whole[:i] for i in places)]:
        path.write_bytes(content)
        with contextlib.suppress(InputError):
            model, loaded_card = load_model(tmp_path)
            assert loaded_card == card()
            jax.tree.map(np.testing.assert_array_equal, model, variables(1.0))


def test_error_of_a_damaged_model_names_the_states_of_its_run(tmp_path):
    write_config(tmp_path, {"seed": 1})
    save_model(tmp_path / "best", variables(1.0), card())
    (tmp_path / "best" / "model.safetensors").write_text("{")
    (tmp_path / "checkpoints" / "12").mkdir(parents=True)
    with pytest.raises(
        InputError, match=r"best/model.safetensors is damaged.*states are in .*checkpoints/12"
    ):
        load_model(tmp_path)


def test_model_without_a_digest_is_told_to_be_unverified(tmp_path, capsys):
    save_model(tmp_path, variables(1.0), card())

    def change(content):
        for name in ("format", "digest", "arrays"):
            del content[name]

    change_card(tmp_path / "model.safetensors", change)
    assert load_model(tmp_path)[1] == card()
    assert "unverified" in capsys.readouterr().err


def test_model_that_is_not_finite_is_neither_saved_nor_loaded(tmp_path, monkeypatch):
    save_model(tmp_path, variables(1.0), card())
    with pytest.raises(InputError, match=r"not finite, in .* and 1 more; it is not saved"):
        save_model(tmp_path, variables(np.nan), card())
    assert value_of(load_model(tmp_path)[0]) == 1.0
    with monkeypatch.context() as patch:
        patch.setattr("avjax.runs.saved_model.refuse_bad_numbers", lambda *_: None)
        save_model(tmp_path, variables(np.inf), card())
    with pytest.raises(InputError, match=r"model.safetensors holds numbers .* not finite"):
        load_model(tmp_path)
