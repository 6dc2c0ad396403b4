"""Reads manifests: CSV files that list a user's clips.

Each row is one clip. ``label`` and ``video`` or ``audio`` are required; other columns are optional.
"""

import csv
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avjax.data.folds import SPLITS
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.raw_clip import RawClip

COLUMNS = ("video", "audio", "label", "group", "start", "end", "split", "id")


class _Row(NamedTuple):
    """A validated line; ``location`` is its file and line number, for messages."""

    location: str
    clip_id: str
    label: str
    group: str
    subset: str
    video: Path | None
    audio: Path | None
    start: float
    end: float | None


def read_manifest(
    path: Path, classes: Sequence[str] | None = None
) -> tuple[list[RawClip], dict[str, str], tuple[str, ...]]:
    """Reads a manifest.

    Args:
      path: a UTF-8 CSV file with a header. Paths are relative to its folder. A video without
        ``audio`` uses its own sound track. ``start`` and ``end`` are in seconds.
      classes: class names in label order; by default the sorted labels.

    Returns:
      The clips sorted by id, the reasons for skipping clips by id, and the classes.

    Raises:
      InputError: a value is invalid; names the line and the value.
    """
    rows = _rows(path)
    names = tuple(sorted({row.label for row in rows})) if classes is None else tuple(classes)
    if len(set(names)) != len(names):
        raise InputError(f"the classes {', '.join(names)} are not all different; rename one")
    locations: dict[str, str] = {}
    clips: list[RawClip] = []
    skipped: dict[str, str] = {}
    for row in rows:
        if row.label not in names:
            raise InputError(
                f"{row.location}: label {row.label!r} is none of the classes {', '.join(names)}; "
                "correct it or name it in --classes"
            )
        if row.clip_id in locations:
            raise InputError(
                f"{row.location}: clip {row.clip_id!r} was listed before "
                f"({locations[row.clip_id]}); remove one, or tell them apart in a column id"
            )
        locations[row.clip_id] = row.location
        missing = [str(p) for p in (row.video, row.audio) if p is not None and not p.is_file()]
        if missing:
            skipped[row.clip_id] = f"{row.location}: there is no file {' nor '.join(missing)}"
            continue
        clips.append(_raw_clip(row, names.index(row.label)))
    return sorted(clips, key=lambda clip: clip.record.clip_id), skipped, names


def _raw_clip(row: _Row, label: int) -> RawClip:
    """Returns a row's clip; its key is a hash of the id, the files and the cut."""
    cut = (row.clip_id, str(row.video), str(row.audio), row.start, row.end)
    return RawClip(
        ClipRecord(
            clip_id=row.clip_id,
            split="group_" + re.sub(r"[^a-z0-9]+", "_", row.group.lower()),
            label=label,
            group=row.group,
            subset=row.subset,
        ),
        hashlib.sha256(repr(cut).encode()).hexdigest()[:32],
        row.video,
        row.video if row.audio is None else row.audio,
        row.start,
        row.end,
    )


def _rows(path: Path) -> list[_Row]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", strict=True)
            _check_header(path, reader.fieldnames or ())
            rows = [
                _row(path, reader.line_num, {k: v or "" for k, v in line.items()})
                for line in reader
                if any(line.values())
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({error})") from error
    if not rows:
        raise InputError(f"{path} lists no clips; write a line for each below the header")
    return rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "label" not in header or not {"video", "audio"} & set(header):
        actual = f"; it has {', '.join(header)}" if header else ""
        raise InputError(
            f"{path}: the first line must name the columns: label, and video or audio or both; "
            f"besides these it may name group, start, end, split and id{actual}"
        )


def _row(path: Path, number: int, line: Mapping[str, str]) -> _Row:
    location = f"{path} line {number}"
    if "" in line:
        raise InputError(f"{location} has more fields than the header; quote commas inside a field")
    value = {name: line.get(name, "").strip() for name in COLUMNS}
    if not value["label"]:
        raise InputError(f"{location}: the label is empty; write the name of the clip's class")
    if not (value["video"] or value["audio"]):
        raise InputError(f"{location}: neither video nor audio; name a file")
    if value["split"] not in ("", *SPLITS):
        raise InputError(f"{location}: unknown split {value['split']!r}; write {', '.join(SPLITS)}")
    start = _seconds(location, "start", value["start"])
    end = _seconds(location, "end", value["end"])
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{location}: end {end:g} is not after start {start or 0.0:g}")
    files = {
        name: path.parent / value[name] if value[name] else None for name in ("video", "audio")
    }
    return _Row(
        location,
        value["id"] or _default_id(value["video"] or value["audio"], start, end),
        value["label"],
        value["group"],
        value["split"],
        files["video"],
        files["audio"],
        start or 0.0,
        end,
    )


def _seconds(location: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{location}: {name} {text!r} is not a time; write seconds, such as 2.5")
    return seconds


def _default_id(file: str, start: float | None, end: float | None) -> str:
    stem = re.sub(r"\.\w+$", "", file.replace("\\", "/"))
    if start is None and end is None:
        return stem
    return f"{stem}@{start or 0:g}-{'' if end is None else f'{end:g}'}"
