"""Preparing sound without video."""

import numpy as np
import pytest

from avjax import prepare as command
from avjax.data.folds import Filter
from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from avjax.models.network import Inputs
from avjax.preparation import media
from avjax.prepare import PreparationSettings, prepare
from tests.clips import WholeFrame, tone, write_sound, write_video

HAPPY, ANGRY = "01-03-01-01-01-07", "01-05-01-01-01-07"


def test_sound_gives_a_dataset_without_frames(tmp_path, monkeypatch, capsys):
    for actor in ("07", "11"):
        name = f"03-01-03-01-01-01-{actor}.flac"
        write_sound(tmp_path / "sound" / f"Actor_{actor}" / name, tone(0.7))
    write_sound(tmp_path / "sound" / "Actor_11" / "03-01-04-01-01-01-11.wav", 0 * tone(0.7))
    settings = [
        f"--source={tmp_path / 'sound'}",
        f"--out={tmp_path / 'DATA'}",
        "--num_frames=4",
        "--image_size=64",
    ]
    monkeypatch.setattr(command.face_detector, "default_detector", pytest.fail)
    assert command.main(["prepare", *settings]) == 0
    text = capsys.readouterr().out
    assert "skipped 03-01-04-01-01-01-11: no sound in" in text
    assert "contact sheet" not in text
    dataset = open_dataset(tmp_path / "DATA")
    assert dataset.metadata.num_frames == 0
    assert [(r.clip_id, r.split) for r in dataset.records] == [
        ("03-01-03-01-01-01-07", "actor_07"),
        ("03-01-03-01-01-01-11", "actor_11"),
    ]
    assert {(r.has_audio, r.has_video) for r in dataset.records} == {(True, False)}
    example = dataset.read(0)
    assert example["frames"].shape == (0, 64, 64, 3)
    assert example["mfcc"].any()
    assert command.main(["prepare", *settings]) == 0  # nothing left to do


def test_log_mel_spectra_are_stored_on_request(tmp_path):
    path = write_sound(tmp_path / "sound" / "Actor_07" / f"03-{ANGRY}.wav", tone(0.7))
    settings = PreparationSettings("fixed", 4, 64, pair_video_only=False, log_mels=20)
    prepare(tmp_path / "sound", tmp_path / "DATA", settings)
    dataset = open_dataset(tmp_path / "DATA")
    assert dataset.metadata.log_mels == 20
    expected = media.log_mel(media.fit_audio(media.read_audio(path)), 20)
    np.testing.assert_array_equal(dataset.read(0)["log_mel"], expected)
    (batch,) = dataset.select(Filter.parse(""), Inputs(("audio",), "log_mel", 20)).batches(2)
    np.testing.assert_array_equal(batch["audio"][0], expected)
    assert not batch["audio"][1].any()
    with pytest.raises(InputError, match="log_mels is 20 there and 0 here"):
        prepare(tmp_path / "sound", tmp_path / "DATA", settings._replace(log_mels=0))


def test_sound_among_videos_gets_black_frames(tmp_path):
    folder = tmp_path / "source" / "Actor_07"
    write_video(folder / f"01-{HAPPY}.mp4", 20, sound=tone(0.7))
    write_sound(folder / f"03-{ANGRY}.wav", tone(0.7))
    prepare(
        tmp_path / "source",
        tmp_path / "DATA",
        PreparationSettings("fixed", 4, 64, pair_video_only=False),
        make_detector=WholeFrame,
    )
    clips = open_dataset(tmp_path / "DATA").select(Filter.parse(""))
    assert clips.clip_ids == [f"01-{HAPPY}", f"03-{ANGRY}"]
    (batch,) = clips.batches(2)
    assert batch["has_video"].tolist() == [True, False]
    assert batch["frames"].any((1, 2, 3, 4)).tolist() == [True, False]
