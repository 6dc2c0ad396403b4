"""Makes a dataset of finished clips, with a summary and a contact sheet beside its records."""

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
from avjax.runtime.files import explain_full_disk, sync, write_json

SUMMARY_FILE, SHEET_FILE = "prepare.json", "contact_sheet.png"


class Summary(NamedTuple):
    """What a preparation did.

    Attributes:
      written: clips in the dataset.
      skipped: clip or file to the reason why it is not in it.
      incomplete: clip in the dataset to what it should have had and lacks, sound or a face.
      faceless_frames: clip to the number of its frames in which no face was found.
      prepared_now: clips that this start prepared; the others were done before.
      seconds: that this start took.
      phases: seconds of each phase (decode, sound, detect, crop, write), summed over the threads.
    """

    written: int
    skipped: dict[str, str]
    incomplete: dict[str, str]
    faceless_frames: dict[str, int]
    prepared_now: int
    seconds: float
    phases: dict[str, float]

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """From what `_asdict` gave, of earlier versions too."""
        fields = {"incomplete": {}, "phases": stored.get("stages", {}), **stored}
        fields.pop("stages", None)
        return cls(**fields)


def publish(
    store: ClipStore,
    files: Mapping[ClipRecord, Path],
    settings: PreparationSettings,
    versions: Mapping[str, str],
    summary: Summary,
    out: Path,
) -> None:
    """Writes the dataset below the store, moves it to ``out`` in one rename, removes the store.

    Args:
      store: where the dataset grows; a former one, left there by a killed run, is dropped.
      files: what is known of the finished clips, and where they lie.
      settings: with which they were prepared.
      versions: of the libraries that prepared them.
      summary: stored beside the records, with the settings and the clips' fingerprints.
      out: absent, or an empty folder.

    Raises:
      InputError: no space left.
    """
    listed = sorted(files, key=lambda record: (record.split, record.clip_id))
    records = [_with_facts(record, load_facts(files[record])) for record in listed]
    shown = [(r.clip_id, files[one]) for one, r in zip(listed, records, strict=True) if r.has_video]
    # A dataset of sound alone has no frames; in another, black ones stand for those of a clip.
    num_frames = settings.num_frames if shown else 0
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
    clips = {record.clip_id: fingerprint(record, files[record].stem) for record in listed}
    stored = {**summary._asdict(), "settings": settings._asdict(), "clips": clips}
    building = store.directory / "dataset"
    shutil.rmtree(building, ignore_errors=True)
    try:
        with explain_full_disk(store.directory, NO_SPACE):
            arrays = (_with_frames(load_clip(files[one]), num_frames) for one in listed)
            built = write_dataset(building, metadata, records, arrays)
            _write_sheet(built / SHEET_FILE, shown, settings.profile)
            write_json(built / SUMMARY_FILE, stored)
            for path in (*built.iterdir(), built):
                sync(path)
            built.rename(out)
            sync(out.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    store.remove()


def fingerprint(record: ClipRecord, key: str) -> str:
    """Changes with all that a source says of a clip: label, group, what is cut from where."""
    return hashlib.sha256(repr((key, *record)).encode()).hexdigest()[:16]


def _with_facts(record: ClipRecord, facts: Mapping[str, Any]) -> ClipRecord:
    return record._replace(has_audio=facts["has_audio"], has_video=facts["has_video"])


def _write_sheet(path: Path, shown: Sequence[tuple[str, Path]], profile: str) -> None:
    """Pictures of some clips, evenly chosen; none where no clip has a face."""
    picked = np.linspace(0, len(shown) - 1, min(MAX_CLIPS, len(shown))).astype(int)
    rows = ((shown[i][0], load_clip(shown[i][1]).frames) for i in picked)
    if shown:
        write_contact_sheet(path, rows, profile)


def _with_frames(clip: PreparedClip, num_frames: int) -> PreparedClip:
    """Gives a clip without a face its black frames."""
    missing = num_frames - len(clip.frames)
    black = np.zeros((missing, *clip.frames.shape[1:]), np.uint8)
    return clip._replace(frames=np.concatenate([clip.frames, black])) if missing else clip
