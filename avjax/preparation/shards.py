"""Preparing on several machines: each takes every n-th clip, and one merges what they finished."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.clip_store import ClipStore, open_clip_store
from avjax.preparation.publish import Summary, publish
from avjax.preparation.raw_clip import RawClip
from avjax.preparation.settings import PreparationSettings

_REPORT = "shard.json"  # in a shard's folder once all its clips are done
T = TypeVar("T")


class Shard(NamedTuple):
    """One of several equal shares of the clips.

    Attributes:
      number: from 1.
      total: of the shares.
    """

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``2/8``.

        Raises:
          InputError: not of that form, or a number above the count.
        """
        number, _, count = text.partition("/")
        if number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count):
            return cls(int(number), int(count))
        raise InputError(f"cannot read shard {text!r}; write 1/8 to 8/8 for eight shards")

    def __str__(self) -> str:
        """As `parse` reads it."""
        return f"{self.number}/{self.total}"

    def directory(self, out: Path) -> Path:
        """Where the shard's finished clips wait for `merge`."""
        return out.with_name(f"{out.name}.shard-{self.number}-of-{self.total}")

    def share(self, clips: Sequence[T]) -> Sequence[T]:
        """The shard's clips, out of all."""
        return clips[self.number - 1 :: self.total]


class _Report(NamedTuple):
    """What a finished shard says of itself; `found` are keys and records of all shards' clips."""

    shard: Shard
    settings: PreparationSettings
    versions: dict[str, str]
    found: list[tuple[str, ClipRecord]]
    summary: Summary


def finish(
    store: ClipStore,
    shard: Shard,
    settings: PreparationSettings,
    versions: Mapping[str, str],
    found: Iterable[RawClip],
    summary: Summary,
) -> None:
    """Marks a shard as done."""
    report = _Report(shard, settings, dict(versions), _listed(found), summary)
    content = {**report._asdict(), "settings": settings._asdict(), "summary": summary._asdict()}
    store.write_json(_REPORT, content)


def _listed(found: Iterable[RawClip]) -> list[tuple[str, ClipRecord]]:
    return [(clip.key, clip.record) for clip in found]


def finished(store: ClipStore, found: Iterable[RawClip]) -> Summary | None:
    """The summary of a shard that is done; None where it is not.

    Raises:
      InputError: it was made of another source.
    """
    if not (store.directory / _REPORT).exists():
        return None
    report = _read(store.directory)
    if report.found != _listed(found):
        raise InputError(
            f"{store.directory} is finished, and the source has other clips since; choose another "
            "--out, or delete it to prepare the shard again"
        )
    return report.summary._replace(prepared_now=0, seconds=0.0, phases={})


def merge(out: Path) -> Summary:
    """Makes one dataset of the shards beside ``out``: the same bytes as without shards.

    The shards stay; they may be deleted afterwards.

    Raises:
      InputError: a shard or a clip is missing or there twice, shards differ in settings, versions
        or source, or ``out`` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists; choose another --out, or delete it to merge again")
    directories = sorted(out.parent.glob(f"{out.name}.shard-*"))
    if not directories:
        raise InputError(f"there are no shards {out}.shard-*; prepare them with --shard")
    reports = {directory: _read(directory) for directory in directories}
    first = reports[directories[0]]
    for directory, report in reports.items():
        _check_alike(directories[0], first, directory, report)
    _check_numbers(out, reports)
    files = {
        name: path
        for directory, report in reports.items()
        for name, path in _files(directory, report)
    }
    summary = _sum([report.summary for report in reports.values()])
    if not files:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(summary.skipped.items())[:3])
        raise InputError(f"none of the clips could be prepared ({reasons})")
    with open_clip_store(out.with_name(out.name + ".partial"), first.settings) as store:
        publish(store, files, first.settings, first.versions, summary, out)
    return summary


def _read(directory: Path) -> _Report:
    """A shard's report."""
    try:
        stored: dict[str, Any] = json.loads((directory / _REPORT).read_text(encoding="utf-8"))
        return _Report(
            Shard(*stored["shard"]),
            ClipStore(directory).settings(),
            stored["versions"],
            [(key, ClipRecord(*record)) for key, record in stored["found"]],
            Summary.from_json(stored["summary"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{directory} is not finished; give its command again") from error


def _check_alike(first: Path, expected: _Report, directory: Path, report: _Report) -> None:
    report.settings.check_same(expected.settings, first)
    for what, ours, theirs in (
        ("number of shards", expected.shard.total, report.shard.total),
        ("versions of the libraries", expected.versions, report.versions),
        ("clips in the source", expected.found, report.found),
    ):
        if ours != theirs:
            raise InputError(
                f"{directory} and {first} differ in the {what}; prepare one of them again"
            )


def _check_numbers(out: Path, reports: Mapping[Path, _Report]) -> None:
    """Each number once."""
    places: dict[Shard, Path] = {}
    for directory, report in reports.items():
        if report.shard in places:
            raise InputError(
                f"{places[report.shard]} and {directory} are both shard {report.shard}; remove one"
            )
        places[report.shard] = directory
    count = next(iter(places)).total
    absent = [str(s) for n in range(1, count + 1) if (s := Shard(n, count)) not in places]
    if absent:
        raise InputError(
            f"of the shards of {out}, {', '.join(absent)} are missing; prepare them with --shard"
        )


def _files(directory: Path, report: _Report) -> Iterable[tuple[ClipRecord, Path]]:
    """A shard's clips; all that were found and not skipped must be there."""
    store = ClipStore(directory)
    for key, record in report.shard.share(report.found):
        if store.has(key):
            yield record, store.path(key)
        elif record.clip_id not in report.summary.skipped:
            raise InputError(
                f"{directory} lacks clip {record.clip_id}; delete its {_REPORT} and give its "
                "command again"
            )


def _sum(parts: Sequence[Summary]) -> Summary:
    """All shards as if they were one run."""
    phases: dict[str, float] = {}
    for part in parts:
        for name, seconds in part.phases.items():
            phases[name] = round(phases.get(name, 0.0) + seconds, 2)
    return Summary(
        sum(part.written for part in parts),
        {k: v for part in parts for k, v in part.skipped.items()},
        {k: v for part in parts for k, v in part.incomplete.items()},
        {k: v for part in parts for k, v in part.faceless_frames.items()},
        sum(part.prepared_now for part in parts),
        round(sum(part.seconds for part in parts), 1),
        phases,
    )
