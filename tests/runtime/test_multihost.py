"""Two processes train one model through the command line."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runs.saved_model import load_model
from avjax.runtime import multihost
from tests.compiler_flags import FAST
from tests.sound_dataset import CLIPS, audio_config, write_sounds
from tests.training_runs import train_run

EPOCHS = 20  # enough to be stopped in between


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_two(root_dir, sounds, workdirs, *changes):
    """Starts two processes with one device and one folder each; only the first may write."""
    environment = {**os.environ, "PYTHONPATH": str(root_dir), "XLA_FLAGS": FAST}
    command = [sys.executable, "-m", "avjax.train", "--config=configs/audio_only.py"]
    command += [f"--config.data.dir={sounds}", "--config.batch_size=4", *changes]
    command += [f"--coordinator=127.0.0.1:{free_port()}", "--num_processes=2"]
    return [
        subprocess.Popen(
            [*command, f"--workdir={workdir}", f"--process_id={index}"],
            cwd=root_dir,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, workdir in enumerate(workdirs)
    ]


def finish(processes):
    """Waits for processes; returns their exit statuses, outputs and errors."""
    texts = [process.communicate(timeout=600) for process in processes]
    return [(process.returncode, *text) for process, text in zip(processes, texts, strict=True)]


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_like_one_through_the_command_line(root_dir, sounds, tmp_path):
    """The run is stopped by a signal to one process, then resumed."""
    epochs = f"--config.num_epochs={EPOCHS}"
    one, two, unused = tmp_path / "one", tmp_path / "two", tmp_path / "unused"
    config = audio_config(sounds)
    config.num_epochs = EPOCHS
    expected = train_run(config, one)

    processes = start_two(root_dir, sounds, (two, unused), epochs)
    while not (two / "metrics.jsonl").exists() and processes[0].poll() is None:
        time.sleep(0.01)
    processes[1].send_signal(signal.SIGTERM)
    stopped = finish(processes)
    # The process that got the signal reports it; the other one stops with it.
    assert [status for status, *_ in stopped] == [130, 143], stopped
    assert len(lines(two)) < 2 * EPOCHS

    resumed = finish(start_two(root_dir, sounds, (two, unused), epochs))
    assert [status for status, *_ in resumed] == [0, 0], resumed
    assert "test split, 12 clips" in resumed[0][1]
    assert "test split" not in resumed[1][1]
    assert not unused.exists()
    assert len(list(two.glob("events*"))) == 2  # from the first process's two starts
    pairs = list(zip(lines(two), lines(one), strict=True))
    assert all(a[key] == b[key] for a, b in pairs for key in ("epoch", "split"))
    for a, b in pairs[:6]:  # rounding grows from step to step
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-4)
    evaluation = json.loads((two / "evaluation.json").read_text())
    assert evaluation["num_clips"] == 2 * CLIPS
    assert evaluation["predictions"] == expected["predictions"]
    assert load_model(two)[1].network == load_model(one)[1].network


@pytest.mark.parametrize(("stopped", "statuses"), [(0, [143, 130]), (1, [130, 143])])
def test_signal_to_one_process_while_it_starts_stops_all(
    root_dir, sounds, tmp_path, stopped, statuses
):
    processes = start_two(root_dir, sounds, (tmp_path / "run", tmp_path / "unused"))
    while not (tmp_path / "run" / "lock").exists() and processes[0].poll() is None:
        time.sleep(0.01)
    processes[stopped].send_signal(signal.SIGTERM)
    for (status, _, error), expected in zip(finish(processes), statuses, strict=True):
        assert status == expected, error
        assert error.splitlines()[-1] == "error: interrupted; the same command resumes"
        assert "Traceback" not in error


@pytest.mark.slow  # it tells after five seconds that it waits
def test_process_that_waits_for_the_others_answers_a_signal(root_dir, sounds, tmp_path):
    command = [sys.executable, "-m", "avjax.train", "--config=configs/audio_only.py"]
    command += [f"--config.data.dir={sounds}", f"--workdir={tmp_path / 'run'}", "--num_processes=2"]
    command += [f"--coordinator=127.0.0.1:{free_port()}", "--process_id=0"]
    environment = {**os.environ, "PYTHONPATH": str(root_dir)}
    pipes = {"stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root_dir, env=environment, **pipes) as process:
        assert process.stderr.readline() == "waiting for the other processes\n"
        process.send_signal(signal.SIGTERM)
        assert process.communicate(timeout=10)[1] == "error: interrupted\n"
    assert process.returncode == 143


def test_error_in_one_process_stops_all(root_dir, sounds, tmp_path):
    """Only the first process sees that its folder holds another config."""
    (tmp_path / "config.json").write_text('{"seed": 7}')
    results = finish(start_two(root_dir, sounds, (tmp_path, tmp_path / "unused")))
    for status, _, error in results:
        assert status == 1
        assert "seed was 7 and is 1" in error.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"coordinator": "a:1"}, "--coordinator needs --num_processes and --process_id"),
        ({"process_id": 0, "num_processes": 2}, "--num_processes needs --coordinator"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "a is not HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "process_id=2 is too high"),
        (
            {"distributed": True, "coordinator": "a:1", "num_processes": 2, "process_id": 0},
            "--distributed finds a cluster by itself",
        ),
    ],
)
def test_half_given_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message), multihost.joined(**arguments):
        pytest.fail("joined")


def test_the_command_line_hands_them_over():
    values = flags.FlagValues()
    cli.define_process_flags(values)
    values(["train", "--coordinator=a:1", "--num_processes=2", "--process_id=1"])
    assert cli.process_flags(values) == {
        "distributed": False,
        "coordinator": "a:1",
        "num_processes": 2,
        "process_id": 1,
    }


def test_a_cluster_that_is_not_there_is_named(root_dir):
    command = [sys.executable, "-m", "avjax.train", "--config=configs/audio_only.py"]
    result = subprocess.run(
        [*command, "--distributed"], cwd=root_dir, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: --distributed found no cluster")


def test_single_process_needs_no_communication():
    with multihost.joined():
        assert multihost.is_first()
    assert multihost.agree(3, True, False) == (True, False)
    assert not multihost.any_process(False)
    assert multihost.from_first(lambda: 5) == 5
    with pytest.raises(InputError, match="no"), multihost.all_or_none():
        raise InputError("no")
