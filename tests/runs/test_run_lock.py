"""One process writes to a run's folder; others wait, then say who does."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from avjax.config import RunConfig
from avjax.crossval import cross_validate
from avjax.errors import InputError
from avjax.evaluate import evaluate_run
from avjax.runs import run_folder
from avjax.runs.run_folder import run_lock
from avjax.train_vmapped import train_vmapped
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, train_run

HOLD = """
import sys, time
from pathlib import Path
from avjax.runs.run_folder import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(run_folder, "LOCK_SECONDS", 0.3)


def test_second_training_says_who_holds_the_folder(sounds, tmp_path, impatient, root_dir, capsys):
    """The lock is another process's, and ends with it."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root_dir) as process:
        assert process.stdout.readline() == "held\n"
        holder = rf"process {process.pid} on {socket.gethostname()} since "
        with pytest.raises(InputError, match=rf"another process trains in .* \(it is {holder}"):
            train_run(audio_config(sounds), tmp_path)
        assert "note: waiting up to 0 s for process" in capsys.readouterr().err
        with pytest.raises(InputError, match=holder):
            train_vmapped({tmp_path: RunConfig.from_tree(audio_config(sounds))})
        with pytest.raises(InputError, match=holder):
            cross_validate(RunConfig.from_tree(audio_config(sounds)), tmp_path, "published")
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
        process.kill()
    with run_lock(tmp_path):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} on ")


def test_requeued_training_waits_for_its_predecessor(sounds, tmp_path, capsys):
    errors, released = "", []

    def predecessor():
        nonlocal errors
        with run_lock(tmp_path):
            held.set()
            while "waiting" not in errors and not done.wait(0.05):
                errors += capsys.readouterr().err
            released.append(list(tmp_path.iterdir()))

    held, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=predecessor)
    thread.start()
    held.wait()
    train_run(audio_config(sounds), tmp_path)
    done.set()
    thread.join()
    assert released == [[tmp_path / "lock"]]
    assert "note: waiting up to 60 s" in errors


def test_run_is_evaluated_while_it_trains(sounds, tmp_path, impatient):
    train_run(audio_config(sounds), tmp_path)
    before = lines(tmp_path)
    (tmp_path / "evaluation.json").unlink()
    with run_lock(tmp_path):
        evaluate_run(tmp_path)
    assert (tmp_path / "evaluation.json").exists()
    assert lines(tmp_path) == before


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"file/run cannot be written"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pytest.fail("locked")
