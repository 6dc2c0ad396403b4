"""The same seed on the same device gives the same bits, whatever does not belong to the result."""

import json
import os
import subprocess
import sys

import pytest

from avjax.export import export_model
from avjax.preparation.settings import PreparationSettings
from avjax.prepare import prepare
from avjax.runs.checkpoints import read_card
from tests.clips import WholeFrame, frame, read_files, tone, write_sound, write_video
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, train_run

SETTINGS = PreparationSettings("fixed", 2, 64, pair_video_only=False, seconds=1.0)
EVALUATION = "evaluation.json"


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Eight steps per epoch."""
    counts = {1: 16, 11: 6, 5: 6, 10: 6}
    return write_sounds(tmp_path_factory.mktemp("sounds"), counts)


def trained(sounds, workdir, **changes):
    """Trains a run; returns its folder."""
    config = audio_config(sounds)
    config.update_from_flattened_dict({"batch_size": 2, "num_epochs": 2, **changes})
    train_run(config, workdir)
    return workdir


@pytest.fixture(scope="module")
def run(sounds, tmp_path_factory):
    return trained(sounds, tmp_path_factory.mktemp("run"))


def bits(run):
    """Returns a run's model file, evaluation, figures without times, and digest of its state.

    The state is that of parameters, statistics and optimizer.
    """
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    evaluation = (run / EVALUATION).read_text()
    model = (run / "best" / "model.safetensors").read_bytes()
    return model, evaluation, lines(run), read_card(newest)["arrays"]


def test_training_twice(run, sounds, tmp_path):
    assert bits(trained(sounds, tmp_path)) == bits(run)


@pytest.mark.parametrize("cache", ["host", "none"])
def test_cache(run, sounds, tmp_path, cache):
    assert bits(trained(sounds, tmp_path, **{"data.cache": cache})) == bits(run)


@pytest.mark.parametrize("steps", [1, pytest.param(7, marks=pytest.mark.slow)])
def test_steps_per_call(run, sounds, tmp_path, steps):
    """These are other programs, which the tests' compiler settings round differently."""
    losses = [
        [line["loss"] for line in lines(folder)]
        for folder in (trained(sounds, tmp_path, steps_per_call=steps), run)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.slow
def test_training_in_two_processes(sounds, tmp_path, root_dir):
    """With other orders of hashed names."""
    found = []
    for seed in ("1", "2"):
        workdir = tmp_path / seed
        command = [sys.executable, "-m", "avjax.train", "--config=audio_only"]
        command += [f"--config.data.dir={sounds}", "--config.num_epochs=1", f"--workdir={workdir}"]
        environment = {**os.environ, "PYTHONPATH": str(root_dir), "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=root_dir, env=environment, check=True, capture_output=True)
        found.append(bits(workdir))
    assert found[0] == found[1]


@pytest.mark.parametrize("format_", ["stablehlo", "safetensors", "pytorch"])
def test_export_twice(run, tmp_path, format_):
    for name in ("first", "second"):
        export_model(run, tmp_path / name, format_)
    assert read_files(tmp_path / "first") == read_files(tmp_path / "second")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    root = tmp_path_factory.mktemp("RAVDESS") / "Actor_01"
    for emotion in (1, 2, 3):
        images = [frame(20 * emotion + i) for i in range(10)]
        write_video(root / f"01-01-0{emotion}-01-01-01-01.mp4", images, sound=tone(0.3))
        write_sound(root / f"03-01-0{emotion}-01-01-02-01.wav", tone(0.2 * emotion))
    return root.parent


def dataset(out, source, workers):
    """Prepares; returns the dataset's files, and its summary without times."""
    prepare(source, out, SETTINGS, make_detector=WholeFrame, workers=workers)
    summary = json.loads((out / "prepare.json").read_text())
    for name in ("seconds", "phases", "digest"):
        del summary[name]
    return read_files(out), summary


def test_number_of_workers(source, tmp_path):
    found = [dataset(tmp_path / str(workers), source, workers) for workers in (1, 2, 5)]
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_dataset_in_two_processes(source, tmp_path, root_dir):
    """Sound alone, which needs no detector."""
    (tmp_path / "source").mkdir()
    for path in source.rglob("*.wav"):
        (tmp_path / "source" / path.name).symlink_to(path)
    found = []
    for seed, workers in (("1", 1), ("2", 2)):
        out = tmp_path / seed
        command = [sys.executable, "-m", "avjax.prepare", f"--source={tmp_path / 'source'}"]
        command += [f"--out={out}", f"--workers={workers}", "--seconds=1.0"]
        environment = {**os.environ, "PYTHONPATH": str(root_dir), "PYTHONHASHSEED": seed}
        subprocess.run(command, cwd=root_dir, env=environment, check=True, capture_output=True)
        found.append(read_files(out))
    assert found[0] == found[1]
