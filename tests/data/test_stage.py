"""Finished clips on disk: durable, in one process's hands, kept apart by settings."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from avjax.data import stage as module
from avjax.data.prepared import PreparedClip
from avjax.data.stage import Settings, load_clip, load_facts, open_stage
from avjax.errors import InputError

SETTINGS = Settings("fixed", 2, 8, pair_video_only=False)
NAME = "01-01-03-01-01-01-07"


def clip(has_video: bool = True) -> PreparedClip:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    return PreparedClip(frames, np.ones((4, 10), np.float32), True, has_video, 1)


def test_a_clip_comes_back(tmp_path):
    with open_stage(tmp_path / "new" / "stage", SETTINGS) as stage:
        assert not stage.has(NAME)
        stage.save(NAME, clip())
        assert stage.has(NAME)
        back = load_clip(stage.path(NAME))
    np.testing.assert_array_equal(back.frames, clip().frames)
    np.testing.assert_array_equal(back.mfcc, clip().mfcc)
    assert back[2:] == (True, True, 1, None)
    assert load_facts(stage.path(NAME)) == {"has_audio": True, "has_video": True, "faceless": 1}


def test_without_a_face_no_frames_are_kept(tmp_path):
    with open_stage(tmp_path, SETTINGS) as stage:
        stage.save(NAME, clip(has_video=False))
        assert load_clip(stage.path(NAME)).frames.shape == (0, 8, 8, 3)


def test_a_clip_is_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The order that outlasts a power cut: content, name, folder."""
    events = []
    sync, replace = os.fsync, Path.replace

    def noted_sync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def noted_replace(path, target):
        events.append(f"{path.name} becomes {target.name}")
        return replace(path, target)

    with open_stage(tmp_path, SETTINGS) as stage:
        path = stage.path(NAME)
        monkeypatch.setattr(module.os, "fsync", noted_sync)
        monkeypatch.setattr(Path, "replace", noted_replace)
        stage.save(NAME, clip())
    half = path.with_suffix(".tmp")
    assert events == [str(half), f"{half.name} becomes {path.name}", str(path.parent)]


def test_one_process_at_a_time(tmp_path):
    with (
        open_stage(tmp_path, SETTINGS),
        pytest.raises(InputError, match="another process prepares clips into"),
        open_stage(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was taken twice")
    with open_stage(tmp_path, SETTINGS) as stage:  # given back
        stage.remove()
    assert not tmp_path.exists()


def test_a_lock_file_alone_locks_nothing(tmp_path):
    (tmp_path / "lock").touch()
    with open_stage(tmp_path, SETTINGS) as stage:
        assert stage.directory == tmp_path


def test_a_folder_removed_by_a_run_that_ends_just_now_is_made_again(tmp_path, monkeypatch):
    """The lock of a removed file would keep nobody out."""
    directory, lock, taken = tmp_path / "stage", module.fcntl.flock, []

    def removed_first(descriptor, operation):
        if not taken:
            (directory / "lock").unlink()
        taken.append(descriptor)
        lock(descriptor, operation)

    monkeypatch.setattr(module.fcntl, "flock", removed_first)
    with open_stage(directory, SETTINGS):
        assert len(taken) == 2
        assert (directory / "lock").exists()


def test_other_settings_are_refused(tmp_path):
    with open_stage(tmp_path, SETTINGS):
        pass
    other = SETTINGS._replace(image_size=16)
    with (
        pytest.raises(InputError, match="image_size is 8 there and 16 here"),
        open_stage(tmp_path, other),
    ):
        pytest.fail("other settings were taken")


def test_a_folder_below_a_file_is_told(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(InputError, match=r"stage cannot be written \(Not a directory\); choose"),
        open_stage(tmp_path / "file" / "stage", SETTINGS),
    ):
        pytest.fail("the folder was made")


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS])
def test_a_read_only_folder_is_told(tmp_path, monkeypatch, code):
    def refuse(path, *_, **__):
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(module.os, "open", refuse)
    with (
        pytest.raises(InputError, match=rf"cannot be written \({os.strerror(code)}\); choose"),
        open_stage(tmp_path, SETTINGS),
    ):
        pytest.fail("the folder was opened")
