"""Finished clips on disk, until a dataset is made of them.

Every clip is a file of its own, durable once it has its name, so that a killed run loses only the
clips in hand. One process at a time works in a folder.
"""

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from avjax.data.records import PreparedClip
from avjax.preparation.settings import PreparationSettings
from avjax.runtime import files

_CLIPS, _LOCK, _SETTINGS = "clips", "lock", "settings.json"
_FACTS = ("has_audio", "has_video", "faceless")  # of a clip, besides its arrays
NO_SPACE = "free some, and the same command goes on with the clips that are done"


class ClipStore:
    """A folder of finished clips; `open_clip_store` makes it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, key: str) -> Path:
        """Where a finished clip lies."""
        return self.directory / _CLIPS / f"{key}.npz"

    def has(self, key: str) -> bool:
        """Whether the clip is finished."""
        return self.path(key).exists()

    def save(self, key: str, clip: PreparedClip) -> None:
        """Keeps a finished clip: durable on return. Threads may save clips of other keys meanwhile.

        Raises:
          InputError: no space left.
        """
        frames = clip.frames if clip.has_video else clip.frames[:0]
        arrays = {k: v for k, v in clip._asdict().items() if v is not None} | {"frames": frames}
        with (
            files.explain_full_disk(self.directory, NO_SPACE),
            files.atomic_file(self.path(key)) as file,
        ):
            np.savez(file, **arrays)

    def write_json(self, name: str, content: Any) -> None:
        """Writes a small file beside the clips, durable on return."""
        files.write_json(self.directory / name, content)

    def settings(self) -> PreparationSettings:
        """The settings with which the folder was begun."""
        text = (self.directory / _SETTINGS).read_text(encoding="utf-8")
        return PreparationSettings.from_json(json.loads(text))

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
def open_clip_store(directory: Path, settings: PreparationSettings) -> Iterator[ClipStore]:
    """Takes a folder, new or left by a former run, for this process alone.

    Raises:
      InputError: another process works in it, it was begun with other settings, or it cannot be
        written.
    """
    busy = f"another process prepares clips into {directory}; wait for it, or choose another --out"
    with contextlib.ExitStack() as held:
        with (
            files.explain_unwritable(directory, "choose another --out"),
            files.explain_full_disk(directory, NO_SPACE),
        ):
            held.enter_context(files.locked(directory / _LOCK, busy))
            store = ClipStore(directory)
            (directory / _CLIPS).mkdir(exist_ok=True)
            if not (directory / _SETTINGS).exists():
                store.write_json(_SETTINGS, settings._asdict())
        settings.check_same(store.settings(), directory)
        yield store
