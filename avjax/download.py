"""Downloads RAVDESS's speech clips from Zenodo.

An actor's folder appears once it is complete. The same call resumes, even within a file, and skips
complete actors.
"""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("download"))

import contextlib
import errno
import shutil
import stat
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from avjax.data.ravdess import (
    ACTORS,
    AUDIO_ONLY,
    AUDIO_VIDEO,
    VIDEO_ONLY,
    ClipName,
    speech_clips,
)
from avjax.errors import InputError
from avjax.preparation.transfer import (
    PATIENCE,
    Patience,
    RemoteFile,
    UnreachableError,
    bytes_held,
    fetch,
    part_of,
)
from avjax.preparation.zenodo import RAVDESS, Record
from avjax.runtime.files import filled, naming
from avjax.runtime.progress import is_live, progress_bar
from avjax.runtime.signals import StopRequest

ZIPS = "zips"  # folder in OUT for the archives
_SUFFIXES = {AUDIO_VIDEO: ".mp4", VIDEO_ONLY: ".mp4", AUDIO_ONLY: ".wav"}
_GROWTH = 1.05  # bound on unpacked size / zip size of mp4s, which hardly compress
_MOST_GROWTH = 10  # the same for any archive; beyond, it is made to fill the disk
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of the published archives
# Raised by zipfile for wrong sizes, offsets, versions, flags and names, and for encryption.
_DAMAGES = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    FileExistsError,
)
_POLL = 0.2  # seconds between checks for a stop request


class Summary(NamedTuple):
    """The requested actors, and those of them downloaded now."""

    actors: tuple[int, ...]
    brought: tuple[int, ...]


def download(
    out: Path,
    actors: Sequence[int] = ACTORS,
    record: Record = RAVDESS,
    *,
    sound_only: bool = False,
    parallel: int = 2,
    keep_zips: bool = False,
    patience: Patience = PATIENCE,
) -> Summary:
    """Downloads the missing clips of actors.

    Args:
      out: the folder for the ``Actor_NN`` folders.
      actors: actors to download.
      record: the Zenodo record with the archives.
      sound_only: download the wavs alone.
      parallel: number of files to fetch at once.
      keep_zips: leave the archives in ``out/zips`` after unpacking.
      patience: how long to retry a transfer.

    Raises:
      InputError: too little disk space, an unreachable server, or wrong data. Complete actors and
        partial files are kept.
      KeyboardInterrupt: stopped by a signal; complete actors and partial files are kept.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is not a folder; choose another --out")
    if sound_only:
        record = record._replace(videos=dict.fromkeys(record.videos))
    missing = {actor: files for actor in actors if (files := _missing(out, actor, record))}
    if missing:
        _check_space(out, missing, record, parallel, keep_zips)
        (out / ZIPS).mkdir(parents=True, exist_ok=True)
        _Job(out, record, missing, keep_zips, patience).run(parallel)
    _clean(out, record)
    return Summary(tuple(actors), tuple(missing))


def _folder(out: Path, actor: int) -> Path:
    return out / f"Actor_{actor:02d}"


def _missing(out: Path, actor: int, record: Record) -> list[RemoteFile]:
    """Returns the archives with an actor's missing clips."""
    folder = _folder(out, actor)
    existing = {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def complete(*modalities: str) -> bool:
        clips = [clip for modality in modalities for clip in speech_clips(actor, modality)]
        return existing.issuperset(clip.clip_id + _SUFFIXES[clip.modality] for clip in clips)

    video = record.videos[actor]
    files = [] if video is None or complete(AUDIO_VIDEO, VIDEO_ONLY) else [video]
    return files if complete(AUDIO_ONLY) else [*files, record.audio]


def _clean(out: Path, record: Record) -> None:
    """Removes archives that no actor lacks, also those left by a killed process."""
    needed = {file for actor in record.videos for file in _missing(out, actor, record)}
    for file in {record.audio, *filter(None, record.videos.values())} - needed:
        part_of(out / ZIPS / file.name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # absent, not empty, a link or a mount point
        (out / ZIPS).rmdir()


def _check_space(
    out: Path,
    missing: Mapping[int, list[RemoteFile]],
    record: Record,
    parallel: int,
    keep_zips: bool,
) -> None:
    """Raises InputError if the download would fill the disk."""
    videos = [file for files in missing.values() for file in files if file != record.audio]
    wavs = sum(record.audio in files for files in missing.values())
    unpacked = _GROWTH * sum(file.size for file in videos)
    unpacked += record.audio_bytes * wavs / len(record.videos)
    zips = sorted((_remaining(file, out) for file in videos), reverse=True)
    needed = unpacked + sum(zips if keep_zips else zips[:parallel])
    needed += _remaining(record.audio, out) if wavs else 0
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        remedies = ["free some space", "choose another --out", "name fewer --actors"]
        remedies += ["leave out --keep_zips"] if keep_zips else []
        raise InputError(
            f"{out} needs {needed / 1e9:.1f} GB for {len(missing)} actors, {free / 1e9:.1f} GB are "
            f"free; {', '.join(remedies[:-1])} or {remedies[-1]}"
        )


def _remaining(file: RemoteFile, out: Path) -> int:
    return file.size - bytes_held(file, out / ZIPS)


class _Job:
    """Fetches and unpacks in threads; the event ``stopping`` ends them all."""

    def __init__(
        self,
        out: Path,
        record: Record,
        missing: Mapping[int, list[RemoteFile]],
        keep_zips: bool,
        patience: Patience,
    ) -> None:
        self.out, self.zips = out, out / ZIPS
        self.record, self.missing = record, missing
        self.keep_zips, self.patience = keep_zips, patience
        self.stopping = threading.Event()
        files = {file for files in missing.values() for file in files}
        self.needs_audio = record.audio in files
        self.total = progress_bar(
            desc=f"{len(files)} files",
            total=sum(file.size for file in files),
            initial=sum(file.size - _remaining(file, out) for file in files),
            unit="B",
            unit_scale=True,
        )

    def run(self, parallel: int) -> None:
        """Downloads all missing actors; raises errors of single files only at the end."""
        failures: list[InputError] = []
        pool = ThreadPoolExecutor(parallel)
        with self.total, StopRequest() as stop:
            try:
                # First: actors' threads wait for the sound archive and could occupy the pool.
                audio = pool.submit(self._fetch, self.record.audio) if self.needs_audio else None
                pending = {pool.submit(self._fetch_actor, actor, audio) for actor in self.missing}
                while pending:
                    done, pending = wait(pending, _POLL, return_when=FIRST_COMPLETED)
                    if stop.requested:
                        raise KeyboardInterrupt
                    if audio is not None and audio.done():
                        audio.result()  # raises: without it, no actor can be completed
                    failures += filter(None, map(_failure, done))
            finally:
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
        if failures:
            more = f" ({len(failures) - 1} more files failed)" if len(failures) > 1 else ""
            raise InputError(f"{failures[0]}{more}")

    def _fetch_actor(self, actor: int, audio: Future[Path] | None) -> None:
        """Fetches and unpacks an actor's missing archives."""
        files, archives = self.missing[actor], []
        video = self.record.videos[actor]
        if video is not None and video in files:
            archives.append(self._fetch(video))
        if audio is not None and self.record.audio in files:
            archives.append(audio.result())
        with filled(_folder(self.out, actor)) as folder:
            for archive in archives:
                self._unpack(archive, actor, folder)
        if video is not None and video in files and not self.keep_zips:
            archives[0].unlink()

    def _fetch(self, file: RemoteFile) -> Path:
        with progress_bar(
            desc=file.name,
            total=file.size,
            initial=file.size - _remaining(file, self.out),
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not is_live(),
        ) as bar:

            def progress(count: int) -> None:
                with bar.get_lock():
                    bar.update(count)
                    self.total.update(count)

            path = fetch(
                file,
                self.zips,
                stopping=self.stopping,
                progress=progress,
                patience=self.patience,
            )
        # By the name of a partial file, no call takes it for one to keep.
        return path if self.keep_zips else path.rename(part_of(path))

    def _unpack(self, archive: Path, actor: int, into: Path) -> None:
        """Extracts an actor's clips from an archive."""
        with _explained_damage(archive), zipfile.ZipFile(archive) as zip_file:
            members = _clips(zip_file, archive, actor)
            bar = progress_bar(
                members,
                desc=f"unpacking Actor_{actor:02d}",
                unit="clip",
                leave=False,
                disable=not is_live(),
            )
            for member, name in bar:
                if self.stopping.is_set():
                    raise CancelledError
                path = into / name
                with naming(path), zip_file.open(member) as source, path.open("xb") as target:
                    shutil.copyfileobj(source, target)


@contextlib.contextmanager
def _explained_damage(archive: Path) -> Iterator[None]:
    """Makes an InputError of what zipfile raises for damaged archives."""
    try:
        yield
    except InputError:
        raise
    except (*_DAMAGES, OSError) as error:
        is_seek = isinstance(error, OSError) and error.errno == errno.EINVAL  # to a wrong offset
        if not (isinstance(error, _DAMAGES) or is_seek):
            raise  # such as a full disk
        raise InputError(f"{archive} is damaged ({error}); remove it and start again") from error


def _clips(
    zip_file: zipfile.ZipFile, archive: Path, actor: int
) -> list[tuple[zipfile.ZipInfo, str]]:
    """Returns the members that are clips of an actor, with their file names.

    Raises:
      InputError: a member outside the folder that the archive is unpacked into, a clip that is a
        link or unusually compressed, no clips, or much more than the archive's size.
    """
    clips = []
    for member in zip_file.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or member.filename[1:2] == ":":
            raise InputError(
                f"{archive} holds {member.filename!r}, which leads out of its folder; remove it"
            )
        name = _clip_name(path, actor)
        if name is None or member.is_dir():
            continue
        if stat.S_ISLNK(member.external_attr >> 16) or member.compress_type not in _METHODS:
            raise InputError(
                f"{archive} holds {member.filename!r} as a link or compressed in an unusual way, "
                "unlike the published one; remove it and start again"
            )
        clips.append((member, name))
    if not clips:
        raise InputError(f"{archive} holds no clips of actor {actor}; remove it")
    unpacked, size = sum(member.file_size for member, _ in clips), archive.stat().st_size
    if unpacked > _MOST_GROWTH * size:
        raise InputError(
            f"{archive} of {size / 1e6:.1f} MB would unpack to {unpacked / 1e6:.1f} MB, unlike the "
            "published one; remove it and start again"
        )
    return clips


def _clip_name(path: PurePosixPath, actor: int) -> str | None:
    """Returns a member's name if it is a clip of an actor."""
    try:
        clip = ClipName.parse(path.name)
    except InputError:
        return None  # a folder, or an operating system's file
    name = clip.clip_id + _SUFFIXES[clip.modality]
    return name if path.name == name and int(clip.actor) == actor else None


def _failure(done: Future[None]) -> InputError | None:
    """Returns the error of a single file, or None; raises errors that concern all files."""
    error = done.exception()
    if isinstance(error, InputError) and not isinstance(error, UnreachableError):
        return error
    if error is not None:
        raise error
    return None


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.download`."""
    return commands.run("download", argv)
