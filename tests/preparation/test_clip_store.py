"""Finished clips on disk: durable, in one process's hands, kept apart by settings."""

import errno
import os

import numpy as np
import pytest

from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.preparation.clip_store import load_clip, load_facts, open_clip_store
from avjax.preparation.settings import PreparationSettings

SETTINGS = PreparationSettings("fixed", 2, 8, pair_video_only=False)
NAME = "01-01-03-01-01-01-07"


def clip(has_video: bool = True) -> PreparedClip:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    mfcc, told = np.ones((4, 10), np.float32), ("deinterlaced",)
    return PreparedClip(frames, mfcc, True, has_video, 1, notes=told)


def test_a_clip_comes_back(tmp_path):
    with open_clip_store(tmp_path / "new" / "stage", SETTINGS) as store:
        assert not store.has(NAME)
        store.save(NAME, clip())
        assert store.has(NAME)
        back = load_clip(store.path(NAME))
    np.testing.assert_array_equal(back.frames, clip().frames)
    np.testing.assert_array_equal(back.mfcc, clip().mfcc)
    assert back[2:] == (True, True, 1, None, ("deinterlaced",))
    assert load_facts(store.path(NAME)) == {
        "has_audio": True,
        "has_video": True,
        "faceless": 1,
        "notes": ("deinterlaced",),
    }


def test_without_a_face_no_frames_are_kept(tmp_path):
    with open_clip_store(tmp_path, SETTINGS) as store:
        store.save(NAME, clip(has_video=False))
        assert load_clip(store.path(NAME)).frames.shape == (0, 8, 8, 3)


def test_one_process_at_a_time(tmp_path):
    with (
        open_clip_store(tmp_path, SETTINGS),
        pytest.raises(InputError, match="another process prepares clips into"),
        open_clip_store(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was taken twice")
    with open_clip_store(tmp_path, SETTINGS) as store:  # given back
        store.remove()
    assert not tmp_path.exists()


def test_a_lock_file_alone_locks_nothing(tmp_path):
    (tmp_path / "lock").touch()
    with open_clip_store(tmp_path, SETTINGS) as store:
        assert store.directory == tmp_path


def test_other_settings_are_refused(tmp_path):
    with open_clip_store(tmp_path, SETTINGS):
        pass
    other = SETTINGS._replace(image_size=16)
    with (
        pytest.raises(InputError, match="image_size is 8 there and 16 here"),
        open_clip_store(tmp_path, other),
    ):
        pytest.fail("other settings were taken")


def test_a_folder_below_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"stage cannot be written \(Not a directory\); choose"),
        open_clip_store(tmp_path / "file" / "stage", SETTINGS),
    ):
        pytest.fail("the folder was made")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_is_told(tmp_path, monkeypatch, code):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(InputError, match=rf"cannot be written \({os.strerror(code)}\); choose"),
        open_clip_store(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was opened")
