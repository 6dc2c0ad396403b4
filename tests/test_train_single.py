"""Training on a single stream, from a dataset to a prediction."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest

import avjax
from avjax import evaluate, predict
from avjax.data.feed import Feed
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import open_dataset
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.errors import InputError
from avjax.models.network import Inputs
from avjax.models.networks import build_network
from avjax.runs.metrics_log import read_metrics
from avjax.runs.saved_model import load_model
from avjax.runtime.devices import MODES, make_parallel
from avjax.runtime.sealed import read_json
from avjax.training.evaluator import Evaluator
from configs import common, video_only
from tests.clips import tone, write_sound, write_video
from tests.sound_dataset import CLIPS, audio_config, write_sounds
from tests.training_runs import lines, stopped_at, train_run


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("sounds"))


@pytest.fixture(scope="module")
def audio_run(tmp_path_factory, sounds):
    """A run on sound."""
    workdir = tmp_path_factory.mktemp("run")
    train_run(audio_config(sounds), workdir)
    return workdir


def test_audio_network_is_trained_and_evaluated(audio_run):
    evaluation = json.loads((audio_run / "evaluation.json").read_text())
    assert list(evaluation["conditions"]) == ["audio_only/zeros", "video_only/addnoise"]
    clean = evaluation["conditions"]["audio_only/zeros"]
    assert clean["num_clips"] == evaluation["num_clips"] == 2 * CLIPS
    assert (audio_run / "report.html").exists()
    trained = [line for line in read_metrics(audio_run) if line["split"] == "train"]
    assert len(trained) == 3 and all(0 <= line["input_share"] <= 1 for line in trained)
    correct = [
        ("low", "high").index(predicted) == int(name[-2:]) % 2
        for name, predicted in evaluation["predictions"].items()
    ]
    assert len(correct) == 2 * CLIPS
    assert sum(correct) / len(correct) == clean["accuracy"]
    actors = {"5": correct[:CLIPS], "10": correct[CLIPS:]}
    assert evaluation["actors"] == {
        actor: {"num_clips": CLIPS, "accuracy": sum(hits) / CLIPS} for actor, hits in actors.items()
    }


def test_run_stopped_between_calls_resumes(audio_run, sounds, tmp_path):
    """Epochs of 3 steps in calls of 1 and 2; stopped after the first call."""
    config = audio_config(sounds)
    config.batch_size, config.steps_per_call = 2, 2
    train_run(config, tmp_path / "uninterrupted")
    with stopped_at(1):
        train_run(config, tmp_path / "stopped")
    assert not read_metrics(tmp_path / "stopped")
    train_run(config, tmp_path / "stopped")
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / name)]
        for name in ("uninterrupted", "stopped")
    ]
    assert losses[0] == losses[1]


def test_run_in_a_thread_is_the_same(audio_run, sounds, tmp_path):
    """Only the main thread gets signals."""
    with ThreadPoolExecutor(1) as pool:
        evaluation = pool.submit(train_run, audio_config(sounds), tmp_path).result()
    assert lines(tmp_path) == lines(audio_run)
    assert evaluation == read_json(audio_run / "evaluation.json", "")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.cache", "gpu", "unknown config.data.cache 'gpu'; choose one of auto, device"),
        ("steps_per_call", -1, "config.steps_per_call=-1; choose 0 or more"),
    ],
)
def test_bad_feed_settings_are_refused(sounds, tmp_path, key, value, message):
    config = audio_config(sounds)
    config.update_from_flattened_dict({key: value})
    with pytest.raises(InputError, match=re.escape(message)):
        train_run(config, tmp_path)
    assert not any(tmp_path.iterdir())


def test_run_without_newer_config_keys_resumes(audio_run, sounds, tmp_path):
    config = audio_config(sounds).to_dict()
    del config["data"]["cache"], config["steps_per_call"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    train_run(audio_config(sounds), tmp_path)
    actual, expected = ([line["loss"] for line in read_metrics(x)] for x in (tmp_path, audio_run))
    assert actual == expected
    changed = audio_config(sounds)
    changed.steps_per_call = 3
    with pytest.raises(InputError, match="steps_per_call was 0 and is 3"):
        train_run(changed, tmp_path)


def test_audio_network_learns(sounds, tmp_path):
    config = audio_config(sounds)
    config.num_epochs, config.optimizer.learning_rate = 6, 0.01
    train_run(config, tmp_path)
    trained = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    assert trained[-1]["loss"] < trained[0]["loss"]
    assert trained[-1]["accuracy"] >= 0.8


def test_card_of_an_audio_network_has_no_frames(audio_run):
    variables, card = load_model(audio_run)
    assert card.network == {"kind": "audio", "num_classes": 2}
    assert card.num_frames == 0
    assert set(variables["params"]) == {"audio_model"}


def test_evaluation_does_not_depend_on_the_number_of_devices(audio_run, sounds):
    """Includes conditions with batch statistics; 12 clips, so some rows are padding."""
    variables, card = load_model(audio_run)
    clips = open_dataset(sounds).select(resolve_fold("published")["test"], Inputs(("audio",)))
    results = []
    for mode, devices in (("jit", 1), *((mode, 2) for mode in MODES)):
        parallel = make_parallel(mode, 8 * devices, jax.local_devices()[:devices])
        evaluator = Evaluator(build_network(card.network), "reference", parallel)
        replicated = parallel.replicate(variables)
        scores, logits, _ = evaluator.all_conditions(variables, clips)
        feed = Feed([clips], "auto", parallel)
        scores["undisturbed"] = evaluator.undisturbed(replicated, clips, feed)
        losses = [figures.pop("loss") for figures in scores.values()]
        results.append((scores, losses, logits))
    for result in results:
        assert result[0] == results[0][0]
        np.testing.assert_allclose(result[1], results[0][1], rtol=1e-6)
        for name, values in result[2].items():
            assert values.shape == (len(clips), 2)
            np.testing.assert_allclose(values, results[0][2][name], rtol=1e-4, atol=1e-5)


def test_audio_model_predicts_from_sound_only(audio_run, tmp_path, monkeypatch):
    monkeypatch.setattr(predict, "default_detector", pytest.fail)
    model = avjax.load(audio_run)
    sound = model.predict(write_sound(tmp_path / "voice.wav", tone(1.0)))
    assert sound.missing == ()
    assert model.predict(write_video(tmp_path / "a.mp4", 30, sound=tone(1.0))).missing == ()
    with pytest.raises(InputError, match=r"mute\.mp4 has no sound, and the model reads"):
        model.predict(write_video(tmp_path / "mute.mp4", 30))
    mfcc = np.random.default_rng(1).normal(size=(2, 16, 10)).astype(np.float32)
    frames = np.full((2, 3, 64, 64, 3), 7, np.uint8)
    np.testing.assert_array_equal(model.logits(mfcc), model.logits(mfcc, frames))
    with pytest.raises(InputError, match="neither mfcc nor frames"):
        model.logits()
    with pytest.raises(InputError, match="reads only mfcc"):
        model.logits(None, frames)


def test_configs_that_do_not_fit_the_streams_are_refused(sounds, tmp_path):
    config = audio_config(sounds)
    config.mask = "softhard"
    with pytest.raises(InputError, match=r"mask 'softhard' takes away the only stream"):
        train_run(config, tmp_path)
    config = common.get_config("both")
    config.data.dir = str(sounds)
    with pytest.raises(InputError, match=r"holds sound only; train --config audio_only"):
        train_run(config, tmp_path)
    assert not any(tmp_path.iterdir())


# ------------------------------------------------------------------------------- frames and both


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Four clips of three actors each; one of the four lacks sound and one video."""
    rng = np.random.default_rng(0)
    records, clips = [], []
    for number in range(12):
        actor, label = number // 4 + 1, number % 2
        has_audio, has_video = number % 4 != 2, number % 4 != 3
        silent = f"02-01-01-01-01-01-{actor:02d}"  # RAVDESS's recordings without sound
        records.append(
            ClipRecord(
                f"clip-{number:02d}" if has_audio else silent,
                f"actor_{actor:02d}",
                label,
                actor,
                has_audio=has_audio,
                has_video=has_video,
            )
        )
        # The content of missing streams must not matter.
        frames = rng.integers(0, 128, (2, 64, 64, 3)) + 127 * label
        mfcc = rng.normal(10 * label, 1, (16, 10))
        clips.append(PreparedClip(np.uint8(frames), np.float32(mfcc), has_audio, has_video))
    metadata = DatasetMetadata("fixed", ("low", "high"), 2, 64, 16, {})
    return write_dataset(tmp_path_factory.mktemp("mixed"), metadata, records, clips)


def mixed_config(config, directory):
    config.data.dir = str(directory)
    config.data.fold = "train: actor=1; validation: actor=2; test: actor=3"
    config.num_epochs, config.batch_size = 1, 4
    return config


@pytest.mark.usefixtures("small_networks")
@pytest.mark.parametrize("takes_silent", [pytest.param(False, marks=pytest.mark.slow), True])
def test_video_network_is_trained_and_evaluated(mixed, tmp_path, takes_silent):
    config = mixed_config(video_only.get_config(), mixed)
    config.model.kind = "small_video"
    config.data.video_only = takes_silent
    evaluation = train_run(config, tmp_path)
    assert list(evaluation["conditions"]) == ["video_only/zeros", "audio_only/addnoise"]
    assert evaluation["num_clips"] == (3 if takes_silent else 2)
    model = avjax.load(tmp_path)
    frames = np.full((1, 2, 64, 64, 3), 7, np.uint8)
    mfcc = np.ones((1, 16, 10), np.float32)
    np.testing.assert_array_equal(model.logits(None, frames), model.logits(mfcc, frames))
    with pytest.raises(InputError, match="reads only frames"):
        model.logits(mfcc)
    with pytest.raises(InputError, match="has no face, and the model reads"):
        model.predict(write_sound(tmp_path / "voice.wav", tone(1.0)))


@pytest.mark.usefixtures("small_networks")
def test_clips_that_lack_a_stream_are_trained_and_evaluated(mixed, sounds, tmp_path, monkeypatch):
    config = mixed_config(common.get_config("mixed"), mixed)
    config.model.kind = "small"
    config.data.video_only = True
    evaluation = train_run(config, tmp_path)
    counts = {name: scores["num_clips"] for name, scores in evaluation["conditions"].items()}
    assert counts.pop("audiovisual") == 4
    assert set(counts.values()) == {3}
    # A clip that lacks a stream has the other's temperature, and no probabilities of its own.
    (silent,) = [clip for name, clip in evaluation["clips"].items() if name.startswith("02-")]
    assert set(silent["probabilities"]) == {"audiovisual", "video_only/zeros"}
    assert list(evaluation["temperatures"]) == ["both", "audio", "video"]
    for key in ("probabilities", "calibrated"):
        undisturbed, alone = silent[key].values()
        np.testing.assert_allclose(undisturbed, alone, rtol=1e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(load_model(tmp_path)[0]))
    # On sound only, conditions that need frames have no clips.
    monkeypatch.setattr(evaluate, "check_compatible", lambda *_: None)
    evaluation = evaluate.evaluate_checkpoint(tmp_path, sounds, "published")
    assert {name.partition("/")[0] for name in evaluation["conditions"]} == {
        "audiovisual",
        "audio_only",
    }
    clean, zeros = (evaluation["conditions"][name] for name in ("audiovisual", "audio_only/zeros"))
    assert clean["confusion"] == zeros["confusion"]
