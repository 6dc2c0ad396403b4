"""Config files and saved configs become checked, frozen dataclasses."""

import dataclasses
import importlib
import json
from pathlib import Path

import pytest

from avjax.config import RunConfig, check_resumable, run_config
from avjax.errors import InputError
from avjax.runs.run_config import flatten
from configs import common

NAMES = sorted(path.stem for path in Path(common.__file__).parent.glob("*.py"))
NAMES.remove("common")


def load_config(name="ia_softhard"):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_every_config_file_is_valid_and_restored_from_json(name, tmp_path):
    config = RunConfig.from_tree(load_config(name))
    assert config.name == name
    check_resumable(config, tmp_path)
    assert run_config(tmp_path) == config
    check_resumable(config, tmp_path)


def test_default_name_says_fusion_and_mask(tmp_path):
    """Also of overrides; the name does not make another run."""
    config = load_config()
    check_resumable(RunConfig.from_tree(config), tmp_path)
    config.model.fusion, config.mask = "it", "noise"
    assert RunConfig.from_tree(config).name == "it_noise"
    config.name = "mine"
    assert RunConfig.from_tree(config).name == "mine"
    renamed = load_config()
    renamed.name = "mine"
    check_resumable(RunConfig.from_tree(renamed), tmp_path)
    assert common.get_config(kind="audio").name == "audio"


@pytest.mark.parametrize("name", NAMES)
def test_config_files_contain_every_key(name):
    """No value is hidden from a reader of the file."""
    keys = flatten(RunConfig.from_tree(load_config(name)).to_tree()).keys()
    assert sorted(keys) == sorted(flatten(load_config(name)))


def test_config_is_frozen_with_changed_values():
    config = load_config()
    config.data.fold, config.optimizer.learning_rate = "five/3", 1
    config.optimizer.milestones = (2, 3)
    frozen = RunConfig.from_tree(config)
    assert frozen.data.fold == "five/3"
    assert frozen.optimizer.learning_rate == 1.0
    assert frozen.optimizer.milestones == (2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        frozen.name = "other"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch_size", 0, r"config\.batch_size=0; choose 1 or more"),
        ("batch_size", -4, r"config\.batch_size=-4; choose 1 or more"),
        ("batch_size", 2.5, r"config\.batch_size=2\.5 is not an integer"),
        ("seed", -1, r"config\.seed=-1; choose 0 or more"),
        ("num_epochs", 0, r"config\.num_epochs=0; choose 1 or more"),
        ("steps_per_call", -1, r"config\.steps_per_call=-1; choose 0 or more"),
        ("checkpoint_minutes", -1.0, r"checkpoint_minutes=-1\.0; choose 0 or more"),
        ("checkpoint_minutes", float("nan"), r"checkpoint_minutes=nan; choose 0 or more"),
        ("deduplicate", 1, r"config\.deduplicate=1 is not a boolean"),
        (
            "augment",
            "flip,blur",
            r"unknown augmentation 'flip' in config\.augment; choose from flip_",
        ),
        ("mask", "softhrd", r"unknown config\.mask 'softhrd'; choose one of softhard"),
        ("dtype", "float16", r"unknown config\.dtype 'float16'; choose one of float32, bfloat16"),
        ("parallel", "pjit", r"unknown config\.parallel 'pjit'; choose one of jit, pmap"),
        ("model.kind", "rnn", "unknown network kind 'rnn'; choose one of audio_visual"),
        ("model.fusion", "la", "unknown fusion 'la'; choose one of ia, it, lt"),
        ("model.num_heads", 3, "num_heads=3 does not divide"),
        ("data.fold", "publishd", "unknown fold 'publishd'"),
        ("data.cache", "gpu", r"unknown config\.data\.cache 'gpu'; choose one of auto"),
        ("optimizer.name", "adam", "unknown optimizer 'adam'; choose one of sgd, adamw"),
        ("optimizer.learning_rate", -0.1, r"learning_rate=-0\.1; choose 0 or more"),
        ("optimizer.learning_rate", float("inf"), "learning_rate=inf; choose 0 or more"),
        ("optimizer.learning_rate", "fast", "learning_rate='fast' is not a number"),
        ("optimizer.momentum", 2.0, r"momentum=2\.0; choose a share from 0 to 1"),
        ("optimizer.weight_decay", -1.0, r"weight_decay=-1\.0; choose 0 or more"),
        ("optimizer.milestones", (0, 4), "epochs count from 1"),
        ("optimizer.milestones", (0.5,), "is not a tuple of integers"),
        ("optimizer.warmup_epochs", -1, "warmup_epochs=-1; choose 0 or more"),
        ("sound_augment.warp", -1.0, r"sound_augment\.warp=-1\.0; choose 0 or more"),
        ("sound_augment.warp", 0.1, "reads none; set its values to 0"),
        ("label_smoothing", 2.0, r"config\.label_smoothing is no longer supported; set it to 0"),
        ("learning_rat", 1, "unknown config key learning_rat; the keys are .*learning_rate"),
    ],
)
def test_bad_value_is_refused_with_a_remedy(key, value, message):
    tree = load_config().to_dict()
    *path, name = key.split(".")
    node = tree
    for part in path:
        node = node[part]
    node[name] = value
    with pytest.raises(InputError, match=message):
        RunConfig.from_tree(tree)


def test_many_unknown_keys_are_counted():
    with pytest.raises(
        InputError, match=r"unknown config key x100 and x101 .* and 280 more;"
    ) as error:
        RunConfig.from_tree({f"x{n}": n for n in range(100, 400)})
    assert len(str(error.value)) < 2000


@pytest.mark.parametrize(("old", "name"), [(True, "flip_rotate"), (False, "")])
def test_augment_may_be_true_or_false_as_before(old, name):
    assert RunConfig.from_tree({"augment": old}).step.augment == name


@pytest.mark.parametrize("name", ["audio_only", "video_only"])
def test_mask_that_removes_the_only_stream_is_refused(name):
    config = load_config(name)
    config.mask = "softhard"
    with pytest.raises(InputError, match="mask 'softhard' takes away the only stream"):
        RunConfig.from_tree(config)


def test_differing_keys_are_named_with_both_values(tmp_path):
    config = RunConfig.from_tree(load_config())
    check_resumable(config, tmp_path)
    before = (tmp_path / "config.json").read_text()
    changed = config.with_fold("five/0", seed=7)
    with pytest.raises(InputError) as error:
        check_resumable(changed, tmp_path)
    message = str(error.value)
    for part in (
        "data.fold was 'published' and is 'five/0'",
        "seed was 1 and is 7",
        "choose another --workdir",
    ):
        assert part in message
    assert "learning_rate" not in message
    assert (tmp_path / "config.json").read_text() == before


def test_older_config_is_resumable(tmp_path):
    """Missing new keys count at their defaults; removed keys had values without effect."""
    config = RunConfig.from_tree(load_config())
    tree = config.to_tree()
    del tree["data"]["cache"], tree["steps_per_call"]
    tree["label_smoothing"] = 0.0
    tree["sound_augment"] |= {"stretch": 0.0, "gain": 0, "mixup": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(tree))
    check_resumable(config, tmp_path)
    changed = dataclasses.replace(config, loop=dataclasses.replace(config.loop, steps_per_call=3))
    with pytest.raises(InputError, match="steps_per_call was 0 and is 3"):
        check_resumable(changed, tmp_path)


def test_unusable_saved_config_is_refused_by_file_name(tmp_path):
    (tmp_path / "config.json").write_text('{"label_smoothing": 0.1}')
    with pytest.raises(InputError, match=r"config\.json: config\.label_smoothing is no longer"):
        run_config(tmp_path)
