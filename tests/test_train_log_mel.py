"""The strong sound recipe, from a dataset to a prediction."""

import json

import jax
import numpy as np
import pytest

import avjax
from avjax.data.pipeline import open_dataset
from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.runs.metrics_log import MetricsLog
from avjax.runs.saved_model import load_model
from avjax.training.calibration import tempered
from configs import audio_only, audio_only_strong
from tests.clips import tone, write_sound
from tests.sound_dataset import write_sounds
from tests.training_runs import lines, train_run

MELS = 12


@pytest.fixture(scope="module")
def spectra(tmp_path_factory):
    return write_sounds(tmp_path_factory.mktemp("spectra"), log_mels=MELS)


def mel_config(data_dir):
    config = audio_only_strong.get_config()
    config.data.dir = str(data_dir)
    config.model.num_mels, config.model.coefficients = MELS, (4, 12)
    config.num_epochs, config.batch_size = 8, 4
    config.optimizer.warmup_epochs = 1
    return config


@pytest.fixture(scope="module")
def finished(tmp_path_factory, spectra):
    workdir = tmp_path_factory.mktemp("run")
    train_run(mel_config(spectra), workdir)
    return workdir


def test_log_mel_network_learns_and_is_evaluated(finished):
    rates = [line["learning_rate"] for line in lines(finished) if line["split"] == "train"]
    assert rates[-1] < 0.1 * max(rates)
    evaluation = json.loads((finished / "evaluation.json").read_text())
    assert list(evaluation["conditions"]) == ["audio_only/zeros", "video_only/addnoise"]
    assert evaluation["conditions"]["audio_only/zeros"]["accuracy"] >= 0.8
    _, card = load_model(finished)
    assert card.network == {
        "kind": "log_mel",
        "num_classes": 2,
        "num_mels": MELS,
        "coefficients": [4, 12],
    }
    # The ensemble's mean log probabilities are calibrated like logits.
    clip = evaluation["clips"]["clip-05-00"]
    raw, calibrated = (clip[k]["audio_only/zeros"] for k in ("probabilities", "calibrated"))
    (temperature,) = card.temperatures.values()
    np.testing.assert_allclose(
        calibrated, tempered(np.log([raw]), temperature)[0], rtol=1e-3, atol=1e-6
    )


def test_interrupted_run_resumes_bit_by_bit(finished, spectra, tmp_path, monkeypatch):
    write = MetricsLog.end_epoch

    def stop_after_two(self, *lines):
        write(self, *lines)
        if lines[0]["epoch"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "end_epoch", stop_after_two)
        with pytest.raises(KeyboardInterrupt):
            train_run(mel_config(spectra), tmp_path)
    train_run(mel_config(spectra), tmp_path)
    assert lines(tmp_path) == lines(finished)
    actual, expected = (load_model(run)[0] for run in (tmp_path, finished))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_prediction_computes_log_mel_spectra(finished, spectra, tmp_path):
    model = avjax.load(finished)
    sound = model.predict(write_sound(tmp_path / "voice.wav", tone(1.0, hertz=200.0)))
    assert sum(sound.probabilities.values()) == pytest.approx(1)
    stored = open_dataset(spectra).read(0)["log_mel"]
    assert model.logits(stored[None]).shape == (1, 2)
    with pytest.raises(InputError, match=r"give \[b, t, 12\]"):
        model.logits(np.zeros((1, 16, 10), np.float32))
    clip = PreparedClip(np.zeros((0, 64, 64, 3), np.uint8), stored[:, :10], True, False)
    with pytest.raises(InputError, match="prepared without log-mel spectrograms"):
        model.predict_prepared(clip)


def test_configs_that_do_not_fit_the_dataset_are_refused(spectra, tmp_path):
    def check_refused(config, message):
        with pytest.raises(InputError, match=message):
            train_run(config, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    check_refused(mel_config(write_sounds(tmp_path / "sounds")), "again with --log_mels=12")
    config = mel_config(spectra)
    config.model.num_mels = 64
    check_refused(config, "holds 12 mel bands and the network reads 64")
    config = mel_config(spectra)
    config.optimizer.name = "adam"
    check_refused(config, "unknown optimizer 'adam'; choose one of sgd, adamw")
    config = mel_config(spectra)
    config.optimizer.warmup_epochs = 8
    check_refused(config, "warmup_epochs=8 of 8 epochs")
    config = audio_only.get_config()
    config.data.dir, config.sound_augment.warp = str(spectra), 0.1
    check_refused(config, "reads none; set its values to 0")
