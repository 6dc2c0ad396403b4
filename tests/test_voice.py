"""The voice model that avjax carries."""

import json
import re

import numpy as np
import pytest

import avjax
from avjax import predict
from avjax.data.ravdess import EMOTIONS
from avjax.errors import InputError
from avjax.runs.saved_model import CARRIED, carried_models, load_model
from tests.clips import tone, write_sound, write_video

FOLDER = CARRIED / "voice"


@pytest.fixture(scope="module")
def voice():
    return avjax.load("voice")


def test_its_card_says_how_it_fares_and_what_it_is_not_for(voice):
    card = voice.card
    assert carried_models() == ["voice"]
    assert voice.net.inputs.streams == ("audio",)
    assert card.classes == list(EMOTIONS)
    accuracy = r"(6|7)\d\.\d% of 1440 clips, each by a model of the same recipe that never heard"
    assert re.match(accuracy, card.about["accuracy"])
    assert "this one is trained on all of them" in card.statement
    assert "accuracy" not in card.metrics  # it has no validation clips
    assert "acted speech" in card.statement and "CC BY-NC-SA 4.0" in card.statement
    assert 0.25 < card.temperatures["audio"] < 16


def test_its_folder_has_a_licence_of_its_own():
    assert {path.name for path in FOLDER.iterdir()} == {"LICENSE", "README.md", "model.safetensors"}
    assert (FOLDER / "model.safetensors").stat().st_size < 4e6
    assert "NonCommercial-ShareAlike" in (FOLDER / "LICENSE").read_text()
    assert load_model(FOLDER)[1].about["accuracy"] in (FOLDER / "README.md").read_text()


def test_predict_uses_it_without_a_checkpoint(tmp_path, capsys):
    clip = write_sound(tmp_path / "clip.wav", tone(2.0))
    assert predict.main(["predict", "--json", str(clip)]) == 0
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert list(line["probabilities"]) == list(EMOTIONS)
    assert sum(line["calibrated"].values()) == pytest.approx(1)
    assert err.startswith("model voice\n") and "accuracy: " in err


def test_a_video_without_sound_is_refused_by_name(voice, tmp_path):
    silent = write_video(tmp_path / "silent.mp4", [np.zeros((64, 64, 3), np.uint8)] * 10)
    with pytest.raises(InputError, match=r"silent\.mp4"):
        voice.predict(silent)


def test_a_folder_of_its_name_is_another_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "voice").mkdir()
    assert avjax.load("voice").card.about["name"] == "voice"
    with pytest.raises(InputError, match="holds no model"):
        avjax.load("./voice")


@pytest.mark.ravdess
def test_it_recognises_the_voices_that_it_was_trained_on(voice, shared_dir):
    clips = sorted((shared_dir / "ravdess" / "audio" / "Actor_07").glob("*.flac"))[::5]
    hits = [voice.predict(clip).label == EMOTIONS[int(clip.name[6:8]) - 1] for clip in clips]
    assert len(hits) == 12 and np.mean(hits) > 0.9
