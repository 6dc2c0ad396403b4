"""Own clips, listed in a CSV file whose header names the columns.

A row is a clip. ``label`` and one of ``video`` and ``audio`` are needed, all else may be left out.
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
    """A line that is sound in itself."""

    where: str
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
      path: a CSV file with a header, in UTF-8. Relative paths in it start at its folder; a video
        without ``audio`` brings its own sound track. ``start`` and ``end`` are seconds.
      classes: names of the classes in their order; by default the labels that occur, sorted.

    Returns:
      Clips by id; reasons why others are left out, by id; the classes.

    Raises:
      InputError: names the line and the value that cannot be used.
    """
    rows = _rows(path)
    used = tuple(sorted({row.label for row in rows}))
    names = used if classes is None else tuple(classes)
    if len(set(names)) != len(names):
        raise InputError(f"the classes {', '.join(names)} are not all different; rename one")
    seen: dict[str, str] = {}
    found: list[RawClip] = []
    skipped: dict[str, str] = {}
    for row in rows:
        if row.label not in names:
            raise InputError(
                f"{row.where}: label {row.label!r} is none of the classes {', '.join(names)}; "
                "correct it or name it in --classes"
            )
        if row.clip_id in seen:
            raise InputError(
                f"{row.where}: clip {row.clip_id!r} was listed before ({seen[row.clip_id]}); "
                "remove one, or tell them apart in a column id"
            )
        seen[row.clip_id] = row.where
        absent = [str(p) for p in (row.video, row.audio) if p is not None and not p.is_file()]
        if absent:
            skipped[row.clip_id] = f"{row.where}: there is no file {' nor '.join(absent)}"
            continue
        found.append(_raw_clip(row, names.index(row.label)))
    return sorted(found, key=lambda clip: clip.record.clip_id), skipped, names


def _raw_clip(row: _Row, label: int) -> RawClip:
    """The clip of a row; its key changes with all that decides what is cut from which file."""
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
        found = f"; it has {', '.join(header)}" if header else ""
        raise InputError(
            f"{path}: the first line must name the columns: label, and video or audio or both; "
            f"besides these it may name group, start, end, split and id{found}"
        )


def _row(path: Path, number: int, line: Mapping[str, str]) -> _Row:
    where = f"{path} line {number}"
    if "" in line:
        raise InputError(f"{where} has more fields than the header; quote commas inside a field")
    value = {name: line.get(name, "").strip() for name in COLUMNS}
    if not value["label"]:
        raise InputError(f"{where}: the label is empty; write the name of the clip's class")
    if not (value["video"] or value["audio"]):
        raise InputError(f"{where}: neither video nor audio; name a file")
    if value["split"] not in ("", *SPLITS):
        raise InputError(f"{where}: unknown split {value['split']!r}; write {', '.join(SPLITS)}")
    start, end = _seconds(where, "start", value["start"]), _seconds(where, "end", value["end"])
    if end is not None and end <= (start or 0.0):
        raise InputError(f"{where}: end {end:g} does not lie after start {start or 0.0:g}")
    files = {
        name: path.parent / value[name] if value[name] else None for name in ("video", "audio")
    }
    return _Row(
        where,
        value["id"] or _default_id(value["video"] or value["audio"], start, end),
        value["label"],
        value["group"],
        value["split"],
        files["video"],
        files["audio"],
        start or 0.0,
        end,
    )


def _seconds(where: str, name: str, text: str) -> float | None:
    if not text:
        return None
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise InputError(f"{where}: {name} {text!r} is no time; write seconds, such as 2.5")
    return seconds


def _default_id(file: str, start: float | None, end: float | None) -> str:
    stem = re.sub(r"\.\w+$", "", file.replace("\\", "/"))
    if start is None and end is None:
        return stem
    return f"{stem}@{start or 0:g}-{'' if end is None else f'{end:g}'}"
