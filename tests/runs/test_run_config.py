"""The config of a run on disk."""

import pytest

from avjax.errors import InputError
from avjax.runs.run_config import flatten, read_config, write_config


def test_config_is_read_back_from_json(tmp_path):
    write_config(tmp_path / "run", {"seed": 1, "optimizer": {"milestones": (40, 55)}})
    stored = read_config(tmp_path / "run")
    assert stored == {"seed": 1, "optimizer": {"milestones": [40, 55]}}
    assert flatten(stored) == {"seed": 1, "optimizer.milestones": [40, 55]}


def test_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"is not a run.*name a workdir"):
        read_config(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_config_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json.*damaged"):
        read_config(tmp_path)
