"""Files saved by version 0.1 still load, resume and give the same figures.

`fixtures/make.py` created them. These tests call only commands and `avjax.load`, so they need no
change when modules move.
"""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import avjax
from avjax import crossval, evaluate, prepare, train
from avjax.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "tests" / "fixtures" / "v0_1.tar.xz"
EXPECTED = ARCHIVE.with_name("v0_1.json")
# Models, with the steps and width of their sound.
LOGITS = {
    "models/lt": (156, 10),
    "runs/log_mel": (156, 16),
    "runs/crossval/published-seed0": (156, 10),
}
SCORED = ("runs/audio_visual", "runs/log_mel", "runs/crossval/published-seed0")
CLOCK = ("seconds", "clips_per_second", "input_share")
TOLERANCE = 1e-5  # ten times the deviation between optimization levels and numbers of devices


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("v0_1")
    with tarfile.open(ARCHIVE) as archive:
        for member in archive:
            path = folder / member.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.extractfile(member).read())
    return folder


@pytest.fixture(autouse=True)
def saved(unpacked, tmp_path, monkeypatch):
    """Copies all saved files to the current directory."""
    shutil.copytree(unpacked, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def expected():
    return json.loads(EXPECTED.read_text())


def inputs(model):
    """Returns sound and frames of two clips for a model."""
    rng = np.random.default_rng(0)
    sound = np.float32(rng.integers(-4, 5, (2, *LOGITS[model])) / 2)
    blocks = rng.integers(0, 256, (2, 2, 8, 8, 3), np.uint8)
    return sound, blocks.repeat(8, 2).repeat(8, 3)


def run_train(name, config, changes):
    return train.main(["train", *_arguments(config, changes), f"--workdir=runs/{name}"])


def run_crossval(config, changes):
    options = ["--folds=published", "--seeds=0,1", "--workdir=runs/crossval"]
    return crossval.main(["crossval", *_arguments(config, changes), *options])


def _arguments(config, changes):
    changed = [f"--config.{key}={value}" for key, value in changes.items()]
    return [f"--config={ROOT / 'configs' / config}.py", *changed]


def read_metrics(workdir):
    """Returns the lines of a run's metrics without times."""
    lines = map(json.loads, (Path(workdir) / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in line.items() if name not in CLOCK} for line in lines]


def read_evaluation(workdir):
    """Returns a run's evaluation without confusion matrices."""
    evaluation = json.loads((Path(workdir) / "evaluation.json").read_text())
    for figures in evaluation["conditions"].values():
        del figures["confusion"]
    return evaluation


def assert_same(actual, expected):
    """Compares all keys of `expected`; later versions may add keys."""
    if isinstance(expected, dict):
        for name, value in expected.items():
            assert_same(actual[name], value)
    elif isinstance(expected, list):
        for item, value in zip(actual, expected, strict=True):
            assert_same(item, value)
    elif isinstance(expected, float):
        assert actual == pytest.approx(expected, rel=TOLERANCE)
    else:
        assert actual == expected


@pytest.mark.parametrize("model", LOGITS)
def test_model_gives_the_same_logits(expected, model):
    logits, largest = expected["logits"][model], np.abs(expected["logits"][model]).max()
    actual = avjax.load(model).logits(*inputs(model))
    np.testing.assert_allclose(actual, logits, rtol=0, atol=TOLERANCE * largest)


def test_backbone_cannot_be_loaded_as_a_model():
    with pytest.raises(InputError, match="backbone"):
        avjax.load("models/backbone")


@pytest.mark.parametrize("workdir", SCORED)
def test_run_is_evaluated_equally(expected, workdir):
    assert evaluate.main(["evaluate", f"--workdir={workdir}"]) == 0
    assert_same(read_evaluation(workdir), expected["scored"][workdir])


@pytest.mark.parametrize(
    "name", ["audio_visual", "log_mel", pytest.param("audio", marks=pytest.mark.slow)]
)
def test_stopped_run_resumes_to_the_same_figures(expected, name):
    run = expected["finished"][name]
    assert run_train(name, run["config"], run["changes"]) == 0
    assert_same(read_metrics(f"runs/{name}"), run["metrics"])
    assert_same(read_evaluation(f"runs/{name}"), run["evaluation"])


def test_training_starts_from_a_model(expected):
    run = expected["finished"]["audio"]
    assert run_train("new", run["config"], run["changes"]) == 0
    assert_same(read_metrics("runs/new"), run["metrics"])


@pytest.mark.slow
def test_training_starts_from_a_backbone(expected):
    """Compares no figures: versions may draw the other layers differently."""
    run = expected["finished"]["audio_visual"]
    changes = {**run["changes"], "model.pretrained": "models/backbone"}
    assert run_train("new", run["config"], changes) == 0


def test_stopped_cross_validation_resumes_to_the_same_figures(expected):
    done = Path("runs/crossval/published-seed0/metrics.jsonl")
    before = done.read_text()
    run = expected["crossval"]
    assert run_crossval(run["config"], run["changes"]) == 0
    assert_same(json.loads(Path("runs/crossval/crossval.json").read_text()), run["summary"])
    assert done.read_text() == before


# ----------------------------------------------------------------------------------- preparation


def raw_clips(names):
    """Creates empty raw files; prepared clips are not read again."""
    for name in names:
        path = Path("raw") / f"Actor_{name[-2:]}" / f"{name}.{'wav' if name[:2] == '03' else 'mp4'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("dataset", "options"),
    [
        ("clips", ("--num_frames=2", "--image_size=64", "--seconds=1")),
        ("sounds", ("--profile=reference", "--num_frames=2", "--image_size=64", "--log_mels=16")),
    ],
)
def test_dataset_is_complete(dataset, options, capsys):
    raw_clips(json.loads(Path(dataset, "prepare.json").read_text())["clips"])
    assert prepare.main(["prepare", "--source=raw", f"--out={dataset}", *options]) == 0
    assert "(0 prepared now" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("out", "command"),
    [("stopped", ("--source=raw", "--seconds=0.5")), ("sharded", ("--merge",))],
)
def test_stopped_preparation_is_not_mixed_with_clips_of_this_version(out, command, capsys):
    """Frames are chosen by other times since."""
    names = [path.stem for path in Path().glob(f"{out}.*/clips/*.npz")]
    assert len(names) == 3
    raw_clips(names)
    assert prepare.main(["prepare", *command, f"--out={out}"]) == 1
    error = capsys.readouterr().err
    assert f"error: {out}." in error and "another version of avjax prepared differently" in error
    assert [path.stem for path in Path().glob(f"{out}.*/clips/*.npz")] == names
