"""Reads manifests: CSV files that list a user's clips.

Each row is one clip. ``label`` and ``video`` or ``audio`` are required; other columns are optional.
"""

import hashlib
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avjax.data.folds import SPLITS
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.raw_clip import RawClip
from avjax.preparation.table import Table, read_table

COLUMNS = ("video", "audio", "label", "group", "start", "end", "split", "id", "face")
MAX_FAULTS = 20  # listed in one error
_NO_LABELS = ("nan", "<na>", "#n/a")  # how programs write an empty cell


class Manifest(NamedTuple):
    """What a manifest lists.

    Attributes:
      clips: sorted by id.
      skipped: reasons for skipping clips, by id.
      classes: class names, in label order.
      notes: what else there is to know, a line each.
    """

    clips: list[RawClip]
    skipped: dict[str, str]
    classes: tuple[str, ...]
    notes: list[str]


class _Row(NamedTuple):
    """A validated line; ``line`` is its number."""

    line: int
    clip_id: str
    label: str
    group: str
    subset: str
    video: Path | None
    audio: Path | None
    start: float
    end: float | None
    face: tuple[float, ...] | None


def read_manifest(path: Path, classes: Sequence[str] | None = None) -> Manifest:
    """Reads a manifest.

    Args:
      path: a table with a header, see `read_table`. Paths are relative to its folder. A video
        without ``audio`` uses its own sound track. ``start`` and ``end`` are in seconds. ``face``
        is a point x,y or a box x,y,width,height in pixels of the clip's first frame.
      classes: class names in label order; by default the sorted labels.

    Raises:
      InputError: values are invalid; names the lines and the values.
    """
    table = read_table(path, COLUMNS)
    _check_header(path, table.columns)
    if not table.rows:
        raise InputError(f"{path} lists no clips; write a line for each below the header")
    if classes is not None:
        _check_classes(classes)
    rows, faults = _rows(path, table)
    names = tuple(sorted({row.label for row in rows})) if classes is None else tuple(classes)
    faults += _label_faults(rows, None if classes is None else names)
    faults += _repeat_faults(rows)
    if faults:
        raise InputError(_all_faults(path, sorted(faults, key=lambda fault: fault[0])))
    clips: list[RawClip] = []
    skipped: dict[str, str] = {}
    for row in rows:
        files = [path for path in (row.video, row.audio) if path is not None]
        missing = [str(path) for path in files if not os.path.isfile(path)]
        if missing:
            reason = f"{path} line {row.line}: there is no file {' nor '.join(missing)}"
            skipped[row.clip_id] = reason
        else:
            clips.append(_raw_clip(row, names.index(row.label)))
    clips.sort(key=lambda clip: clip.record.clip_id)
    return Manifest(clips, skipped, names, table.notes)


def _raw_clip(row: _Row, label: int) -> RawClip:
    """Returns a row's clip; its key is a hash of the id, the files, the cut and the face."""
    cut: tuple[object, ...] = (row.clip_id, str(row.video), str(row.audio), row.start, row.end)
    if row.face is not None:  # the keys of other clips are older than faces
        cut = (*cut, row.face)
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
        row.face,
    )


# ------------------------------------------------------------------------------------------ lines


def _check_header(path: Path, header: Sequence[str]) -> None:
    unknown = [name for name in header if name not in COLUMNS]
    if unknown or "label" not in header or not {"video", "audio"} & set(header):
        actual = f"; it has {', '.join(header)}" if header else ""
        raise InputError(
            f"{path}: the first line must name the columns: label, and video or audio or both; "
            f"besides these it may name group, start, end, split, id and face{actual}"
        )
    if len(set(header)) != len(header):
        raise InputError(f"{path}: the first line names a column twice: {', '.join(header)}")


def _rows(path: Path, table: Table) -> tuple[list[_Row], list[tuple[int, str]]]:
    """Returns valid rows, and the faults of others by line."""
    rows, faults = [], []
    listings: dict[Path, dict[str, str]] = {}
    for line, fields in table.rows:
        if any(fields[len(table.columns) :]):
            faults.append((line, "has more fields than the header; quote commas inside a field"))
            continue
        padded = [*fields, *[""] * len(table.columns)]
        value = dict.fromkeys(COLUMNS, "") | dict(zip(table.columns, padded, strict=False))
        reasons = _row_faults(value)
        faults += [(line, reason) for reason in reasons]
        if not reasons:
            rows.append(_row(path.parent, line, value, listings))
    return rows, faults


def _row_faults(value: Mapping[str, str]) -> list[str]:
    faults = []
    if not value["label"]:
        faults.append("the label is empty; write the name of the clip's class")
    if not (value["video"] or value["audio"]):
        faults.append("neither video nor audio; name a file")
    if value["split"] not in ("", *SPLITS):
        faults.append(f"unknown split {value['split']!r}; write {', '.join(SPLITS)}")
    times = {name: _seconds(value[name]) for name in ("start", "end")}
    wrong = [name for name, seconds in times.items() if not 0 <= (seconds or 0.0) < math.inf]
    faults += [
        f"{name} {value[name]!r} is not a time; write seconds, such as 2.5" for name in wrong
    ]
    start, end = times["start"] or 0.0, times["end"]
    if not wrong and end is not None and end <= start:
        faults.append(f"end {end:g} is not after start {start:g}")
    face = _face(value["face"])
    if face is not None and not _is_target(face):
        faults.append(
            f"face {value['face']!r} is neither a point nor a box in the first frame; write x,y or "
            "x,y,width,height in pixels"
        )
    elif face is not None and not value["video"]:
        faults.append(f"face {value['face']!r} without a video; name the video or leave it empty")
    return faults


def _row(
    folder: Path, line: int, value: Mapping[str, str], listings: dict[Path, dict[str, str]]
) -> _Row:
    start, end = _seconds(value["start"]), _seconds(value["end"])
    face = _face(value["face"])
    files = {
        name: _on_disk(folder / value[name], listings) if value[name] else None
        for name in ("video", "audio")
    }
    return _Row(
        line,
        value["id"] or _default_id(value["video"] or value["audio"], start, end, face),
        unicodedata.normalize("NFC", value["label"]),
        unicodedata.normalize("NFC", value["group"]),
        value["split"],
        files["video"],
        files["audio"],
        start or 0.0,
        end,
        face,
    )


def _face(text: str) -> tuple[float, ...] | None:
    """Reads numbers apart by commas, semicolons or blanks; None if there are none."""
    fields = re.split(r"\s*[,;]\s*|\s+", text) if text else []
    try:
        return tuple(float(field) for field in fields) or None
    except ValueError:
        return ()


def _is_target(face: Sequence[float]) -> bool:
    return len(face) in (2, 4) and all(0 <= x < math.inf for x in face) and 0 not in face[2:]


def _seconds(text: str) -> float | None:
    """Reads a time, also with a decimal comma; None if there is none, NaN if it is no number."""
    if not text:
        return None
    try:
        return float(text.replace(",", "."))
    except ValueError:
        return math.nan


def _on_disk(path: Path, listings: dict[Path, dict[str, str]]) -> Path:
    """Returns a path as the disk has it, where only the Unicode form of its names differs.

    Args:
      path: a path that may not exist.
      listings: names in folders by their composed form, kept from one call to the next.
    """
    # Unlike Path's, these functions take any text, such as a name that is too long.
    if path.name in ("", "..") or os.path.exists(path):
        return path
    folder = _on_disk(path.parent, listings)
    if folder not in listings:
        entries = os.listdir(folder) if os.path.isdir(folder) else []
        listings[folder] = {unicodedata.normalize("NFC", name): name for name in entries}
    return folder / listings[folder].get(unicodedata.normalize("NFC", path.name), path.name)


def _default_id(
    file: str, start: float | None, end: float | None, face: Sequence[float] | None
) -> str:
    name = re.sub(r"\.\w+$", "", file.replace("\\", "/"))
    if start is not None or end is not None:
        name += f"@{start or 0:g}-{'' if end is None else f'{end:g}'}"
    return name if face is None else f"{name}#{','.join(f'{x:g}' for x in face)}"


# ----------------------------------------------------------------------------------------- faults


def _check_classes(classes: Sequence[str]) -> None:
    if len({_alike(name) for name in classes}) != len(classes):
        raise InputError(
            f"the classes {', '.join(classes)} are not all different, apart from case and blanks; "
            "rename one"
        )


def _alike(label: str) -> str:
    """The same for labels that differ only in case or blanks."""
    return "".join(label.split()).casefold()


def _label_faults(rows: Iterable[_Row], classes: Sequence[str] | None) -> list[tuple[int, str]]:
    """Labels that are no classes, or the same class written in several ways."""
    faults = []
    first: dict[str, _Row] = {}
    for row in rows:
        spelling = first.setdefault(_alike(row.label), row)
        if classes is not None and row.label not in classes:
            reason = (
                f"label {row.label!r} is none of the classes {', '.join(classes)}; correct it or "
                "name it in --classes"
            )
        elif classes is None and row.label.lower() in _NO_LABELS:
            reason = f"label {row.label!r} means that there is none; write the clip's class"
        elif row.label != spelling.label:
            reason = (
                f"label {row.label!r} differs from {spelling.label!r} (line {spelling.line}) only "
                "in case or blanks; write one of them"
            )
        else:
            continue
        faults.append((row.line, reason))
    return faults


def _repeat_faults(rows: Iterable[_Row]) -> list[tuple[int, str]]:
    """Clips that are listed twice under one id, or one cut with two labels."""
    faults = []
    ids: dict[str, _Row] = {}
    cuts: dict[tuple[object, ...], _Row] = {}
    for row in rows:
        video, audio = (os.path.normpath(file) if file else "" for file in (row.video, row.audio))
        cut = cuts.setdefault((video, audio, row.start, row.end, row.face), row)
        same_id = ids.setdefault(row.clip_id, row)
        if _alike(cut.label) != _alike(row.label):
            reason = (
                f"clip {row.clip_id!r} is labelled {row.label!r} here and {cut.label!r} in line "
                f"{cut.line}; keep one"
            )
        elif same_id is not row:
            reason = (
                f"clip {row.clip_id!r} was listed before (line {same_id.line}); remove one, or "
                "tell them apart in a column id"
            )
        else:
            continue
        faults.append((row.line, reason))
    return faults


def _all_faults(path: Path, faults: Sequence[tuple[int, str]]) -> str:
    """One message with the lines of all faults, or of the first ones."""
    listed = "; ".join(f"line {line}: {reason}" for line, reason in faults[:MAX_FAULTS])
    if len(faults) == 1:
        return f"{path} {listed}"
    more = f"; and {len(faults) - MAX_FAULTS} more" if len(faults) > MAX_FAULTS else ""
    return f"{path} has {len(faults)} faults: {listed}{more}"
