"""Files whose digests are right, but whose content makes no sense: another program wrote them."""

import dataclasses
import json

import numpy as np
import pytest
import soundfile

from avjax.compare import compare_runs
from avjax.config import RunConfig
from avjax.crossval import cross_validate
from avjax.data.digests import write_digests
from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from avjax.export import export_model
from avjax.models.networks import build_network
from avjax.preparation.settings import PreparationSettings
from avjax.preparation.shards import Shard
from avjax.prepare import prepare
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.evaluation_file import EVALUATION_FILE
from avjax.runs.pretrained import initial_variables
from avjax.runs.report import write_report
from avjax.runs.run_config import REPORT_FILE, write_config
from avjax.runs.saved_model import ModelCard, load_model, read_model, save_model
from avjax.runtime.files import write_json
from avjax.runtime.sealed import seal
from tests.sound_dataset import audio_config, write_sounds

# ----------------------------------------------------------------------------------------- models


def card(**changes):
    network = {"kind": "audio", "num_classes": 2}
    fields = {"network": network, "classes": ["low", "high"], "profile": "fixed"}
    sizes = {"num_frames": 0, "image_size": 64, "audio_steps": 44, "seconds": 1.0, "epoch": 1}
    return ModelCard(**{**fields, **sizes, "metrics": {"accuracy": 0.5}, **changes})


def save(directory, **changes):
    variables = {"params": {"w": np.ones(2, np.float32)}, "batch_stats": {}}
    save_model(directory, variables, card(**changes))
    return directory


@pytest.mark.parametrize(
    "changes",
    [
        {"network": 7},
        {"classes": ["low", 0.5]},
        {"classes": "low"},
        {"classes": ["low", "low"]},
        {"num_frames": "x"},
        {"num_frames": True},
        {"image_size": -1},
        {"num_frames": 100, "image_size": 2**31},
        {"audio_steps": 2**70},
        {"seconds": 0},
        {"seconds": "1"},
        {"metrics": {"accuracy": "x"}},
        {"metrics": [0.5]},
        {"versions": {"jax": None}},
    ],
)
def test_a_senseless_card_is_refused(tmp_path, changes):
    with pytest.raises(InputError, match=f"{tmp_path}.* is damaged or holds no model"):
        read_model(save(tmp_path, **changes))


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"kind": 7, "num_classes": 2},
        {"kind": ["audio"], "num_classes": 2},
        {"kind": "audio", "num_classes": "x"},
        {"kind": "audio", "num_classes": 3},
        {"kind": "audio"},
        {"kind": "log_mel", "num_mels": "x", "coefficients": [10], "num_classes": 2},
        {"kind": "log_mel", "num_mels": 64, "coefficients": {"x": 1}, "num_classes": 2},
        {"kind": "audio_visual", "fusion": "ia", "num_heads": None, "num_classes": 2},
        {"kind": "audio_visual", "fusion": ["ia"], "num_heads": 1, "num_classes": 2},
    ],
)
def test_a_card_of_no_network_is_refused_by_its_folder(tmp_path, network):
    with pytest.raises(InputError, match=str(tmp_path)):
        load_model(save(tmp_path, network=network))


def test_a_metric_that_was_not_finite_is_read_as_nan(tmp_path):
    _, loaded = load_model(save(tmp_path, metrics={"accuracy": 0.5, "loss": float("inf")}))
    assert loaded.metrics["accuracy"] == 0.5
    assert np.isnan(loaded.metrics["loss"])


def test_a_model_of_other_tensors_does_not_fit(tmp_path):
    net = build_network(card().network)
    with pytest.raises(InputError, match="does not fit the configured network"):
        initial_variables(net, 1, str(save(tmp_path)))


# ------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "lines",
    [
        7,
        [7],
        [{"epoch": 1}],
        [{"epoch": 1.5, "split": "train", "step": 1, "accuracy": 0.5}],
        [{"epoch": 1, "split": "train", "step": 1, "accuracy": None}],
        [{"epoch": 1, "split": "train", "step": 1, "accuracy": 0.5, "loss": [1]}],
    ],
)
def test_a_state_with_senseless_figures_is_damaged(tmp_path, lines):
    with RunCheckpoints(tmp_path) as run:
        run.save(1, {"x": np.arange(3.0)})
    path = tmp_path / "checkpoints" / "1" / "card" / "metadata"
    content = json.loads(path.read_bytes())
    path.write_text(json.dumps(seal({"arrays": content["arrays"], "metrics": lines})))
    with RunCheckpoints(tmp_path) as run, pytest.raises(InputError, match="1 is damaged"):
        run.restore({"x": np.zeros(3)})


@pytest.mark.parametrize("content", ["7", '{"init_timestamp_nsecs": "x"}', '{"metrics": 7}'])
def test_a_states_own_metadata_may_be_senseless(tmp_path, content):
    for step in (1, 2):
        with RunCheckpoints(tmp_path) as run:
            run.save(step, {"x": np.arange(3.0) + step})
    (tmp_path / "checkpoints" / "2" / "_CHECKPOINT_METADATA").write_text(content)
    with RunCheckpoints(tmp_path) as run:
        restored = run.restore({"x": np.zeros(3)})
    assert restored["x"][0] in (1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "x"},
        {"num_clips": 0},
        {"num_clips": [6]},
        {"conditions": 7},
        {"conditions": {}},
        {"conditions": {"audio_only/zeros": 7}},
        {"conditions": {"audio_only/zeros": {"accuracy": "x"}}},
        {"conditions": {"audio_only/zeros": {"accuracy": 1e308}}},
        {"actors": 7},
        {"actors": {"3": {"num_clips": 0, "accuracy": 0.5}}},
        {"actors": {"3": {"num_clips": 6}}},
    ],
)
def test_a_senseless_evaluation_is_refused(tmp_path, changes):
    config = RunConfig.from_tree(audio_config(tmp_path / "data"))
    folder = tmp_path / "runs" / "published-seed1"
    write_config(folder, config.with_fold("published", 1).to_tree())
    (folder / REPORT_FILE).touch()
    valid = {
        "epoch": 1,
        "num_clips": 6,
        "conditions": {"audio_only/zeros": {"accuracy": 0.5}},
        "actors": {"3": {"num_clips": 6, "accuracy": 0.5}},
    }
    write_json(folder / EVALUATION_FILE, valid)
    assert cross_validate(config, tmp_path / "runs", "published", [1])["conditions"]
    write_json(folder / EVALUATION_FILE, valid | changes)
    with pytest.raises(InputError, match=f"{folder}/evaluation.json is damaged"):
        cross_validate(config, tmp_path / "runs", "published", [1])


@pytest.mark.parametrize(
    "changes",
    [
        {"classes": []},
        {"classes": 7},
        {"conditions": {}},
        {"conditions": {"audio_only/zeros": {"accuracy": 0.5}}},
    ],
)
def test_a_senseless_evaluation_is_not_drawn(tmp_path, changes):
    write_config(tmp_path, {"name": "run"})
    scores = {"accuracy": 0.5, "macro_f1": 0.4, "loss": 1.0, "confusion": [[1, 2], [3, 4]]}
    valid = {"split": "test", "num_clips": 10, "classes": ["low", "high"]}
    valid["conditions"] = {"audio_only/zeros": scores}
    write_json(tmp_path / EVALUATION_FILE, valid | changes)
    with pytest.raises(InputError, match=str(tmp_path / EVALUATION_FILE)):
        write_report(tmp_path)


@pytest.mark.parametrize(
    "evaluation",
    [
        {},
        {"split": "test", "conditions": None},
        {"split": "test", "conditions": {"audio_only/zeros": {"num_clips": 6, "accuracy": "x"}}},
        {"conditions": {"audio_only/zeros": {"num_clips": 6, "accuracy": 0.5}}},
    ],
)
def test_a_senseless_evaluation_is_not_exported(tmp_path, evaluation):
    variables, card = load_model("voice")
    save_model(tmp_path / "model", variables, dataclasses.replace(card, about={}))
    write_json(tmp_path / "model" / EVALUATION_FILE, evaluation)
    with pytest.raises(InputError, match=r"model/evaluation\.json is damaged"):
        export_model(tmp_path / "model", tmp_path / "out", "safetensors")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("clips", [["a"], "a", {"a": None}, {"a": {"predicted": {}}}])
def test_a_senseless_evaluation_is_not_compared(tmp_path, clips):
    for name in ("a", "b"):
        write_config(tmp_path / name, {"name": name})
        write_json(tmp_path / name / EVALUATION_FILE, {"clips": clips})
    with pytest.raises(InputError, match=r"evaluation\.json is damaged"):
        compare_runs([tmp_path / "a", tmp_path / "b"], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


# --------------------------------------------------------------------------------------- datasets


def changed(value, key, new):
    """Returns a tree with another value at a path of keys, such as ("index", 0, 2)."""
    if not key:
        return new
    copy = value.copy()
    copy[key[0]] = changed(value[key[0]], key[1:], new)
    return copy


@pytest.mark.parametrize(
    ("key", "new"),
    [
        (["index"], 7),
        (["index", 0], "x"),
        (["index", 0, 0], None),
        (["index", 0, 2], 9),
        (["index", 0, 2], -1),
        (["index", 0, 3], "x"),
        (["classes"], "low"),
        (["classes"], ["low", 7]),
        (["profile"], None),
        (["num_frames"], 2**31),
        (["audio_steps"], 7),
        (["log_mels"], 2**40),
        (["seconds"], "x"),
        (["seconds"], -1),
        (["versions"], 7),
    ],
)
def test_senseless_metadata_of_a_dataset_are_refused(tmp_path, key, new):
    directory = write_sounds(tmp_path / "sounds", {1: 2, 2: 1})
    path = directory / "metadata.json"
    path.write_text(json.dumps(changed(json.loads(path.read_bytes()), key, new)))
    write_digests(directory)
    with pytest.raises(InputError, match=f"{directory} is damaged"):
        open_dataset(directory)


SETTINGS = PreparationSettings("fixed", 2, 64, False, 1.0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with sounds, a dataset of them, and a complete shard."""
    folder = tmp_path_factory.mktemp("prepared")
    source = folder / "source" / "Actor_01"
    source.mkdir(parents=True)
    for emotion in ("01", "02"):
        samples = np.random.default_rng(0).normal(0, 0.1, 22050)
        soundfile.write(source / f"03-01-{emotion}-01-01-01-01.wav", samples, 22050)
    for shard in (None, Shard(1, 1)):
        prepare(folder / "source", folder / "data", SETTINGS, shard=shard)
    return folder


@pytest.mark.parametrize(
    ("name", "key", "new"),
    [
        ("data/prepare.json", ["clips"], 7),
        ("data/prepare.json", ["skipped"], [1]),
        ("data/prepare.json", ["notes"], "x"),
        ("data/prepare.json", ["written"], "x"),
        ("data/prepare.json", ["settings", "num_frames"], "x"),
        ("data.shard-1-of-1/shard.json", ["summary"], 7),
        ("data.shard-1-of-1/shard.json", ["summary", "notes"], 7),
        ("data.shard-1-of-1/shard.json", ["summary", "skipped"], 7),
        ("data.shard-1-of-1/shard.json", ["found", 0], [7, 7]),
        ("data.shard-1-of-1/shard.json", ["shard"], ["1", 1]),
        ("data.shard-1-of-1/settings.json", ["classes"], 7),
        ("data.shard-1-of-1/settings.json", ["seconds"], "x"),
    ],
)
def test_senseless_reports_of_preparation_are_refused(prepared, name, key, new):
    path = prepared / name
    whole = path.read_bytes()
    content = changed(json.loads(whole), key, new)
    del content["digest"]
    path.write_text(json.dumps(seal(content)))
    shard = Shard(1, 1) if "shard" in name else None
    try:
        with pytest.raises(InputError, match=str(path.parent)):
            prepare(prepared / "source", prepared / "data", SETTINGS, shard=shard)
    finally:
        path.write_bytes(whole)


def test_what_was_prepared_is_complete_otherwise(prepared):
    for shard in (None, Shard(1, 1)):
        assert prepare(prepared / "source", prepared / "data", SETTINGS, shard=shard).written == 2
    assert len(open_dataset(prepared / "data").select("")) == 2
