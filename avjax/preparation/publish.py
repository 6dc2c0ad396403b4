"""Writes the dataset from prepared clips, with a summary and a contact sheet."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip, audio_steps
from avjax.preparation.clip_store import NO_SPACE, ClipStore, load_clip, load_facts
from avjax.preparation.contact_sheet import MAX_CLIPS, write_contact_sheet
from avjax.preparation.settings import PreparationSettings
from avjax.runtime.files import explain_disk, filled, write_json

SUMMARY_FILE, SHEET_FILE = "prepare.json", "contact_sheet.png"
INFO_FILE = "dataset_info.json"  # of TFDS


class Summary(NamedTuple):
    """Summary of a preparation, stored as ``prepare.json``.

    Attributes:
      written: number of clips in the dataset.
      skipped: the reason for each clip or file that is not in the dataset.
      incomplete: the missing stream, sound or a face, of each incomplete clip in the dataset.
      faceless_frames: number of frames without a face, by clip.
      prepared_now: number of clips prepared by this run, without those of earlier runs.
      seconds: duration of this run.
      phases: seconds of each phase (decode, sound, detect, crop, write), summed over threads.
      inventory: what the source held, the fields of `avjax.preparation.inventory.Inventory`;
        None from earlier versions.
      notes: what was decided on the user's behalf, by clip, see `avjax.preparation.notes`.
    """

    written: int
    skipped: dict[str, str]
    incomplete: dict[str, str]
    faceless_frames: dict[str, int]
    prepared_now: int
    seconds: float
    phases: dict[str, float]
    inventory: Mapping[str, Any] | None = None
    notes: dict[str, tuple[str, ...]] = {}  # noqa: RUF012

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Restores a summary from the JSON of `_asdict`, including that of earlier versions."""
        fields = {"incomplete": {}, "phases": stored.get("stages", {}), **stored}
        fields.pop("stages", None)
        fields["notes"] = {name: tuple(texts) for name, texts in stored.get("notes", {}).items()}
        return cls(**fields)


def publish(
    store: ClipStore,
    files: Mapping[ClipRecord, Path],
    settings: PreparationSettings,
    versions: Mapping[str, str],
    summary: Summary,
    out: Path,
) -> None:
    """Writes the dataset and removes the store.

    Args:
      store: the clips.
      files: each clip's record and file in the store.
      settings: settings the clips were prepared with.
      versions: versions of the libraries that prepared the clips.
      summary: written into the dataset, with the settings and the clips' fingerprints.
      out: an absent or empty folder, or a link to one; see `avjax.runtime.files.filled`.

    Raises:
      InputError: the disk is full.
    """
    raw_records = sorted(files, key=lambda record: (record.split, record.clip_id))
    paths = [files[record] for record in raw_records]
    records = [_with_facts(record, load_facts(files[record])) for record in raw_records]
    with_face = [(r, path) for r, path in zip(records, paths, strict=True) if r.has_video]
    # A dataset of sound only has no frames. Otherwise clips without a face get black frames.
    num_frames = settings.num_frames if with_face else 0
    metadata = DatasetMetadata(
        profile=settings.profile,
        classes=settings.classes,
        num_frames=num_frames,
        image_size=settings.image_size,
        audio_steps=audio_steps(settings.seconds),
        versions=versions,
        seconds=settings.seconds,
        log_mels=settings.log_mels,
    )
    clips = {record.clip_id: fingerprint(record, files[record].stem) for record in raw_records}
    stored = {**summary._asdict(), "settings": settings._asdict(), "clips": clips}
    arrays = (_with_frames(load_clip(path), num_frames) for path in paths)
    # The summary says that the dataset is complete.
    with explain_disk(out, NO_SPACE), filled(out, last=(INFO_FILE, SUMMARY_FILE)) as folder:
        built = write_dataset(folder / "tfds", metadata, records, arrays)
        for path in built.iterdir():
            path.rename(folder / path.name)
        shutil.rmtree(folder / "tfds")
        _write_sheet(folder / SHEET_FILE, with_face, settings)
        write_json(folder / SUMMARY_FILE, stored)
    store.remove()


def fingerprint(record: ClipRecord, key: str) -> str:
    """Hashes a clip's record and key, to detect changes of the source."""
    return hashlib.sha256(repr((key, *record)).encode()).hexdigest()[:16]


def _with_facts(record: ClipRecord, facts: Mapping[str, Any]) -> ClipRecord:
    return record._replace(has_audio=facts["has_audio"], has_video=facts["has_video"])


def _write_sheet(
    path: Path, with_face: Sequence[tuple[ClipRecord, Path]], settings: PreparationSettings
) -> None:
    """Writes a contact sheet of evenly spaced clips, if any clip has a face."""
    picked = np.linspace(0, len(with_face) - 1, min(MAX_CLIPS, len(with_face))).astype(int)
    chosen = (with_face[i] for i in picked)
    rows = (
        (record.clip_id, settings.classes[record.label], load_clip(file).frames)
        for record, file in chosen
    )
    if with_face:
        write_contact_sheet(path, rows, settings.profile)


def _with_frames(clip: PreparedClip, num_frames: int) -> PreparedClip:
    """Adds black frames to a clip without a face."""
    missing = num_frames - len(clip.frames)
    black = np.zeros((missing, *clip.frames.shape[1:]), np.uint8)
    return clip._replace(frames=np.concatenate([clip.frames, black])) if missing else clip
