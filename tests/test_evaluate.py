"""Evaluation of a checkpoint, only on clips prepared like its training clips."""

import dataclasses

import jax
import numpy as np
import pytest

from avjax import evaluate
from avjax.data.folds import Filter
from avjax.data.pipeline import open_dataset
from avjax.data.records import DatasetMetadata
from avjax.errors import InputError
from avjax.evaluate import check_compatible
from avjax.models.network import DISTURBANCES
from avjax.models.networks import build_network
from avjax.models.variables import init_variables
from avjax.runs.saved_model import ModelCard, save_model
from avjax.runtime.sealed import read_json
from tests.sound_dataset import write_sounds

DATA = DatasetMetadata("fixed", ("low", "high"), 6, 64, 87, {}, seconds=2.0)
NETWORKS = {
    "audio_visual": {"fusion": "ia", "num_heads": 1},
    "audio": {},
    "video": {},
    "log_mel": {"num_mels": 8, "coefficients": [4]},
}


def card(kind="audio_visual", **changes):
    """Returns a model card that fits `DATA`, except for the changes."""
    network = {"kind": kind, "num_classes": 2, **NETWORKS[kind]}
    return dataclasses.replace(
        ModelCard(network, ["low", "high"], "fixed", 6, 64, 87, seconds=2.0), **changes
    )


def refusal(card, data=DATA):
    with pytest.raises(InputError) as error:
        check_compatible(card, data, "RUN", "DATA")
    return str(error.value)


def test_all_differing_values_are_listed_with_a_remedy():
    message = refusal(card(num_frames=15, seconds=3.6, audio_steps=156))
    assert message == (
        "dataset DATA does not suit checkpoint RUN: seconds 2.0 instead of 3.6 and num_frames 6 "
        "instead of 15 and audio_steps 87 instead of 156; prepare the clips with --seconds=3.6 "
        "--num_frames=15, or choose another checkpoint"
    )


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("profile", "reference", "prepare the clips with --profile=reference, or"),
        ("classes", ["high", "low"], "choose another dataset or"),
        ("image_size", 224, "prepare the clips with --image_size=224, or"),
        ("audio_steps", 88, "choose another dataset or"),
    ],
)
def test_each_value_is_compared(name, value, remedy):
    actual = list(DATA.classes) if name == "classes" else getattr(DATA, name)
    message = refusal(card(**{name: value}))
    assert f"RUN: {name} {actual!r} instead of {value!r}; {remedy}" in message


def test_flags_are_offered_only_where_they_cure_every_difference():
    message = refusal(card(classes=["high", "low"], image_size=224))
    assert message.endswith("image_size 64 instead of 224; choose another dataset or checkpoint")


def test_table_counts_clips_where_conditions_have_different_ones():
    figures = {"accuracy": 0.5, "macro_f1": 0.4, "loss": 1.0}
    one, two = {"num_clips": 1, **figures}, {"num_clips": 2, **figures}
    evaluation = {"split": "test", "num_clips": 2, "conditions": {"audiovisual": two, "noise": one}}
    header, *rows = evaluate.table(evaluation).splitlines()[1:]
    assert header.split() == ["condition", "clips", "accuracy", "macro", "F1", "loss"]
    assert [row.split()[1] for row in rows] == ["2", "1"]
    assert {len(line) for line in (header, *rows)} == {len(header)}
    evaluation["conditions"]["noise"] = two
    assert "condition              accuracy" in evaluate.table(evaluation)


@pytest.mark.parametrize("kind", NETWORKS)
def test_only_streams_that_the_network_reads_are_compared(kind):
    reads_video, reads_audio = kind in ("audio_visual", "video"), kind != "video"
    check_compatible(card(kind), DATA, "RUN", "DATA")
    for name, read in (
        ("num_frames", reads_video),
        ("image_size", reads_video),
        ("audio_steps", reads_audio),
    ):
        changed = card(kind, **{name: 99})
        if read:
            assert f"{name} {getattr(DATA, name)} instead of 99" in refusal(changed)
        else:
            check_compatible(changed, DATA, "RUN", "DATA")


@pytest.mark.usefixtures("small_networks")
def test_audio_visual_model_is_evaluated_on_sound(tmp_path):
    """It gets black frames of the size that it was trained on."""
    data_dir = write_sounds(tmp_path / "data")
    model_card = ModelCard(
        {"kind": "small", "fusion": "ia", "num_heads": 1, "num_classes": 2},
        ["low", "high"], "reference", num_frames=3, image_size=96, audio_steps=16,
    )  # fmt: skip
    variables = init_variables(build_network(model_card.network), jax.random.key(0))
    save_model(tmp_path / "model", variables, model_card)
    evaluation = evaluate.evaluate_checkpoint(tmp_path / "model", data_dir, "published")
    assert evaluation["num_clips"] == 12
    clips = open_dataset(data_dir).select(Filter({}), num_frames=3, image_size=96)
    np.testing.assert_array_equal(clips[0]["frames"], np.zeros((3, 96, 96, 3), np.uint8))
    # Their figures are those of sound alone, and of a model without temperatures they are raw.
    figures = evaluation["conditions"]
    assert list(figures) == ["audiovisual", *(f"audio_only/{n}" for n in DISTURBANCES)]
    assert all("calibrated" not in x for x in (*figures.values(), *evaluation["clips"].values()))
    assert set(evaluation["clips"]["clip-05-00"]["probabilities"]) == {
        "audiovisual",
        "audio_only/zeros",
    }


def test_command_writes_the_evaluation_of_a_checkpoint(tmp_path, capsys, monkeypatch):
    """Beside the checkpoint, or where --out says; never into a run's folder."""
    data_dir = write_sounds(tmp_path / "data")
    model_card = card("audio", profile="reference", seconds=3.6, audio_steps=16)
    model_card = dataclasses.replace(model_card, temperatures={"audio": 2.0})
    variables = init_variables(build_network(model_card.network), jax.random.key(0))
    save_model(tmp_path / "run" / "best", variables, model_card)
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", "--checkpoint=run", f"--data={data_dir}"]
    assert evaluate.main(command) == 0
    printed = capsys.readouterr().out
    assert "evaluation: run-evaluation.json, clips: run-evaluation.csv" in printed
    evaluation = read_json(tmp_path / "run-evaluation.json", "")
    assert (evaluation["checkpoint"], evaluation["fold"]) == ("run", "published")
    assert evaluation["conditions"]["audio_only/zeros"]["calibrated"]["loss"] > 0
    rows = (tmp_path / "run-evaluation.csv").read_text().splitlines()
    assert rows[0] == (
        "clip,speaker,condition,truth,predicted,low,high,calibrated_low,calibrated_high"
    )
    assert len(rows) == 1 + 12
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["best"]
    absolute = ["evaluate", f"--checkpoint={tmp_path / 'run'}", f"--data={data_dir}"]
    assert evaluate.main(absolute) == 0  # replaces it
    assert f"evaluation: {tmp_path}/run-evaluation.json, clips: " in capsys.readouterr().out
    assert evaluate.main([*command, "--out=new/of test.json", "--split=validation"]) == 0
    assert read_json(tmp_path / "new" / "of test.json", "")["split"] == "validation"
    assert (tmp_path / "new" / "of test.csv").exists()
    capsys.readouterr()
    for arguments, message in (
        ([*command, "--out=x.csv"], "--out=x.csv is no .json file"),
        (["evaluate", "--workdir=run", "--out=x.json"], "--out goes with --checkpoint"),
    ):
        assert evaluate.main(arguments) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("out", ["config.json", "notes.json", "clips.json", "best/config.json"])
def test_evaluation_replaces_only_evaluations(tmp_path, capsys, out):
    """And is refused before any work: nothing here can be evaluated."""
    texts = {"config.json": '{"name": "run"}', "notes.json": "[]", "clips.csv": "file,label\n"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    command = ["evaluate", f"--checkpoint={tmp_path}", "--data=DATA", f"--out={tmp_path / out}"]
    assert evaluate.main(command) == 1
    error = capsys.readouterr().err
    assert f"error: {tmp_path / out}".removesuffix("json") in error
    assert "is not the file of an evaluation; name another with --out" in error
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == texts


def test_folder_without_a_run_is_named_once(tmp_path, capsys):
    assert evaluate.main(["evaluate", f"--workdir={tmp_path}"]) == 1
    assert capsys.readouterr().err.count(str(tmp_path)) == 1


def test_command_reports_a_mismatch_in_one_line(tmp_path, capsys):
    data_dir = write_sounds(tmp_path / "data")
    model_card = card("audio", profile="reference", seconds=3.6)
    variables = init_variables(build_network(model_card.network), jax.random.key(0))
    save_model(tmp_path / "model", variables, model_card)
    command = ["evaluate", f"--checkpoint={tmp_path / 'model'}", f"--data={data_dir}"]
    assert evaluate.main(command) == 1
    error = capsys.readouterr().err
    assert "audio_steps 16 instead of 87; choose another dataset or checkpoint" in error
    assert error.count("\n") == 1
