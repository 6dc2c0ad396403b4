"""Runs trained as one program leave what runs trained alone do."""

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

# Two folds: 6 and 5 steps an epoch, the last ones of fewer clips.
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
def alone(tmp_path_factory, sounds):
    folder = tmp_path_factory.mktemp("alone")
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


def assert_same_runs(ours, theirs, tolerance=2e-2):  # float32, whose roundings grow
    """What two folders hold is equal, but for the order of sums."""
    folders = sorted(path.name for path in theirs.iterdir())
    assert sorted(path.name for path in ours.iterdir()) == folders
    for name in folders:
        assert names(ours / name) == names(theirs / name)
        for mine, its in zip(lines(ours / name), lines(theirs / name), strict=True):
            assert mine.pop("split") == its.pop("split")
            assert mine == pytest.approx(its, rel=tolerance, abs=tolerance)
        mine, its = (json.loads((x / name / "evaluation.json").read_text()) for x in (ours, theirs))
        assert mine["epoch"] == its["epoch"]
        assert mine["predictions"] == its["predictions"]
        (mine, _), (its, _) = load_model(ours / name), load_model(theirs / name)
        for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(its), strict=True):
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


def test_two_folds_with_two_seeds_are_four_runs_alone(alone, joined):
    assert {"config.json", "metrics.jsonl", "checkpoints", "best", "report.html"} <= names(
        joined / "fold0-seed0"
    )
    steps = [read_metrics(joined / f"fold{k}-seed0")[-1]["step"] for k in range(2)]
    assert steps == [12, 10]
    assert_same_runs(joined, alone)


def test_a_run_that_trained_with_others_goes_on_alone(joined, sounds):
    """Nothing is trained again, as its checkpoint and config are those of a run alone."""
    workdir, config = next(iter(four_runs(sounds, joined).items()))
    before = lines(workdir)
    train(config, workdir)
    assert lines(workdir) == before


@pytest.mark.parametrize("stop_after", [2, 3, 5])  # calls of 1, 4 and 1 steps
def test_interrupted_runs_go_on_to_the_same_digits(joined, sounds, tmp_path, stop_after):
    """Stopped within the first epoch, at its end (of the longer fold), and within the second."""
    with stopped_at(stop_after):
        train_vmapped(four_runs(sounds, tmp_path))
    train_vmapped(four_runs(sounds, tmp_path))
    assert_same_runs(tmp_path, joined, tolerance=0)


def test_runs_at_different_places_meet(joined, sounds, tmp_path, monkeypatch):
    """Killed between two runs' saves, the ones ahead wait for the others."""
    count, former_save = 0, RunCheckpoints.save

    def save_or_die(*arguments):
        nonlocal count
        count += 1
        if count == 3:  # of the third run, in the first epoch
            raise RuntimeError("killed")
        former_save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunCheckpoints, "save", save_or_die)
        with pytest.raises(RuntimeError, match="killed"):
            train_vmapped(four_runs(sounds, tmp_path))
    train_vmapped(four_runs(sounds, tmp_path))
    assert_same_runs(tmp_path, joined, tolerance=0)


def fed(config, cache):
    """The same run in calls of two steps."""
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, cache=cache),
        loop=dataclasses.replace(config.loop, steps_per_call=2),
    )


@pytest.mark.parametrize("cache", ["device", "none"])
def test_steps_of_a_call(joined, sounds, tmp_path, cache):
    """Calls of 1, 2, 2 and 1 steps: an epoch's clips in the same order, the same updates."""
    configs = four_runs(sounds, tmp_path)
    train_vmapped({workdir: fed(config, cache) for workdir, config in configs.items()})
    assert_same_runs(tmp_path, joined)


def test_the_command(sounds, tmp_path, capsys, monkeypatch):
    """Its summary is of runs alone's form; finished runs are only read."""
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
