"""Makes a dataset of finished clips, with a summary and a contact sheet beside its records."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from avjax.data import media
from avjax.data.clip import PreparedClip
from avjax.data.contact_sheet import MAX_CLIPS, write_contact_sheet
from avjax.data.ravdess import EMOTIONS, ClipName
from avjax.data.ravdess_dataset_builder import ClipRecord, DatasetMetadata, write_dataset
from avjax.data.stage import (
    Settings,
    Stage,
    full_disk_explained,
    load_clip,
    load_facts,
    sync,
    write_json_durably,
)

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
      stages: seconds of each stage (decode, sound, detect, crop, write), summed over the threads.
    """

    written: int
    skipped: dict[str, str]
    incomplete: dict[str, str]
    faceless_frames: dict[str, int]
    prepared_now: int
    seconds: float
    stages: dict[str, float]


def publish(
    stage: Stage,
    files: Mapping[ClipName, Path],
    settings: Settings,
    versions: Mapping[str, str],
    summary: Summary,
    out: Path,
) -> None:
    """Writes the dataset below the stage, moves it to ``out`` in one rename, removes the stage.

    Args:
      stage: where the dataset grows; a former one, left there by a killed run, is dropped.
      files: the finished clips.
      settings: with which they were prepared.
      versions: of the libraries that prepared them.
      summary: stored beside the records, with the settings and the clips' names.
      out: absent, or an empty folder.

    Raises:
      InputError: no space left.
    """
    names = sorted(files, key=lambda name: (name.actor, name))
    records = [_record(name, load_facts(files[name])) for name in names]
    shown = [name for name, record in zip(names, records, strict=True) if record.has_video]
    # A dataset of sound alone has no frames; in another, black ones stand for those of a clip.
    num_frames = settings.num_frames if shown else 0
    metadata = DatasetMetadata(
        profile=settings.profile,
        classes=EMOTIONS,
        num_frames=num_frames,
        image_size=settings.image_size,
        audio_steps=media.AUDIO_STEPS,
        versions=versions,
    )
    clip_ids = [name.clip_id for name in names]
    stored = {**summary._asdict(), "settings": settings._asdict(), "clips": clip_ids}
    building = stage.directory / "dataset"
    shutil.rmtree(building, ignore_errors=True)
    try:
        with full_disk_explained(stage.directory):
            clips = (_with_frames(load_clip(files[name]), num_frames) for name in names)
            built = write_dataset(building, metadata, records, clips)
            _write_sheet(built / SHEET_FILE, shown, files, settings.profile)
            write_json_durably(built / SUMMARY_FILE, stored)
            for path in (*built.iterdir(), built):
                sync(path)
            built.rename(out)
            sync(out.parent)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    stage.remove()


def _write_sheet(
    path: Path, shown: Sequence[ClipName], files: Mapping[ClipName, Path], profile: str
) -> None:
    """Pictures of some clips, evenly chosen; none where no clip has a face."""
    picked = np.linspace(0, len(shown) - 1, min(MAX_CLIPS, len(shown))).astype(int)
    rows = ((shown[i].clip_id, load_clip(files[shown[i]]).frames) for i in picked)
    if shown:
        write_contact_sheet(path, rows, profile)


def _with_frames(clip: PreparedClip, num_frames: int) -> PreparedClip:
    """Gives a clip without a face its black frames."""
    missing = num_frames - len(clip.frames)
    black = np.zeros((missing, *clip.frames.shape[1:]), np.uint8)
    return clip._replace(frames=np.concatenate([clip.frames, black])) if missing else clip


def _record(name: ClipName, facts: Mapping[str, Any]) -> ClipRecord:
    return ClipRecord(
        clip_id=name.clip_id,
        split=f"actor_{name.actor}",
        label=name.label,
        actor=int(name.actor),
        intensity=int(name.intensity),
        statement=int(name.statement),
        repetition=int(name.repetition),
        group=name.actor,
        has_audio=facts["has_audio"],
        has_video=facts["has_video"],
    )
