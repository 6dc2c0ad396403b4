"""Training end to end on a small dataset: metrics, resuming, errors."""

import contextlib
import csv
import io
import json
import re

import jax
import numpy as np
import pytest

from avjax import train
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.models.network import CONDITIONS
from avjax.runs.saved_model import load_model
from avjax.training.calibration import calibration_error, mean_loss, tempered
from configs import common
from tests.training_runs import lines, stopped_at, train_run

CLASSES = ("low", "high")
EPOCHS = 5
pytestmark = pytest.mark.usefixtures("small_networks")
FOLD = "train: actor=1; validation: actor=2; test: actor=3"


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """Three actors with ten clips each; both streams depend on the class."""
    rng = np.random.default_rng(0)
    records, clips = [], []
    for number in range(30):
        actor, label = number // 10 + 1, number % 2
        name, split = f"clip-{number:02d}", f"actor_{actor:02d}"
        records.append(ClipRecord(name, split, label, actor, 1, 1, 1, "x"))
        frames = rng.integers(0, 128, (2, 64, 64, 3)) + 127 * label
        mfcc = rng.normal(10 * label, 1, (16, 10))
        clips.append(PreparedClip(np.uint8(frames), np.float32(mfcc), True, True))
    metadata = DatasetMetadata("fixed", CLASSES, 2, 64, 16, {})
    return write_dataset(tmp_path_factory.mktemp("data"), metadata, records, clips)


def small_config(data_dir):
    config = common.get_config("small")
    config.model.kind = "small"
    config.data.dir = str(data_dir)
    config.data.fold = FOLD
    config.num_epochs = EPOCHS
    config.batch_size = 4
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data_dir, small_networks):
    """An uninterrupted run, and what it printed on standard error."""
    workdir = tmp_path_factory.mktemp("run")
    with contextlib.redirect_stderr(io.StringIO()) as printed:
        train_run(small_config(data_dir), workdir)
    return workdir, printed.getvalue()


@pytest.fixture(scope="module")
def finished(trained):
    return trained[0]


def test_run_tells_what_it_trains_and_a_line_an_epoch(trained, data_dir):
    workdir, printed = trained
    banner, epochs = printed.split("compiling the training step, within the first epoch\n")
    assert banner.startswith(f"training small into {workdir}\n")
    for topic, text in (
        ("network", "small, fusion ia, num_heads 1; "),
        ("dropout", "softhard; training loss and accuracy are those of the enlarged batch"),
        ("data", f"{data_dir}, profile fixed, 2 classes"),
        ("fold", FOLD),
        ("train", "10 clips of 1 actor"),
        ("epochs", "5, each of 3 steps of 4 clips; sgd, float32, seed 1"),
        ("devices", "2 cpu (jit)"),
    ):
        assert f"  {topic:11} {text}" in banner
    validations = [line for line in lines(workdir) if line["split"] == "validation"]
    told = [line for line in epochs.splitlines() if line.startswith("epoch ")]
    for line, figures in zip(told, validations, strict=True):
        assert line.startswith(f"epoch {figures['epoch']}/5: train loss ")
        assert f"validation loss {figures['loss']:.3f}, accuracy {figures['accuracy']:.1%}" in line
    assert [" left" in line for line in told] == [True] * 4 + [False]
    assert "\r" not in printed


def test_run_writes_metrics_evaluation_and_report(finished):
    splits = [(line["epoch"], line["split"]) for line in lines(finished)]
    assert splits == [(e, split) for e in range(1, EPOCHS + 1) for split in ("train", "validation")]
    assert [line["step"] for line in lines(finished)[::2]] == [3, 6, 9, 12, 15]
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert evaluation["split"] == "test"
    assert evaluation["num_clips"] == 10
    assert list(evaluation["conditions"]) == list(CONDITIONS)
    for figures in evaluation["conditions"].values():
        assert np.sum(figures["confusion"]) == 10
        assert figures["accuracy"] == np.trace(figures["confusion"]) / 10
    assert (finished / "report.html").exists()
    assert list(finished.glob("events.out.tfevents.*"))


ALONE = ("audiovisual", "audio_only/zeros", "video_only/zeros")


def test_evaluation_holds_every_clips_probabilities(finished):
    """Raw and calibrated, undisturbed and of each stream alone; the CSV file holds the same."""
    evaluation = json.loads((finished / "evaluation.json").read_text())
    clips = evaluation["clips"]
    assert list(clips) == list(evaluation["predictions"]) == [f"clip-{n}" for n in range(20, 30)]
    _, card = load_model(finished)
    assert evaluation["temperatures"] == card.temperatures
    assert list(card.temperatures) == ["both", "audio", "video"]
    labels = np.array([CLASSES.index(clip["truth"]) for clip in clips.values()])
    assert labels.tolist() == [n % 2 for n in range(20, 30)]
    assert {clip["speaker"] for clip in clips.values()} == {"3"}
    for name, temperature in zip(ALONE, card.temperatures.values(), strict=True):
        raw, calibrated = (
            np.array([clip[key][name] for clip in clips.values()])
            for key in ("probabilities", "calibrated")
        )
        np.testing.assert_allclose(raw.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(calibrated, tempered(np.log(raw), temperature), rtol=1e-3)
        figures = evaluation["conditions"][name]
        assert mean_loss(np.log(raw), labels) == pytest.approx(figures["loss"], rel=1e-3)
        assert mean_loss(np.log(calibrated), labels) == pytest.approx(
            figures["calibrated"]["loss"], 1e-3
        )
        assert calibration_error(raw, labels) == pytest.approx(figures["calibration_error"], 1e-3)
        predicted = [CLASSES[k] for k in raw.argmax(1)]
        if name == "audiovisual":
            assert predicted == list(evaluation["predictions"].values())
        assert np.mean(raw.argmax(1) == labels) == figures["accuracy"]
    noise = evaluation["conditions"]["audio_only/noise"]
    assert 0 <= noise["calibrated"]["calibration_error"] <= 1
    with (finished / "evaluation.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["clip"], r["condition"]) for r in rows] == [(c, n) for c in clips for n in ALONE]
    for row in rows:
        clip, name = clips[row["clip"]], row["condition"]
        assert (row["truth"], row["speaker"]) == (clip["truth"], "3")
        for kind, key in (("", "probabilities"), ("calibrated_", "calibrated")):
            assert [float(row[f"{kind}{c}"]) for c in CLASSES] == clip[key][name]


def test_report_of_a_run_shows_clips_attention_and_data(finished):
    evaluation = json.loads((finished / "evaluation.json").read_text())
    for clip in evaluation["clips"].values():
        assert list(clip["predicted"]) == list(CONDITIONS)
    assert 2 <= len(evaluation["attention"]) <= 8
    for received in evaluation["attention"].values():
        assert len(received["video"]) == 2
        for values in received.values():
            assert np.mean(values) == pytest.approx(1, abs=0.01)
    page = (finished / "report.html").read_text()
    assert page.count("data:image/jpeg") == page.count("even shares") / 4 > 1  # and their labels
    assert "<td>clips</td><td>10</td><td>10</td><td>10</td>" in page
    assert "<td>parameters</td>" in page
    assert not re.search(r'(src|href)="(?!#|data:image)|<script|@import', page)


def test_network_learns_the_classes(finished):
    """Training metrics: after so few steps the running statistics lag behind."""
    trained = [line for line in lines(finished) if line["split"] == "train"]
    assert trained[-1]["loss"] < 0.5 * trained[0]["loss"]
    assert trained[-1]["accuracy"] >= 0.8


def test_best_model_is_from_the_earliest_best_validation(finished):
    validations = [line for line in lines(finished) if line["split"] == "validation"]
    best = max(validations, key=lambda line: (line["accuracy"], -line["epoch"]))
    _, card = load_model(finished)
    assert card.epoch == best["epoch"]
    assert card.metrics["accuracy"] == best["accuracy"]
    assert tuple(card.classes) == CLASSES


@pytest.mark.slow  # other tests resume runs of sound alone
@pytest.mark.parametrize("stop_after", [1, 2])  # calls of 1 and 2 steps
def test_interrupted_run_resumes_bit_by_bit(finished, data_dir, tmp_path, stop_after):
    """Stopped within the first epoch, and at its last call."""
    with stopped_at(stop_after):
        train_run(small_config(data_dir), tmp_path)
    train_run(small_config(data_dir), tmp_path)
    assert lines(tmp_path) == lines(finished)
    actual, expected = (load_model(workdir)[0] for workdir in (tmp_path, finished))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_finished_run_is_only_evaluated_again(finished, data_dir):
    before = lines(finished)
    train_run(small_config(data_dir), finished)
    assert lines(finished) == before


def test_different_config_in_the_same_workdir_is_refused(finished, data_dir):
    config = small_config(data_dir)
    config.optimizer.momentum = 0.8
    with pytest.raises(InputError, match=r"optimizer\.momentum was 0\.9 and is 0\.8"):
        train_run(config, finished)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("mask", "softhrd", "unknown config.mask 'softhrd'"),
        ("parallel", "pjit", "unknown config.parallel 'pjit'; choose one of jit, pmap"),
        ("batch_size", 5, "batch_size=5 cannot be split over 2 devices"),
        ("data.fold", "publishd", "unknown fold 'publishd'"),
        ("data.fold", "train: actor=1; validation: actor=2; test: actor=9", "the test split;"),
        ("data.dir", "/nowhere", "there is no dataset at /nowhere; prepare one"),
    ],
)
def test_bad_config_values_are_refused(data_dir, tmp_path, key, value, message):
    config = small_config(data_dir)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=message):
        train_run(config, tmp_path)
    assert not any(tmp_path.iterdir())


def run_main(*arguments):
    return train.main(["train", *arguments])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config is missing"),
        (("--config=configs/nothing.py",), "configs/nothing.py"),
        (("--config=configs/ia_softhard.py", "--config.learning_rat=1"), "learning_rat"),
        (("--config=configs/ia_softhard.py", "--config.batch_size=many"), "batch_size"),
        (("--config=configs/ia_softhard.py", "--config.data.dir=/nowhere"), "/nowhere"),
        (("--config=configs/ia_softhard.py", "--config.model.fusion=aa"), "unknown fusion 'aa'"),
    ],
)
def test_command_reports_errors_in_one_line(arguments, message, capsys):
    assert run_main(*arguments) != 0
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert message in error
    assert "\n" not in error
