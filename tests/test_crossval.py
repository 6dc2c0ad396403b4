"""Cross-validation: runs, resuming, statistics, errors."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from avjax import crossval
from avjax.config import RunConfig
from avjax.crossval import cross_validate, main, summarise, table
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.runs.run_config import flatten
from avjax.runtime.sealed import read_json
from avjax.train import train
from configs import audio_only
from tests.sound_dataset import CLIPS, audio_config, write_sounds


def run_config(data_dir):
    return RunConfig.from_tree(audio_config(data_dir))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_dir):
    """Two uninterrupted runs."""
    workdir = tmp_path_factory.mktemp("crossval")
    return workdir, cross_validate(run_config(data_dir), workdir, "published", [0, 1])


def test_every_seed_is_a_separate_run(finished):
    workdir, summary = finished
    assert read_json(workdir / "crossval.json", "") == summary
    assert [(run["fold"], run["seed"]) for run in summary["runs"]] == [
        ("published", 0),
        ("published", 1),
    ]
    for run in summary["runs"]:
        folder = workdir / run["folder"]
        config = json.loads((folder / "config.json").read_text())
        assert (config["seed"], config["data"]["fold"]) == (run["seed"], "published")
        evaluation = json.loads((folder / "evaluation.json").read_text())
        for name, accuracy in run["accuracy"].items():
            assert accuracy == evaluation["conditions"][name]["accuracy"]
    assert {actor: x["num_clips"] for actor, x in summary["actors"].items()} == {
        "5": 2 * CLIPS,
        "10": 2 * CLIPS,
    }
    first, second = (
        (workdir / run["folder"] / "metrics.jsonl").read_text() for run in summary["runs"]
    )
    assert first != second


def test_finished_runs_are_not_trained_again(finished, data_dir, monkeypatch):
    workdir, summary = finished
    monkeypatch.setattr(crossval, "train", pytest.fail)
    assert cross_validate(run_config(data_dir), workdir, "published", [0, 1]) == summary


def test_report_lost_by_a_kill_is_written(finished, data_dir):
    workdir, summary = finished
    report = workdir / summary["runs"][0]["folder"] / "report.html"
    report.unlink()
    assert cross_validate(run_config(data_dir), workdir, "published", [0, 1]) == summary
    assert "<svg" in report.read_text()


def test_interrupted_cross_validation_resumes(finished, data_dir, tmp_path, monkeypatch):
    started = []

    def interrupt_second_run(config, workdir):
        started.append(workdir.name)
        if len(started) == 2:
            raise KeyboardInterrupt
        return train(config, workdir)

    monkeypatch.setattr(crossval, "train", interrupt_second_run)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(run_config(data_dir), tmp_path, "published", [0, 1])
    summary = read_json(tmp_path / "crossval.json", "")
    assert (len(summary["runs"]), summary["planned_runs"]) == (1, 2)
    assert cross_validate(run_config(data_dir), tmp_path, "published", [0, 1]) == finished[1]
    assert started == ["published-seed0", "published-seed1", "published-seed1"]


def test_different_config_in_the_same_workdir_is_refused(finished, data_dir):
    config = run_config(data_dir)
    config = dataclasses.replace(config, loop=dataclasses.replace(config.loop, num_epochs=9))
    with pytest.raises(InputError, match=r"num_epochs was 3 and is 9"):
        cross_validate(config, finished[0], "published", [0])


def test_damaged_evaluation_is_refused(finished, data_dir, tmp_path):
    folder = tmp_path / "published-seed1"
    folder.mkdir()
    for name in ("config.json", "evaluation.json"):
        text = (finished[0] / "published-seed1" / name).read_text()
        (folder / name).write_text(text if name == "config.json" else text[:30])
    with pytest.raises(InputError, match=r"evaluation\.json is damaged"):
        cross_validate(run_config(data_dir), tmp_path, "published")


RUNS = [
    {
        "fold": f"msaf6/{k}",
        "seed": 0,
        "epoch": 3,
        "num_clips": 40,
        "accuracy": {"audiovisual": accuracy, **({} if k else {"audio_only/zeros": 0.5})},
        "actors": {actor: {"num_clips": 20, "accuracy": accuracy} for actor in actors},
    }
    for k, (accuracy, actors) in enumerate([(0.5, "29"), (0.6, "9"), (0.85, "1")])
]


def test_summary_has_sample_statistics():
    summary = summarise(RUNS)
    statistics = summary["conditions"]["audiovisual"]
    assert statistics["mean"] == pytest.approx(0.65)
    assert statistics["std"] == pytest.approx((0.065 / 2) ** 0.5)
    assert statistics["stderr"] == pytest.approx((0.065 / 6) ** 0.5)
    assert statistics["num_runs"] == 3
    single_run = summary["conditions"]["audio_only/zeros"]
    assert single_run == {"mean": 0.5, "std": None, "stderr": None, "num_runs": 1}
    assert list(summary["actors"]) == ["1", "2", "9"]
    assert summary["actors"]["9"] == {"num_clips": 40, "accuracy": pytest.approx(0.55)}


def test_table_shows_runs_conditions_and_actors():
    lines = [line.split() for line in table(summarise(RUNS)).splitlines()]
    assert ["msaf6/1", "0", "3", "40", "60.00%"] in lines
    assert ["audiovisual", "65.00%", "18.03%", "10.41%", "3"] in lines
    assert ["audio_only/zeros", "50.00%", "-", "-", "1"] in lines
    assert ["9", "40", "55.00%"] in lines
    assert ["test", "actor", "clips", "audiovisual"] in lines


GROUPS = {"Ann Smith": 2, "Bob": 4, "Cem": 3, "Dan": 2}


@pytest.fixture(scope="module")
def own_clips(tmp_path_factory):
    """A small corpus of one's own: groups instead of actors."""
    rng, records, clips = np.random.default_rng(0), [], []
    for group, count in GROUPS.items():
        for k in range(count):
            split = f"group_{group[:3].lower()}"
            records.append(ClipRecord(f"{group}/{k}", split, k % 2, group=group, has_video=False))
            mfcc = rng.normal(4 * (k % 2), 1, (16, 10)).astype(np.float32)
            clips.append(PreparedClip(np.zeros((0, 64, 64, 3), np.uint8), mfcc, True, False))
    metadata = DatasetMetadata("reference", ("low", "high"), 0, 64, 16, {})
    return write_dataset(tmp_path_factory.mktemp("own"), metadata, records, clips)


def test_folds_over_groups_of_own_clips(own_clips, tmp_path, monkeypatch, capsys):
    """Every group tests once, from the command to the summary."""
    monkeypatch.chdir(tmp_path)
    settings = ["--config.num_epochs=1", f"--config.data.dir={own_clips}", "--folds=3"]
    root = Path(audio_only.__file__).parent
    assert main(["crossval", f"--config={root / 'audio_only.py'}", *settings]) == 0
    workdir = tmp_path / "runs" / "audio_only-3"
    summary = read_json(workdir / "crossval.json", "")
    assert [run["folder"] for run in summary["runs"]] == [f"3_folds-{k}-seed1" for k in range(3)]
    assert {group: x["num_clips"] for group, x in summary["actors"].items()} == GROUPS
    printed = capsys.readouterr().out
    assert "Ann Smith " in printed and "test group " in printed
    config = json.loads((workdir / "3_folds-0-seed1" / "config.json").read_text())
    fold = "train: group=Dan,'Ann Smith'; validation: group=Cem; test: group=Bob"
    assert config["data"]["fold"] == fold


@pytest.mark.parametrize(
    ("folds", "names"),
    [
        ("leave_one_out", [f"leave_one_out/{k}" for k in range(4)]),
        (" | ".join(2 * ["train: group=Bob; validation: group=Cem; test: group=Dan"]), None),
    ],
)
def test_other_folds_of_own_clips(own_clips, tmp_path, monkeypatch, folds, names):
    """Their runs are those of the folds that config.json names; training is left out."""
    trained = []

    def pretend(config, workdir):
        trained.append(config.data.fold)
        figures = {"accuracy": 0.5}
        return {"epoch": 1, "num_clips": 2, "conditions": {"x": figures}, "actors": {}}

    monkeypatch.setattr(crossval, "train", pretend)
    summary = cross_validate(run_config(own_clips), tmp_path, folds)
    assert [run["fold"] for run in summary["runs"]] == (names or ["words/0", "words/1"])
    if names:
        assert [fold.rpartition("group=")[2] for fold in trained] == [
            "Bob",
            "Cem",
            "Dan",
            "'Ann Smith'",
        ]
    else:
        assert trained == folds.split(" | ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--folds is missing"),
        (("--folds=msaf",), "unknown folds 'msaf'"),
        (("--folds=msaf6", "--seeds=1,two"), "not whole numbers"),
        (("--folds=msaf6", "more"), "unexpected argument 'more'"),
    ],
)
def test_wrong_arguments_are_one_line_errors(arguments, message, tmp_path, capsys):
    command = ["crossval", "--config=configs/audio_only.py", f"--workdir={tmp_path}", *arguments]
    assert main(command) == 1
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert error.startswith("error: ")
    assert message in error
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 5}, "batch_size=5 cannot be split over 2 devices"),
        ({"data.dir": "/nowhere"}, "there is no dataset at /nowhere"),
        ({}, "matches 'group=Eve', the test split"),  # of the second fold
    ],
)
def test_config_is_checked_before_anything_is_made(own_clips, tmp_path, capsys, changes, message):
    folds = [f"train: group=Bob; validation: group=Cem; test: group={x}" for x in ("Dan", "Eve")]
    config = RunConfig.from_tree(flatten(audio_config(own_clips)) | changes)
    with pytest.raises(InputError, match=message):
        cross_validate(config, tmp_path / "new", " | ".join(folds))
    assert capsys.readouterr().out == ""
    assert not any(tmp_path.iterdir())


def test_command_prints_the_table(finished, data_dir, capsys):
    workdir, summary = finished
    settings = ["--config.num_epochs=3", "--config.batch_size=4", f"--config.data.dir={data_dir}"]
    folds = ["--folds=published", "--seeds=0,1", f"--workdir={workdir}"]
    assert main(["crossval", "--config=configs/audio_only.py", *folds, *settings]) == 0
    text = capsys.readouterr().out
    assert table(summary) in text
    assert str(workdir / "crossval.json") in text
