"""Finished clips on disk, until a dataset is made of them.

Every clip is a file of its own, durable once it has its name, so that a killed run loses only the
clips in hand. One process at a time may work in a folder; its lock ends with the process.
"""

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from avjax.data.prepared import WINDOW_SECONDS, PreparedClip
from avjax.data.ravdess import EMOTIONS
from avjax.errors import InputError

_CLIPS, _LOCK, _SETTINGS = "clips", "lock", "settings.json"
_FACTS = ("has_audio", "has_video", "faceless")  # of a clip, besides its arrays


class Settings(NamedTuple):
    """What decides the content of a prepared clip."""

    profile: str
    num_frames: int
    image_size: int
    pair_video_only: bool
    seconds: float = WINDOW_SECONDS
    classes: tuple[str, ...] = EMOTIONS
    log_mels: int = 0

    @classmethod
    def restore(cls, stored: Mapping[str, Any]) -> Self:
        """From what `_asdict` gave, by way of JSON."""
        settings = cls(**stored)
        return settings._replace(classes=tuple(settings.classes))


def check_settings(former: Settings, settings: Settings, place: Path) -> None:
    """Raises InputError, naming what differs, unless both are the same."""
    differing = [
        f"{name} is {value!r} there and {getattr(settings, name)!r} here"
        for name, value in former._asdict().items()
        if value != getattr(settings, name)
    ]
    if differing:
        raise InputError(
            f"{place} was begun with other settings: {'; '.join(differing)}; "
            "use those, or another --out"
        )


class Stage:
    """A folder of finished clips; `open_stage` makes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """Where a finished clip lies."""
        return self.directory / _CLIPS / f"{key}.npz"

    def has(self, key: str) -> bool:
        """Whether the clip is finished."""
        return self.path(key).exists()

    def save(self, key: str, clip: PreparedClip) -> None:
        """Keeps a finished clip: durable on return. Clips of other keys may be saved meanwhile.

        Raises:
          InputError: no space left.
        """
        path = self.path(key)
        temporary = path.with_suffix(".tmp")
        frames = clip.frames if clip.has_video else clip.frames[:0]
        try:
            with full_disk_explained(self.directory), temporary.open("wb") as file:
                stored = {**clip._asdict(), "frames": frames}
                np.savez(file, **{k: v for k, v in stored.items() if v is not None})
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a small file beside the clips, durable on return."""
        write_json_durably(self.directory / name, content)

    def remove(self) -> None:
        """Deletes the folder and all that is in it."""
        shutil.rmtree(self.directory)


def load_clip(path: Path) -> PreparedClip:
    """A finished clip; without a face it has no frames at all."""
    with np.load(path) as arrays:
        frames, mfcc, log_mel = arrays["frames"], arrays["mfcc"], arrays.get("log_mel")
    return PreparedClip(frames, mfcc, **load_facts(path), log_mel=log_mel)


def load_facts(path: Path) -> dict[str, Any]:
    """All of a finished clip but its arrays, which stay unread."""
    with np.load(path) as arrays:
        return {name: arrays[name].item() for name in _FACTS}


@contextlib.contextmanager
def open_stage(directory: Path, settings: Settings) -> Iterator[Stage]:
    """Takes a folder, new or left by a former run, for this process alone.

    Raises:
      InputError: another process works in it, it was begun with other settings, or it cannot be
        written.
    """
    with _locked(directory):
        stage = Stage(directory)
        path = directory / _SETTINGS
        with _unwritable_explained(directory):
            (directory / _CLIPS).mkdir(exist_ok=True)
            if not path.exists():
                stage.write_json(_SETTINGS, settings._asdict())
        check_settings(read_settings(directory), settings, directory)
        yield stage


def read_settings(directory: Path) -> Settings:
    """The settings with which a folder was begun."""
    return Settings.restore(json.loads((directory / _SETTINGS).read_text(encoding="utf-8")))


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Makes the folder and holds its lock, which the system gives back however a process ends."""
    lock = None
    while lock is None:
        with _unwritable_explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            lock = _acquired(directory / _LOCK)
    try:
        yield
    finally:
        os.close(lock)


def _acquired(path: Path) -> int | None:
    """A locked file's descriptor; None where another process just now removed the file."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(lock)):
            return lock
    except BlockingIOError as error:
        os.close(lock)
        raise InputError(
            f"another process prepares clips into {path.parent}; wait for it, or choose "
            "another --out"
        ) from error
    os.close(lock)
    return None


@contextlib.contextmanager
def _unwritable_explained(directory: Path) -> Iterator[None]:
    try:
        with full_disk_explained(directory):
            yield
    except OSError as error:
        raise InputError(
            f"{directory} cannot be written ({error.strerror}); choose another --out"
        ) from error


@contextlib.contextmanager
def full_disk_explained(directory: Path) -> Iterator[None]:
    """Makes one clear line of a full disk; array_record tells of it in a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise InputError(
            f"no space left for {directory}; free some, and the same command goes on with the "
            "clips that are done"
        ) from error


def write_json_durably(path: Path, content: Any) -> None:
    """Writes JSON; on return it is on disk under its name, before that nothing is."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Makes a file's content, or a folder's names, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
