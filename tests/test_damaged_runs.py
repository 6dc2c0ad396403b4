"""A run whose files were damaged or lost goes on to the same result, or says why it does not."""

import contextlib
import dataclasses
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest

from avjax.errors import InputError
from avjax.evaluate import evaluate_run
from avjax.runs import run_folder
from avjax.runs.report import write_report
from avjax.runs.saved_model import load_model, save_model
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, stopped_at, train_run


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, sounds):
    workdir = tmp_path_factory.mktemp("finished")
    train_run(audio_config(sounds), workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory, sounds):
    """Stopped after two of three epochs."""
    workdir = tmp_path_factory.mktemp("stopped")
    with stopped_at(5):
        train_run(audio_config(sounds), workdir)
    assert len(lines(workdir)) == 4
    return workdir


@pytest.fixture
def run(stopped, tmp_path):
    return shutil.copytree(stopped, tmp_path / "run")


def assert_same(workdir, finished):
    """Compares figures and best model, bit by bit."""
    assert lines(workdir) == lines(finished)
    (actual, card), (expected, expected_card) = map(load_model, (workdir, finished))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)
    assert card == expected_card


def states(workdir):
    return sorted((workdir / "checkpoints").iterdir(), key=lambda path: int(path.name))


def damage(folder):
    """Flips a bit of the largest file's middle."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def test_damaged_state_is_told_and_the_one_before_resumed(run, sounds, finished, capsys):
    newest = states(run)[-1]
    damage(newest / "default")
    train_run(audio_config(sounds), run)
    assert f"{newest} is damaged" in capsys.readouterr().err
    assert_same(run, finished)


def test_both_states_damaged_is_an_error_that_names_them(run, sounds):
    for state in states(run):
        damage(state / "default")
    with pytest.raises(InputError, match=r"checkpoints/\d+ is damaged.*checkpoints/\d+ is damaged"):
        train_run(audio_config(sounds), run)


@pytest.mark.parametrize("fault", ["deleted", "first byte", "foreign"])
def test_metrics_that_do_not_fit_the_state_are_mended(run, sounds, finished, fault, capsys):
    path = run / "metrics.jsonl"
    text = path.read_text()
    if fault == "deleted":
        path.unlink()
    else:
        better = json.loads(text.splitlines()[1]) | {"accuracy": 0.0}
        faulty = {
            "first byte": "x" + text[1:],
            "foreign": json.dumps(better) + "\n",
        }
        path.write_text(faulty[fault])
    train_run(audio_config(sounds), run)
    assert "metrics.jsonl was damaged" in capsys.readouterr().err
    assert_same(run, finished)


@pytest.mark.parametrize(
    ("place", "epochs"), [("save_model", (1,)), ("RunCheckpoints.save", (1, 2))]
)
def test_kill_while_an_epoch_is_saved_changes_nothing(sounds, finished, tmp_path, place, epochs):
    """After the log's lines, or after the best model too."""
    for epoch in epochs:
        with killed_in(place, epoch), pytest.raises(KeyboardInterrupt):
            train_run(audio_config(sounds), tmp_path)
    train_run(audio_config(sounds), tmp_path)
    assert_same(tmp_path, finished)


@contextlib.contextmanager
def killed_in(place, epoch):
    """Interrupts a run in one of an epoch's saves."""

    def kill(*arguments):
        if place == "save_model":
            is_epoch = arguments[2].epoch >= epoch
        else:
            is_epoch = len(arguments[3]) >= 2 * epoch
        if is_epoch:
            raise KeyboardInterrupt
        original(*arguments)

    owner, _, name = place.rpartition(".")
    owner = getattr(run_folder, owner) if owner else run_folder
    original = getattr(owner, name)
    with mock.patch.object(owner, name, kill):
        yield


def test_a_worse_epoch_never_replaces_the_best_model(run, sounds):
    """The model's own card decides, whatever the log says."""
    variables, card = load_model(run)
    card.metrics["accuracy"] = 1.0
    save_model(run / "best", variables, card)
    (run / "metrics.jsonl").unlink()
    train_run(audio_config(sounds), run)
    trained = load_model(run)[1]
    assert trained == dataclasses.replace(card, temperatures=trained.temperatures)


def test_kill_while_a_run_is_calibrated_changes_nothing(finished, sounds, tmp_path, monkeypatch):
    run = shutil.copytree(finished, tmp_path / "run")
    variables, card = load_model(run)
    assert list(card.temperatures) == ["audio"]
    save_model(run / "best", variables, dataclasses.replace(card, temperatures={}))

    def kill(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("avjax.evaluate.save_model", kill)
        with pytest.raises(KeyboardInterrupt):
            train_run(audio_config(sounds), run)
    assert load_model(run)[1].temperatures == {}
    train_run(audio_config(sounds), run)
    assert_same(run, finished)
    monkeypatch.setattr("avjax.evaluate.save_model", kill)  # it is not calibrated again
    train_run(audio_config(sounds), run)


def test_damaged_best_model_is_refused(run, sounds):
    damage(run / "best")
    with pytest.raises(InputError, match=r"best/model.safetensors is damaged.*checkpoints/"):
        train_run(audio_config(sounds), run)
    with pytest.raises(InputError, match=r"best/model.safetensors is damaged"):
        evaluate_run(run)


def test_lost_best_model_is_refused(run, sounds):
    shutil.rmtree(run / "best")
    with pytest.raises(InputError, match=r"best lacks the model of epoch \d, the best so far"):
        train_run(audio_config(sounds), run)


def test_lost_states_are_refused(finished, sounds, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    variables, card = load_model(run)
    if card.epoch == 1:  # otherwise the run could have been killed before its first state
        save_model(run / "best", variables, card.__class__(**{**vars(card), "epoch": 2}))
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(InputError, match=r"checkpoints is lost"):
        train_run(audio_config(sounds), run)


def test_report_takes_the_figures_of_the_state(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "metrics.jsonl").write_text("damaged")
    write_report(run)
    assert "3 of 3" in (run / "report.html").read_text()


def test_damaged_config_is_refused(run, sounds):
    path = run / "config.json"
    path.write_text(path.read_text().replace('"num_epochs": 3', '"num_epochs": 2'))
    with pytest.raises(InputError, match=r"config.json is damaged"):
        train_run(audio_config(sounds), run)


def test_lost_config_of_a_run_is_refused(run, sounds):
    """Otherwise its states would go on with whatever config the command names."""
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json is lost"):
        train_run(audio_config(sounds), run)


def test_damaged_evaluation_is_replaced_or_refused(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    (run / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation.json is damaged"):
        write_report(run)
    evaluate_run(run)
