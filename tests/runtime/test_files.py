"""Atomic files and locks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from avjax.errors import InputError
from avjax.runtime import files, sealed


def test_json_is_replaced_atomically(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"a": object()})
    assert sealed.read_json(path, "") == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_lines_are_appended(tmp_path):
    for number in (1, 2):
        files.append_json_line(tmp_path / "x.jsonl", {"n": number})
    assert (tmp_path / "x.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n'


def test_content_is_synced_before_the_file_is_renamed(tmp_path, monkeypatch):
    """The order that survives a power failure: content, name, folder."""
    events = []
    sync, replace = os.fsync, Path.replace

    def record_sync(descriptor):
        events.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    def record_replace(path, target):
        events.append(f"{path.name} becomes {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(Path, "replace", record_replace)
    files.write_text(tmp_path / "x", "content")
    temporary = tmp_path / "x.tmp"
    assert events == [str(temporary), "x.tmp becomes x", str(tmp_path)]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_at_the_temporary_name_is_not_followed(tmp_path, exists):
    victim = tmp_path / "letter"
    if exists:
        victim.write_text("dear")
    (tmp_path / "x.tmp").symlink_to(victim)
    files.write_text(tmp_path / "x", "content")
    assert victim.exists() == exists
    assert not exists or victim.read_text() == "dear"
    assert (tmp_path / "x").read_text() == "content"
    assert not (tmp_path / "x").is_symlink()
    assert not (tmp_path / "x.tmp").is_symlink()


def test_a_temporary_file_that_comes_between_is_not_opened(tmp_path, monkeypatch):
    victim = tmp_path / "letter"
    victim.write_text("dear")
    unlink = Path.unlink

    def plant(path, missing_ok=False):
        unlink(path, missing_ok=missing_ok)
        path.symlink_to(victim)

    monkeypatch.setattr(Path, "unlink", plant)
    with pytest.raises(FileExistsError):
        files.write_text(tmp_path / "x", "content")
    assert victim.read_text() == "dear"


def test_what_a_killed_process_left_at_the_temporary_name_is_replaced(tmp_path):
    (tmp_path / "x.tmp").write_text("half")
    files.write_text(tmp_path / "x", "content")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_lock_is_not_written_through_a_link(tmp_path):
    victim = tmp_path / "letter"
    victim.write_text("dear")
    (tmp_path / "lock").symlink_to(victim)
    with pytest.raises(InputError, match="lock is a link"), files.locked(tmp_path / "lock", ""):
        pass
    assert victim.read_text() == "dear"


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "x"
    files.write_text(path, "old")
    with pytest.raises(TypeError), files.atomic_file(path) as file:
        file.write("text instead of bytes")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "quota"),
        ValueError("UNKNOWN: No space left on device [x]"),
        RuntimeError("ENOSPC"),
    ],
)
def test_full_disk_is_explained(tmp_path, error):
    with (
        pytest.raises(InputError, match=r"no space left in .*; free some"),
        files.explain_disk(tmp_path, "free some"),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EROFS, os.strerror(errno.EROFS), "/disk/file"),
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/disk/file"),
    ],
)
def test_disk_that_cannot_be_written_is_explained(error):
    expected = rf"/disk/file cannot be written \({error.strerror}\); make it writable"
    with pytest.raises(InputError, match=expected), files.explain_disk("/disk", "free space"):
        raise error


@pytest.mark.parametrize("write", [files.write_text, lambda path, text: files.sync(path)])
def test_errors_of_open_files_name_them(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_text("before")
    monkeypatch.setattr(os, "fsync", _quota)
    with pytest.raises(OSError, match="Disk quota exceeded") as error:
        write(path, "after")
    assert error.value.filename == str(path)
    assert path.read_text() == "before" and list(tmp_path.iterdir()) == [path]


def _quota(_):
    raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))


def test_other_errors_are_not_changed(tmp_path):
    with pytest.raises(ValueError, match="a bug"), files.explain_disk(tmp_path, "free some"):
        raise ValueError("a bug")


def test_lock_of_a_removed_file_is_acquired_again(tmp_path, monkeypatch):
    """The lock of a removed file would exclude no one."""
    path, lock, locked = tmp_path / "folder" / "lock", fcntl.flock, []

    def remove_first(descriptor, operation):
        if not locked:
            path.unlink()
        locked.append(descriptor)
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_first)
    with files.locked(path, "busy"):
        assert len(locked) == 2
        assert path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_used(tmp_path, monkeypatch, number):
    def without_locks(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", without_locks)
    with (
        pytest.warns(UserWarning, match=r"lock cannot be locked"),
        files.locked(tmp_path / "lock", "busy"),
    ):
        pass


def test_other_errors_of_a_lock_pass(tmp_path, monkeypatch):
    def fails(descriptor, operation):
        raise OSError(errno.EIO, "bad disk")

    monkeypatch.setattr(fcntl, "flock", fails)
    with pytest.raises(OSError, match="bad disk"), files.locked(tmp_path / "lock", "busy"):
        pass
