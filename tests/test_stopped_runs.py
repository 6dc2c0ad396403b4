"""Signals at any moment of a training: one line, the signal's status, and a run that resumes."""

import json
import os
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from avjax.runs.saved_model import load_model
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, train_run

EPOCHS = 3


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sounds):
    workdir = tmp_path_factory.mktemp("finished")
    train_run(audio_config(sounds), workdir)
    return workdir


MOMENTS = {
    "imports": lambda run: True,
    "config": lambda run: (run / "config.json").exists(),
    "first metrics": lambda run: (run / "metrics.jsonl").exists(),
    "last epoch": lambda run: (
        (run / "metrics.jsonl").exists()
        and len((run / "metrics.jsonl").read_text().splitlines()) == 2 * EPOCHS
    ),
    "report": lambda run: (run / "evaluation.json").exists(),
}


def stop(sounds, run, root_dir, moment, number):
    """Starts a training, sends it a signal, and returns its status, errors and delay."""
    command = [sys.executable, "-m", "avjax.train", "--config=configs/audio_only.py"]
    command += [f"--config.data.dir={sounds}", "--config.batch_size=4", f"--workdir={run}"]
    command += [f"--config.num_epochs={EPOCHS}"]
    environment = {**os.environ, "PYTHONPATH": str(root_dir)}
    with subprocess.Popen(
        command, cwd=root_dir, env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        if moment == "imports":
            time.sleep(0.7)
        while not MOMENTS[moment](run) and process.poll() is None:
            time.sleep(0.005)
        start = time.monotonic()
        process.send_signal(number)
        errors = process.communicate(timeout=60)[1]
    return process.returncode, errors, time.monotonic() - start


@pytest.mark.parametrize(
    ("moment", "number", "status"),
    [
        pytest.param(moment, number, status, marks=pytest.mark.slow if slow else ())
        for moment in MOMENTS
        for number, status in ((signal.SIGTERM, 143), (signal.SIGINT, 130))
        for slow in [(moment, status) != ("config", 143)]
    ],
)
def test_stopped_training_says_so_and_resumes(
    sounds, finished, root_dir, tmp_path, moment, number, status
):
    run = tmp_path / "run"
    code, errors, delay = stop(sounds, run, root_dir, moment, number)
    if moment == "report" and code == 0:
        pytest.skip("the run ended before the signal")
    assert code == status, errors
    assert [x for x in errors.splitlines() if x.startswith("error: ")] == errors.splitlines()[-1:]
    assert "error: interrupted" in errors
    assert delay < 10
    train_run(audio_config(sounds), run)
    assert lines(run) == lines(finished)
    models = (load_model(folder)[0] for folder in (run, finished))
    jax.tree.map(np.testing.assert_array_equal, *models)
    assert json.loads((run / "evaluation.json").read_text())["num_clips"] == 12
