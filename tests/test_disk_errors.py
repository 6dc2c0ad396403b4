"""A disk that fails in each of a run's saves: one line, and the next call gives the same result."""

import errno
import os

import jax
import numpy as np
import pytest

from avjax import train
from avjax.runs.saved_model import load_model
from tests.sound_dataset import write_sounds
from tests.training_runs import lines

PLACES = {
    "config.json": errno.EACCES,
    "metrics.jsonl": errno.ENOSPC,
    "best/model.safetensors": errno.EDQUOT,
    "checkpoints": errno.EROFS,
    "evaluation.json": errno.ENOSPC,
    "report.html": errno.EACCES,
}


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """Trains a small run by the command line; returns the exit status."""
    sounds = write_sounds(tmp_path_factory.mktemp("sounds"))
    settings = {"data.dir": sounds, "num_epochs": 2, "batch_size": 4}
    arguments = ["--config=audio_only", *(f"--config.{k}={x}" for k, x in settings.items())]
    return lambda run: train.main(["train", *arguments, f"--workdir={run}"])


@pytest.fixture(scope="module")
def finished(command, tmp_path_factory):
    run = tmp_path_factory.mktemp("finished") / "run"
    assert command(run) == 0
    return run


SLOW = ("config.json", "evaluation.json")  # the same errors as elsewhere


@pytest.mark.parametrize(
    "place", [pytest.param(x, marks=pytest.mark.slow if x in SLOW else ()) for x in PLACES]
)
def test_run_names_the_file_and_goes_on(command, finished, tmp_path, capsys, monkeypatch, place):
    run, number = tmp_path / "run", PLACES[place]
    fsync, makedirs = os.fsync, os.makedirs

    def fail(path):
        if str(run / place) in str(path):
            raise OSError(number, os.strerror(number))

    def fsync_or_fail(descriptor):
        fail(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def makedirs_or_fail(path, *arguments, **settings):
        fail(path)
        makedirs(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync_or_fail)
        patch.setattr(os, "makedirs", makedirs_or_fail)  # Orbax's
        assert command(run) == 1
    errors = capsys.readouterr().err
    (line,) = [text for text in errors.splitlines() if text.startswith("error: ")]
    assert str(run / place) in line
    assert "no space left in" in line or os.strerror(number) in line
    assert "Traceback" not in errors
    assert command(run) == 0
    assert lines(run) == lines(finished)
    models = (load_model(folder)[0] for folder in (run, finished))
    jax.tree.map(np.testing.assert_array_equal, *models)
