"""Where state_dicts lie in checkpoints, and what their names are wrapped in."""

import numpy as np
import pytest

from avjax.weights.plain_pickle import Foreign
from avjax.weights.state_dicts import find_state_dicts

X = np.ones(3, np.float32)


def names(tree):
    return [list(state_dict.tensors) for state_dict in find_state_dicts(tree)]


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "module.module.",
        "_orig_mod.",
        "model.",
        "net.",
        "model.module._orig_mod.net.",
    ],
)
@pytest.mark.parametrize("key", ["", "state_dict", "model_state_dict", "model", "params"])
def test_wrappings_are_taken_off(prefix, key):
    tree = {f"{prefix}stage2.0.w": X, f"{prefix}modulator.w": X}
    assert names({"epoch": 3, key: tree} if key else tree) == [["stage2.0.w", "modulator.w"]]


def test_prefixes_inside_a_name_are_taken_off():
    assert names({"visual._orig_mod.w": X, "audio.module.w": X}) == [["visual.w", "audio.w"]]


@pytest.mark.parametrize("average", ["state_dict_ema", "model_ema", "ema", "swa_state", "shadow"])
@pytest.mark.parametrize("plain", ["state_dict", "model", "generator"])
def test_running_averages_come_last(average, plain):
    tree = {average: {"module": {"w": X}, "decay": 0.9}, "best": {"w": X}, plain: {"w": X}}
    keys = [state_dict.key for state_dict in find_state_dicts(tree)]
    usual = [plain, "best"] if plain != "generator" else ["best", plain]
    assert keys == [*usual, f"{average}.module"]


def test_a_mapping_that_contains_itself_is_found_once():
    tree = {"w": X}
    tree["model"] = tree["again"] = tree
    assert names(tree) == [["w"]]


def test_what_is_left_out_has_a_reason():
    tree = {"model.w": X, "model.total_ops": X, "model.a.total_params": X, "loss.w": X, "lr": 0.1}
    tree["recorder"] = Foreign("__main__.Recorder")
    (state_dict,) = find_state_dicts(tree)
    assert list(state_dict.tensors) == ["w", "loss.w"]
    assert state_dict.unwrapped == {"loss.w"}
    counts = "thop's counts of operations"
    assert state_dict.left_out == {
        "total_ops": counts,
        "a.total_params": counts,
        "lr": "not a tensor",
        "recorder": "not a tensor",
    }


def test_names_that_differ_in_prefixes_alone_are_told():
    (state_dict,) = find_state_dicts({"a.b": X, "module.a.b": X})
    assert state_dict.twice == ["module.a.b"]
