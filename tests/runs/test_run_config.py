"""A run's config on disk: the same to resume, differences named."""

import pytest

from avjax.errors import InputError
from avjax.runs.run_config import check_config, read_config

CONFIG = {"seed": 1, "optimizer": {"milestones": (40, 55), "learning_rate": 0.04}}


def test_same_config_is_accepted(tmp_path):
    check_config(tmp_path / "run", CONFIG)
    check_config(tmp_path / "run", CONFIG)
    stored = read_config(tmp_path / "run")
    assert stored["optimizer"] == {"milestones": [40, 55], "learning_rate": 0.04}


def test_differing_keys_are_named_with_both_values(tmp_path):
    check_config(tmp_path, {**CONFIG, "mask": "noise"})
    other = {"seed": 2, "optimizer": {"milestones": (40,), "learning_rate": 0.04}, "new": None}
    with pytest.raises(InputError) as raised:
        check_config(tmp_path, other)
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
    assert read_config(tmp_path)["seed"] == 1


def test_config_of_no_run(tmp_path):
    with pytest.raises(InputError, match=r"is not a run.*name a workdir"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json.*damaged"):
        read_config(tmp_path)
