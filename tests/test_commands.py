"""All commands: fast and complete --help, and Ctrl-C at any time."""

import importlib
import os
import pkgutil
import signal
import subprocess
import sys

import pytest

from avjax import commands

# Commands by name, with arguments that start a job.
ARGUMENTS = {
    "compare": ["RUN", "OTHER"],
    "crossval": ["--config=configs/audio_only.py", "--folds=five"],
    "download": ["--out=RAVDESS"],
    "evaluate": ["--workdir=RUN"],
    "export": ["RUN", "OUT"],
    "predict": ["--checkpoint=RUN", "clip.mp4"],
    "prepare": ["--source=RAVDESS", "--out=DATA"],
    "report": ["RUN"],
    "serve": ["--checkpoint=RUN"],
    "train": ["--config=configs/audio_only.py"],
}
HEAVY = {"jax", "flax", "optax", "orbax", "tensorflow_datasets", "grain", "librosa", "numba", "cv2"}


def test_every_command_is_tested():
    modules = {module.name for module in pkgutil.iter_modules(commands.__path__)}
    assert modules == {*ARGUMENTS, "config_flag"}
    assert sorted(commands.NAMES) == sorted(ARGUMENTS)


def test_help_imports_no_heavy_library(root_dir):
    code = (
        "import runpy, sys\n"
        f"for name in {list(ARGUMENTS)}:\n"
        "    sys.argv = [name, '--help']\n"
        "    try:\n"
        "        runpy.run_module(f'avjax.{name}', run_name='__main__')\n"
        "    except SystemExit as end:\n"
        "        assert end.code == 0\n"
        f"print({HEAVY!r} & set(sys.modules))\n"
    )
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=root_dir, check=True, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("name", ARGUMENTS)
def test_help_shows_every_flag(name, capsys):
    assert commands.run(name, [name, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"avjax {name} " in "\n".join(lines[:4])
    listed = {line.split(":")[0].strip() for line in lines if line.startswith("  --")}
    expected = {"--help"}
    if name in ("train", "crossval"):
        expected |= {"--config", "--workdir"}
        assert "--config.KEY=VALUE overrides a value" in " ".join(" ".join(lines).split())
    if name == "train":
        expected |= {"--distributed", "--coordinator", "--num_processes", "--process_id"}
    if name == "crossval":
        expected |= {"--folds", "--seeds", "--together"}
    assert expected <= listed
    assert max(map(len, lines)) <= 100


def test_help_of_a_config_with_changes_shows_the_same_flags(capsys):
    commands.run("train", ["train", "--help"])
    expected = capsys.readouterr().out
    change = ["--config=configs/audio_only.py", "--config.batch_size=4"]
    assert commands.run("train", ["train", *change, "--help"]) == 0
    assert capsys.readouterr().out == expected


def test_config_keys_may_have_dashes(tmp_path, capsys):
    changes = ["--config=configs/audio_only.py", "--config.batch-size=0"]
    assert commands.run("train", ["train", *changes, f"--workdir={tmp_path}"]) == 1
    assert "batch_size=0" in capsys.readouterr().err


@pytest.mark.parametrize("name", [*ARGUMENTS, "avjax train"])
def test_ctrl_c_during_imports_is_a_one_line_error(name, root_dir, tmp_path):
    module = name.split() if " " in name else [f"avjax.{name}"]
    for library in ("jax", "numpy", "requests"):  # each command imports one of them
        (tmp_path / f"{library}.py").write_text(
            "import time\nprint('loading', flush=True)\n"
            "try:\n    time.sleep(60)\nexcept BaseException:\n    pass\n"  # like some extensions
            "raise ImportError\n"
        )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", *module, *ARGUMENTS[name.split()[-1]]],
        cwd=root_dir,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, "error: interrupted\n")


def test_commands_that_resume_say_so():
    resume = {name: importlib.import_module(f"avjax.commands.{name}").RESUMES for name in ARGUMENTS}
    assert {name for name, value in resume.items() if value} == {
        "crossval",
        "download",
        "prepare",
        "train",
    }
