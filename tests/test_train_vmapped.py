"""Runs trained as one program equal runs trained separately."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from avjax import crossval
from avjax.config import RunConfig
from avjax.crossval import main
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.metrics_log import read_metrics
from avjax.runs.saved_model import load_model
from avjax.train import train
from avjax.train_vmapped import train_vmapped
from tests.sound_dataset import audio_config, write_sounds
from tests.training_runs import lines, stopped_at

# Two folds: 6 and 5 steps per epoch, the last with fewer clips.
FOLDS = (
    "train: actor=1,2; validation: actor=3; test: actor=4",
    "train: actor=1,4; validation: actor=2; test: actor=3",
)
CLIPS = {1: 11, 2: 11, 3: 6, 4: 8}
SEEDS = (0, 1)


def config_of(data_dir, fold, seed):
    config = audio_config(data_dir)
    config.data.fold, config.seed, config.num_epochs = fold, seed, 2
    config.optimizer.milestones = (2,)
    return config


def four_runs(data_dir, folder):
    return {
        folder / f"fold{k}-seed{seed}": RunConfig.from_tree(config_of(data_dir, fold, seed))
        for k, fold in enumerate(FOLDS)
        for seed in SEEDS
    }


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"), CLIPS)


@pytest.fixture(scope="module")
def separate(tmp_path_factory, sounds):
    folder = tmp_path_factory.mktemp("separate")
    for workdir, config in four_runs(sounds, folder).items():
        train(config, workdir)
    return folder


@pytest.fixture(scope="module")
def joined(tmp_path_factory, sounds):
    folder = tmp_path_factory.mktemp("joined")
    train_vmapped(four_runs(sounds, folder))
    return folder


def names(workdir):
    return {path.name.split(".out.")[0] for path in workdir.iterdir()}


def assert_same_runs(actual, expected, tolerance=2e-2):  # float32, whose rounding grows
    """Compares the runs in two folders, which differ in the order of sums."""
    folders = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in actual.iterdir()) == folders
    for name in folders:
        pair = actual / name, expected / name
        assert names(pair[0]) == names(pair[1])
        for a, b in zip(*map(lines, pair), strict=True):
            assert a.pop("split") == b.pop("split")
            assert a == pytest.approx(b, rel=tolerance, abs=tolerance)
        a, b = (json.loads((path / "evaluation.json").read_text()) for path in pair)
        assert a["epoch"] == b["epoch"]
        assert a["predictions"] == b["predictions"]
        models, cards = zip(*map(load_model, pair), strict=True)
        a, b = (card.temperatures for card in cards)
        assert list(a) == ["audio"] and a == pytest.approx(b, rel=max(tolerance, 1e-9))
        for a, b in zip(*map(jax.tree.leaves, models), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_two_folds_with_two_seeds_equal_four_separate_runs(separate, joined):
    assert {"config.json", "metrics.jsonl", "checkpoints", "best", "report.html"} <= names(
        joined / "fold0-seed0"
    )
    steps = [read_metrics(joined / f"fold{k}-seed0")[-1]["step"] for k in range(2)]
    assert steps == [12, 10]
    assert_same_runs(joined, separate)


def test_run_trained_with_others_resumes_separately(joined, sounds):
    """It is complete: its checkpoint and config are those of a separate run."""
    workdir, config = next(iter(four_runs(sounds, joined).items()))
    before = lines(workdir)
    train(config, workdir)
    assert lines(workdir) == before


@pytest.mark.parametrize(  # calls of 1, 4 and 1 steps
    "stop_after",
    [pytest.param(2, marks=pytest.mark.slow), 3, pytest.param(5, marks=pytest.mark.slow)],
)
def test_interrupted_runs_resume_bit_by_bit(joined, sounds, tmp_path, stop_after):
    """Stopped within the first epoch, at its end in the longer fold, and within the second."""
    with stopped_at(stop_after):
        train_vmapped(four_runs(sounds, tmp_path))
    train_vmapped(four_runs(sounds, tmp_path))
    assert_same_runs(tmp_path, joined, tolerance=0)


@pytest.mark.parametrize("killed", [3, pytest.param(7, marks=pytest.mark.slow)])
def test_runs_at_different_epochs_resume_together(joined, sounds, tmp_path, monkeypatch, killed):
    """Killed when the third run's first or last epoch is saved; those ahead wait for the others."""
    count, save = 0, RunCheckpoints.save

    def save_or_die(*arguments):
        nonlocal count
        count += 1
        if count == killed:
            raise RuntimeError("killed")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "save", save_or_die)
        with pytest.raises(RuntimeError, match="killed"):
            train_vmapped(four_runs(sounds, tmp_path))
    train_vmapped(four_runs(sounds, tmp_path))
    assert_same_runs(tmp_path, joined, tolerance=0)


def with_feed(config, cache):
    """Returns the config with a cache and two steps per call."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache=cache),
        loop=dataclasses.replace(config.loop, steps_per_call=2),
    )


@pytest.mark.parametrize("cache", ["device", pytest.param("none", marks=pytest.mark.slow)])
def test_cache_and_steps_per_call_do_not_change_results(joined, sounds, tmp_path, cache):
    """Calls of 1, 2, 2 and 1 steps: the same clips in the same order, the same updates."""
    configs = four_runs(sounds, tmp_path)
    train_vmapped({workdir: with_feed(config, cache) for workdir, config in configs.items()})
    assert_same_runs(tmp_path, joined)


def test_crossval_command_trains_together(sounds, tmp_path, capsys, monkeypatch):
    """Writes the usual summary; only reads finished runs."""
    monkeypatch.setattr(crossval, "list_folds", lambda name: list(FOLDS))
    settings = ["--config.num_epochs=1", "--config.batch_size=4", f"--config.data.dir={sounds}"]
    command = ["crossval", "--config=configs/audio_only.py", "--seeds=0,1", "--folds=both"]
    command += ["--together", f"--workdir={tmp_path}", *settings]
    assert main(command) == 0
    summary = json.loads((tmp_path / "crossval.json").read_text())
    assert [(run["fold"], run["seed"]) for run in summary["runs"]] == [
        (fold, seed) for fold in FOLDS for seed in SEEDS
    ]
    monkeypatch.setattr(crossval, "train_vmapped", lambda configs: configs and 1 / 0)
    monkeypatch.setattr(crossval, "train", pytest.fail)
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
