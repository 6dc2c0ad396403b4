"""Custom clips from a manifest to a prediction: other classes, lengths, rates and sizes."""

import json

import numpy as np
import pytest

from avjax import evaluate, predict, train
from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.predict import Model
from avjax.prepare import PreparationSettings, main, prepare
from configs import common
from tests.clips import WholeFrame, frame, tone, write_sound, write_video
from tests.training_runs import train_run

CLASSES = ("low", "middle", "high")
SETTINGS = PreparationSettings("fixed", 3, 64, pair_video_only=False, seconds=1.2)
SPLITS = {"Ann": "train", "Bob": "validation", "Cem": "test"}


def write_clip(folder, group, number):
    """Writes a clip whose pitch and brightness depend on the class; returns the class."""
    label = number % len(CLASSES)
    sound = tone(2.0, hertz=200.0 * 3**label) * np.float32(0.5 + 0.05 * number)
    images = [frame(10 + 25 * label + i, 160, 120) for i in range(40)]
    if number == 4:  # no sound
        write_video(folder / f"{group}/{number}.mp4", images, rate=20)
    elif number == 5:  # no video
        write_sound(folder / f"{group}/{number}.wav", sound)
    else:
        write_video(folder / f"{group}/{number}.mp4", images, rate=20, sound=sound)
    return CLASSES[label]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own clips")
    lines = ["video,audio,label,group,start,end,split"]
    for group, split in SPLITS.items():
        for number in range(6):
            label = write_clip(folder, group, number)
            files = f",{group}/5.wav" if number == 5 else f"{group}/{number}.mp4,"
            lines.append(f"{files},{label},{group},0.25,1.75,{split}")
    lines.append(f"gone.mp4,,low,Ann,,,{split}")
    path = folder / "clips.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def prepare_manifest(manifest, out):
    return prepare(
        None, out, SETTINGS, manifest=manifest, classes=CLASSES, make_detector=WholeFrame
    )


@pytest.fixture(scope="module")
def dataset(manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "DATA"
    summary = prepare_manifest(manifest, out)
    assert summary.written == 18
    assert list(summary.skipped) == ["gone"] and "clips.csv line 20" in summary.skipped["gone"]
    return out


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    config = common.get_config("own")
    config.data.dir, config.data.fold = str(dataset), "manifest"
    config.num_epochs, config.batch_size, config.mask = 2, 6, "nodropout"

    def build(network):
        return AudioVisualNet(network["num_classes"], stage_repeats=(1, 1, 1))

    workdir = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        for module in (train, evaluate, predict):
            patch.setattr(module, "build_network", build)
        train_run(config, workdir)
        yield workdir


def test_dataset_follows_the_manifest(dataset):
    opened = open_dataset(dataset)
    assert opened.metadata.classes == CLASSES
    assert (opened.metadata.seconds, opened.metadata.audio_steps) == (1.2, 52)
    records = {record.clip_id: record for record in opened.records}
    assert len(records) == 18
    assert {(r.group, r.subset, r.split) for r in records.values()} == {
        (name, split, f"group_{name.lower()}") for name, split in SPLITS.items()
    }
    assert records["Cem/2@0.25-1.75"].label == 2
    assert [r.clip_id for r in records.values() if not r.has_audio] == [
        f"{name}/4@0.25-1.75" for name in SPLITS
    ]
    assert [r.clip_id for r in records.values() if not r.has_video] == [
        f"{name}/5@0.25-1.75" for name in SPLITS
    ]
    numbers = {r.clip_id: i for i, r in enumerate(opened.records)}
    clip = opened.read(numbers["Ann/0@0.25-1.75"])
    # The window is the middle 1.2 s of 0.25 to 1.75 s: frames 8 to 31 at 20 per second.
    brightness = np.asarray(clip["frames"]).mean((1, 2, 3))
    expected = [frame(10 + i).mean() for i in (12, 20, 28)]
    np.testing.assert_allclose(brightness, expected, atol=4)
    assert clip["mfcc"].shape == (52, 10)


def test_same_manifest_adds_nothing_and_a_changed_one_is_refused(manifest, dataset):
    assert prepare_manifest(manifest, dataset).prepared_now == 0
    text = manifest.read_text(encoding="utf-8")
    manifest.write_text(text.replace("Ann/0.mp4,,low", "Ann/0.mp4,,high"), encoding="utf-8")
    try:
        with pytest.raises(InputError, match=r"clip Ann/0@0\.25-1\.75 was listed differently"):
            prepare_manifest(manifest, dataset)
    finally:
        manifest.write_text(text, encoding="utf-8")


def test_evaluation_has_figures_by_group(run):
    evaluation = json.loads((run / "evaluation.json").read_text())
    assert evaluation["classes"] == list(CLASSES)
    assert evaluation["num_clips"] == 6
    assert list(evaluation["actors"]) == ["Cem"]
    confusion = np.array(evaluation["conditions"]["audiovisual"]["confusion"])
    assert confusion.shape == (3, 3)


def test_prediction_prepares_clips_as_for_training(run, manifest):
    trained = Model.load(run)
    model = Model(trained.variables, trained.card, detector=WholeFrame())
    for name, missing in (("0.mp4", ()), ("4.mp4", ("audio",)), ("5.wav", ("video",))):
        prediction = model.predict(manifest.parent / "Cem" / name)
        assert prediction.label in CLASSES
        assert list(prediction.probabilities) == list(CLASSES)
        assert prediction.missing == missing
    assert model.card.seconds == 1.2


def test_times_outside_the_file_are_refused(manifest, tmp_path, capsys, monkeypatch):
    path = manifest.parent / "late.csv"
    path.write_text("video,label,start\nAnn/4.mp4,low,9\n", encoding="utf-8")
    monkeypatch.setattr("avjax.preparation.face_detector.default_detector", WholeFrame)
    assert main(["prepare", f"--manifest={path}", f"--out={tmp_path / 'DATA'}"]) == 1
    assert "has no frame from 9 s on; correct" in " ".join(capsys.readouterr().err.split())
