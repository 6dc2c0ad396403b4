"""The flag ``--config``: by name or by path, and what config files import."""

import importlib
import re
import sys

import pytest
from absl import flags

from avjax.commands import config_flag
from configs import common

NAMES = (
    "audio_only, audio_only_strong, demo, ia_nodropout, ia_noise, ia_softhard, it_softhard, "
    "lt_softhard, video_only"
)


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Reads a config, away from the repository."""
    monkeypatch.chdir(tmp_path)

    def read(*arguments):
        importlib.invalidate_caches()  # files were written meanwhile
        values, argv = flags.FlagValues(), ["train", *arguments]
        config_flag.define(values, argv)
        values(argv)
        return config_flag.read(values)

    return read


def write(path, *lines, name="mine"):
    """Writes a config file that imports ``common``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    code = ["from configs import common", *lines]
    path.write_text("\n".join([*code, f"def get_config(): return common.get_config({name!r})\n"]))


def test_a_name_is_the_file_of_that_name(read, root_dir):
    by_path = read(f"--config={root_dir / 'configs' / 'lt_softhard.py'}")
    assert by_path["model"]["fusion"] == "lt"
    assert read("--config=lt_softhard") == by_path
    assert read("--config", "lt_softhard", "--config.seed=5") == {**by_path, "seed": 5}


def test_a_file_in_the_current_folder_needs_its_suffix_only_beside_a_name(read, tmp_path):
    write(tmp_path / "ia_softhard.py")
    assert read("--config=ia_softhard")["name"] == "ia_softhard"
    assert read("--config=ia_softhard.py")["name"] == "mine"
    (tmp_path / "ia_softhard.py").rename(tmp_path / "mine")
    assert read("--config=mine")["name"] == "mine"


def test_the_example_of_the_docs_starts_from_the_common_recipe(read, tmp_path, root_dir):
    text = (root_dir / "docs" / "training.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^```python\n# experiments/mine.py\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "mine.py").write_text(code)
    config = read("--config=mine.py")
    assert (config["name"], config["mask"], config["num_epochs"]) == ("mine", "noise", 100)


@pytest.mark.parametrize("name", ["ia_softhart", "common", "configs/nothing.py", "folder"])
def test_unknown_names_list_the_known_ones(read, tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(flags.Error, match=f"file {name} cannot be read .*names {NAMES}"):
        read(f"--config={name}", "--config.seed=1")


def test_help_of_the_flag_lists_the_names(root_dir):
    values = flags.FlagValues()
    config_flag.define(values, ["train"])
    assert NAMES in values["config"].help
    assert str(root_dir / "configs") in values["config"].help


def test_files_import_those_beside_them_then_those_of_the_current_folder(read, tmp_path):
    write(tmp_path / "elsewhere" / "mine.py")
    assert read("--config=elsewhere/mine.py")["batch_size"] == 8  # those that avjax carries
    other = (
        "from ml_collections import ConfigDict\n"
        "def get_config(name): return ConfigDict({'name': name + '%s'})\n"
    )
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "common.py").write_text(other % " here")
    assert read("--config=elsewhere/mine.py") == {"name": "mine here"}
    assert read("--config=ia_softhard")["batch_size"] == 8  # its neighbours come first
    (tmp_path / "elsewhere" / "common.py").write_text(other % " there")
    assert read("--config=elsewhere/mine.py") == {"name": "mine there"}


def test_an_installed_package_named_configs_is_not_taken(read, tmp_path, monkeypatch):
    (tmp_path / "site" / "configs").mkdir(parents=True)
    (tmp_path / "site" / "configs" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert read("--config=ia_softhard")["name"] == "ia_softhard"


def test_modules_of_the_process_stay(read):
    read("--config=ia_softhard")
    assert sys.modules["configs.common"] is common
