"""Prepared clips on disk: locked by one process, with fixed settings."""

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


def test_clip_is_restored(tmp_path):
    with open_clip_store(tmp_path / "new" / "stage", SETTINGS) as store:
        assert not store.has(NAME)
        store.save(NAME, clip())
        assert store.has(NAME)
        restored = load_clip(store.path(NAME))
    np.testing.assert_array_equal(restored.frames, clip().frames)
    np.testing.assert_array_equal(restored.mfcc, clip().mfcc)
    assert restored[2:] == (True, True, 1, None, ("deinterlaced",))
    assert load_facts(store.path(NAME)) == {
        "has_audio": True,
        "has_video": True,
        "faceless": 1,
        "notes": ("deinterlaced",),
    }


def test_clip_without_a_face_has_no_frames(tmp_path):
    with open_clip_store(tmp_path, SETTINGS) as store:
        store.save(NAME, clip(has_video=False))
        assert load_clip(store.path(NAME)).frames.shape == (0, 8, 8, 3)


def test_folder_is_locked_by_one_process(tmp_path):
    with (
        open_clip_store(tmp_path, SETTINGS),
        pytest.raises(InputError, match="another process prepares clips into"),
        open_clip_store(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was locked twice")
    with open_clip_store(tmp_path, SETTINGS) as store:  # unlocked
        store.remove()
    assert not tmp_path.exists()


def test_stale_lock_file_does_not_lock(tmp_path):
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
        pytest.fail("other settings were accepted")


def test_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"stage cannot be written \(Not a directory\); choose"),
        open_clip_store(tmp_path / "file" / "stage", SETTINGS),
    ):
        pytest.fail("the folder was created")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_read_only_folder_is_refused(tmp_path, monkeypatch, code):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with (
        pytest.raises(InputError, match=rf"cannot be written \({os.strerror(code)}\); choose"),
        open_clip_store(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was opened")
