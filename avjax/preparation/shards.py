"""Prepares a dataset on several machines: each prepares every n-th clip, and one merges them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Self, TypeVar

from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.clip_store import ClipStore, open_clip_store
from avjax.preparation.publish import Summary, publish
from avjax.preparation.raw_clip import RawClip
from avjax.preparation.settings import PreparationSettings
from avjax.runtime.files import is_occupied
from avjax.runtime.sealed import read_json
from avjax.runtime.typed import check_fields

_REPORT = "shard.json"  # written when the shard is complete
T = TypeVar("T")


class Shard(NamedTuple):
    """One shard of the clips.

    Attributes:
      number: shard number, from 1.
      total: number of shards.
    """

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses text such as ``2/8``.

        Raises:
          InputError: the text has another form, or the number exceeds the total.
        """
        number, _, total = text.partition("/")
        if number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total):
            return cls(int(number), int(total))
        raise InputError(f"cannot read shard {text!r}; write 1/8 to 8/8 for eight shards")

    def __str__(self) -> str:
        """Formats the shard for `parse`."""
        return f"{self.number}/{self.total}"

    def directory(self, out: Path) -> Path:
        """Returns the folder of the shard's clips until `merge`."""
        return out.with_name(f"{out.name}.shard-{self.number}-of-{self.total}")

    def share(self, clips: Sequence[T]) -> Sequence[T]:
        """Selects the shard's clips."""
        return clips[self.number - 1 :: self.total]


class _Report(NamedTuple):
    """The report of a complete shard; `found` has the keys and records of all shards' clips."""

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
    clips: Iterable[RawClip],
    summary: Summary,
) -> None:
    """Writes the report that marks a shard as complete."""
    report = _Report(shard, settings, dict(versions), _listed(clips), summary)
    content = {**report._asdict(), "settings": settings._asdict(), "summary": summary._asdict()}
    store.write_json(_REPORT, content)


def _listed(clips: Iterable[RawClip]) -> list[tuple[str, ClipRecord]]:
    return [(clip.key, clip.record) for clip in clips]


def finished(store: ClipStore, clips: Iterable[RawClip]) -> Summary | None:
    """Returns the summary of a complete shard, or None if it is incomplete.

    Raises:
      InputError: the source has changed since.
    """
    if not (store.directory / _REPORT).exists():
        return None
    report = _read(store.directory)
    if report.found != _listed(clips):
        raise InputError(
            f"{store.directory} is finished, but the source has other clips since; choose another "
            "--out, or delete it to prepare the shard again"
        )
    return report.summary._replace(prepared_now=0, seconds=0.0, phases={})


def merge(out: Path) -> Summary:
    """Merges the shards next to ``out`` into one dataset, byte-identical to one without shards.

    The shards are not deleted.

    Raises:
      InputError: a shard is missing or duplicate, a clip is missing, the shards differ in
        settings, versions or source, or ``out`` exists.
    """
    if is_occupied(out):
        raise InputError(f"{out} exists; choose another --out, or delete it to merge again")
    directories = sorted(out.parent.glob(f"{out.name}.shard-*"))
    if not directories:
        raise InputError(f"there are no shards {out}.shard-*; prepare them with --shard")
    reports = {directory: _read(directory) for directory in directories}
    first = reports[directories[0]]
    for directory, report in reports.items():
        _check_equal(directories[0], first, directory, report)
    _check_numbers(out, reports)
    files = {
        name: path
        for directory, report in reports.items()
        for name, path in _files(directory, report)
    }
    summary = _sum([report.summary for report in reports.values()])
    if not files:
        reasons = "; ".join(f"{k}: {v}" for k, v in list(summary.skipped.items())[:3])
        raise InputError(f"no clip could be prepared ({reasons})")
    with open_clip_store(out.with_name(out.name + ".partial"), first.settings) as store:
        publish(store, files, first.settings, first.versions, summary, out)
    return summary


def _read(directory: Path) -> _Report:
    """Reads a shard's report."""
    path = directory / _REPORT
    if not path.exists():
        raise InputError(f"{directory} is not finished; run its command again")
    stored = read_json(path, "delete it and run the shard's command again")
    try:
        report = _Report(
            Shard(*stored["shard"]),
            ClipStore(directory).settings(),
            stored["versions"],
            [(key, ClipRecord(*record)) for key, record in stored["found"]],
            Summary.from_json(stored["summary"]),
        )
        check_fields(report)
        return report
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is damaged ({error}); delete it and run the shard's command again"
        ) from error


def _check_equal(first: Path, expected: _Report, directory: Path, report: _Report) -> None:
    report.settings.check_same(expected.settings, first)
    for name, expected_value, value in (
        ("number of shards", expected.shard.total, report.shard.total),
        ("versions of the libraries", expected.versions, report.versions),
        ("clips in the source", expected.found, report.found),
    ):
        if value != expected_value:
            raise InputError(
                f"{directory} and {first} differ in the {name}; prepare one of them again"
            )


def _check_numbers(out: Path, reports: Mapping[Path, _Report]) -> None:
    """Checks that every shard is present once."""
    directories: dict[Shard, Path] = {}
    for directory, report in reports.items():
        shard = report.shard
        if shard in directories:
            raise InputError(
                f"{directories[shard]} and {directory} are both shard {shard}; remove one"
            )
        directories[shard] = directory
    total = next(iter(directories)).total
    shards = [Shard(number, total) for number in range(1, total + 1)]
    missing = [str(shard) for shard in shards if shard not in directories]
    if missing:
        raise InputError(
            f"of the shards of {out}, {', '.join(missing)} are missing; prepare them with --shard"
        )


def _files(directory: Path, report: _Report) -> Iterable[tuple[ClipRecord, Path]]:
    """Yields a shard's clips; every one that was not skipped must exist."""
    store = ClipStore(directory)
    for key, record in report.shard.share(report.found):
        if store.has(key):
            yield record, store.path(key)
        elif record.clip_id not in report.summary.skipped:
            raise InputError(
                f"{directory} lacks clip {record.clip_id}; delete its {_REPORT} and run its "
                "command again"
            )


def _sum(summaries: Sequence[Summary]) -> Summary:
    """Adds up the shards' summaries."""
    phases: dict[str, float] = {}
    for summary in summaries:
        for name, seconds in summary.phases.items():
            phases[name] = round(phases.get(name, 0.0) + seconds, 2)
    return Summary(
        written=sum(summary.written for summary in summaries),
        skipped={k: v for summary in summaries for k, v in summary.skipped.items()},
        incomplete={k: v for summary in summaries for k, v in summary.incomplete.items()},
        faceless_frames={k: v for summary in summaries for k, v in summary.faceless_frames.items()},
        prepared_now=sum(summary.prepared_now for summary in summaries),
        seconds=round(sum(summary.seconds for summary in summaries), 1),
        phases=phases,
        inventory=summaries[0].inventory,  # every shard counts the whole source
        notes={k: v for summary in summaries for k, v in summary.notes.items()},
    )
