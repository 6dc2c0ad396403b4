"""Downloads RAVDESS's speech clips from Zenodo.

An actor's folder appears once it is complete. The same call resumes, even within a file, and skips
complete actors.
"""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("download"))

import os
import shutil
import threading
import zipfile
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
)
from avjax.preparation.zenodo import RAVDESS, Record
from avjax.runtime.progress import is_live, progress_bar
from avjax.runtime.signals import StopRequest

ZIPS = "zips"  # folder in OUT for the archives
_SUFFIXES = {AUDIO_VIDEO: ".mp4", VIDEO_ONLY: ".mp4", AUDIO_ONLY: ".wav"}
_GROWTH = 1.05  # bound on unpacked size / zip size of mp4s, which hardly compress
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
        complete = not any(_missing(self.out, a, self.record) for a in self.record.videos)
        if complete and self.needs_audio and not self.keep_zips:
            (self.zips / self.record.audio.name).unlink()
        if not any(self.zips.iterdir()):
            self.zips.rmdir()

    def _fetch_actor(self, actor: int, audio: Future[Path] | None) -> None:
        """Fetches and unpacks an actor's missing archives."""
        files, archives = self.missing[actor], []
        video = self.record.videos[actor]
        if video is not None and video in files:
            archives.append(self._fetch(video))
        if audio is not None and self.record.audio in files:
            archives.append(audio.result())
        stage = self.zips / f"{_folder(self.out, actor).name}.unpacking"
        shutil.rmtree(stage, ignore_errors=True)  # left by a killed process
        stage.mkdir()
        try:
            for archive in archives:
                self._unpack(archive, actor, stage)
            _publish(stage, _folder(self.out, actor))
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        if video is not None and video in files and not self.keep_zips:
            (self.zips / video.name).unlink()

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

            return fetch(
                file,
                self.zips,
                stopping=self.stopping,
                progress=progress,
                patience=self.patience,
            )

    def _unpack(self, archive: Path, actor: int, into: Path) -> None:
        """Extracts an actor's clips from an archive, durably."""
        try:
            with zipfile.ZipFile(archive) as zip_file:
                members = list(_clips(zip_file, archive, actor))
                bar = progress_bar(
                    members,
                    desc=f"unpacking {into.stem}",
                    unit="clip",
                    leave=False,
                    disable=not is_live(),
                )
                for member, name in bar:
                    if self.stopping.is_set():
                        raise CancelledError
                    with zip_file.open(member) as source, (into / name).open("xb") as target:
                        shutil.copyfileobj(source, target)
                        target.flush()
                        os.fsync(target.fileno())
        except (zipfile.BadZipFile, FileExistsError) as error:
            raise InputError(
                f"{archive} is damaged ({error}); remove it and start again"
            ) from error
        if not members:
            raise InputError(f"{archive} holds no clips of actor {actor}; remove it")


def _clips(
    zip_file: zipfile.ZipFile, archive: Path, actor: int
) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yields the members that are clips of an actor, with their file names.

    Raises:
      InputError: a member outside the folder that the archive is unpacked into.
    """
    for member in zip_file.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or member.filename[1:2] == ":":
            raise InputError(
                f"{archive} holds {member.filename!r}, which leads out of its folder; remove it"
            )
        try:
            clip = ClipName.parse(path.name)
        except InputError:
            continue  # a folder, or an operating system's file
        name = clip.clip_id + _SUFFIXES[clip.modality]
        if path.name == name and int(clip.actor) == actor:
            yield member, name


def _publish(stage: Path, folder: Path) -> None:
    """Moves an actor's clips into place, atomically if its folder is new."""
    if folder.exists():
        for path in stage.iterdir():
            path.replace(folder / path.name)
    else:
        stage.rename(folder)


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
