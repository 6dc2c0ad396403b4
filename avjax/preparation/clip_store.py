"""Stores prepared clips on disk until the dataset is written.

Each clip is one file, written atomically, so a killed run loses only the clips in progress. A lock
keeps other processes out of the folder.
"""

import contextlib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avjax.data.ravdess_dataset_builder import VERSION
from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.preparation.settings import PreparationSettings
from avjax.runtime import files
from avjax.runtime.sealed import read_json

_CLIPS, _LOCK, _SETTINGS = "clips", "lock", "settings.json"
_FILES = (_SETTINGS, _LOCK)
_VERSION = "dataset_version"  # in the settings' file
_FACTS = ("has_audio", "has_video", "faceless")  # the scalar fields of a clip, with its notes
NO_SPACE = "free some space and run the same command again to resume"


class ClipStore:
    """A folder of prepared clips, opened by `open_clip_store`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """Returns the path of a clip's file."""
        return self.directory / _CLIPS / f"{key}.npz"

    def has(self, key: str) -> bool:
        """Whether the clip is stored."""
        return self.path(key).exists()

    def save(self, key: str, clip: PreparedClip) -> None:
        """Writes a clip, durable on return. Threads may save different clips concurrently.

        Raises:
          InputError: the disk is full.
        """
        frames = clip.frames if clip.has_video else clip.frames[:0]
        arrays = {k: v for k, v in clip._asdict().items() if v is not None} | {"frames": frames}
        arrays["notes"] = np.array(clip.notes, str)
        with (
            files.explain_disk(self.directory, NO_SPACE),
            files.atomic_file(self.path(key)) as file,
        ):
            np.savez(file, **arrays)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file next to the clips, durable on return."""
        files.write_json(self.directory / name, content)

    def settings(self) -> PreparationSettings:
        """Reads the settings the folder was created with.

        Raises:
          InputError: they are damaged, or by a version that prepared clips differently.
        """
        path = self.directory / _SETTINGS
        remedy = f"delete {self.directory} to prepare its clips again, or choose another --out"
        stored = read_json(path, remedy)
        if stored.pop(_VERSION, None) != VERSION:
            raise InputError(
                f"{self.directory} holds clips that another version of avjax prepared differently; "
                "delete it, or choose another --out"
            )
        try:
            return PreparationSettings.from_json(stored)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); {remedy}") from error

    def remove(self) -> None:
        """Deletes the clips and their folder; of a link, the link and the clips.

        Other files, such as those of a disk that the link leads to, remain with their folder.
        """
        clips = self.directory / _CLIPS
        for path in (*clips.glob("*.npz*"), *(self.directory / name for name in _FILES)):
            path.unlink(missing_ok=True)
        for folder in (clips, self.directory):
            with contextlib.suppress(OSError):  # not empty, or a mount point
                folder.unlink() if folder.is_symlink() else folder.rmdir()


def load_clip(path: Path) -> PreparedClip:
    """Reads a clip and checks its checksums; a clip without a face has zero frames.

    Raises:
      InputError: the file is damaged.
    """
    with _opened(path) as arrays:
        if arrays.zip.testzip() is not None:
            raise zipfile.BadZipFile("checksum")
        frames, mfcc, log_mel = arrays["frames"], arrays["mfcc"], arrays.get("log_mel")
    return PreparedClip(frames, mfcc, **load_facts(path), log_mel=log_mel)


def load_facts(path: Path) -> dict[str, Any]:
    """Reads a clip's scalar fields and notes, without its arrays.

    Raises:
      InputError: the file is damaged.
    """
    with _opened(path) as arrays:
        facts: dict[str, Any] = {name: arrays[name].item() for name in _FACTS}
        return {**facts, "notes": tuple(arrays["notes"].tolist())}


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Opens a clip's file."""
    try:
        with np.load(path) as arrays:
            if not set(arrays).issubset(PreparedClip._fields):
                raise zipfile.BadZipFile("unknown names")
            yield arrays
    # NumPy, zipfile and zlib raise many types for damaged files.
    except Exception as error:
        raise InputError(
            f"{path} is damaged ({type(error).__name__}: {error}); delete it and run the same "
            "command again"
        ) from error


@contextlib.contextmanager
def open_clip_store(directory: Path, settings: PreparationSettings) -> Iterator[ClipStore]:
    """Creates or reopens a folder of clips and locks it for this process.

    Raises:
      InputError: another process holds the lock, the folder was created with other settings or by
        a version that prepared clips differently, cannot be written, or its name is not UTF-8.
    """
    try:
        str(directory).encode()
    except UnicodeEncodeError as error:  # array_record writes into no such folder
        raise InputError(f"the name of {directory} is not UTF-8; choose another --out") from error
    busy = f"another process prepares clips into {directory}; wait for it, or choose another --out"
    with contextlib.ExitStack() as stack:
        with (
            files.explain_disk(directory, NO_SPACE),
            files.explain_unwritable(directory, "choose another --out"),
        ):
            stack.enter_context(files.locked(directory / _LOCK, busy))
            store = ClipStore(directory)
            (directory / _CLIPS).mkdir(exist_ok=True)
            if not (directory / _SETTINGS).exists():
                store.write_json(_SETTINGS, {_VERSION: VERSION, **settings._asdict()})
        settings.check_same(store.settings(), directory)
        yield store
