"""RAVDESS's speech clips from Zenodo.

An actor's folder appears when it is whole. The same call again goes on where it stopped, in the
middle of a file, too, and does nothing once all is there.
"""

import sys

from avjax import commands

if __name__ == "__main__":  # before the imports below, which take seconds
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

ZIPS = "zips"  # folder in OUT of what is being fetched
_SUFFIXES = {AUDIO_VIDEO: ".mp4", VIDEO_ONLY: ".mp4", AUDIO_ONLY: ".wav"}
_GROWTH = 1.05  # at most, of mp4s when unpacked: they hardly compress
_POLL = 0.2  # seconds between two looks at whether to stop


class Summary(NamedTuple):
    """What a download did: actors that are there, and which of them it brought."""

    actors: tuple[int, ...]
    brought: tuple[int, ...]


def download(
    out: Path,
    actors: Sequence[int] = ACTORS,
    record: Record = RAVDESS,
    *,
    parallel: int = 2,
    keep_zips: bool = False,
    patience: Patience = PATIENCE,
) -> Summary:
    """Brings the clips of actors, as far as they are not there.

    Args:
      out: the folder in which ``Actor_NN`` folders are made.
      actors: of the record.
      record: where the archives are.
      parallel: files fetched at the same time.
      keep_zips: leave the archives in ``out/zips`` instead of removing each once it is unpacked.
      patience: how long a transfer is tried.

    Raises:
      InputError: too little space, a server that cannot be reached or sends something else. What
        is complete by then stays, and so do unfinished files.
      KeyboardInterrupt: a signal asked to stop; the same holds.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is no folder; choose another --out")
    lacking = {actor: files for actor in actors if (files := _lacking(out, actor, record))}
    if lacking:
        _check_space(out, lacking, record, parallel, keep_zips)
        (out / ZIPS).mkdir(parents=True, exist_ok=True)
        _Job(out, record, lacking, keep_zips, patience).run(parallel)
    return Summary(tuple(actors), tuple(lacking))


def _folder(out: Path, actor: int) -> Path:
    return out / f"Actor_{actor:02d}"


def _lacking(out: Path, actor: int, record: Record) -> list[RemoteFile]:
    """The archives of those clips of an actor that are not there."""
    folder = _folder(out, actor)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def complete(*modalities: str) -> bool:
        clips = [clip for modality in modalities for clip in speech_clips(actor, modality)]
        return there.issuperset(clip.clip_id + _SUFFIXES[clip.modality] for clip in clips)

    files = [] if complete(AUDIO_VIDEO, VIDEO_ONLY) else [record.videos[actor]]
    return files if complete(AUDIO_ONLY) else [*files, record.audio]


def _check_space(
    out: Path,
    lacking: Mapping[int, list[RemoteFile]],
    record: Record,
    parallel: int,
    keep_zips: bool,
) -> None:
    """Refuses to begin what would fill the disk."""
    videos = [record.videos[a] for a, files in lacking.items() if record.videos[a] in files]
    wavs = sum(record.audio in files for files in lacking.values())
    unpacked = _GROWTH * sum(file.size for file in videos)
    unpacked += record.audio_bytes * wavs / len(record.videos)
    zips = sorted((_remaining(file, out) for file in videos), reverse=True)
    needed = unpacked + sum(zips if keep_zips else zips[:parallel])
    needed += _remaining(record.audio, out) if wavs else 0
    existing = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        remedies = ["free some", "choose another --out", "name fewer --actors"]
        remedies += ["leave out --keep_zips"] if keep_zips else []
        raise InputError(
            f"{out} needs {needed / 1e9:.1f} GB for {len(lacking)} actors, {free / 1e9:.1f} GB are "
            f"free; {', '.join(remedies[:-1])} or {remedies[-1]}"
        )


def _remaining(file: RemoteFile, out: Path) -> int:
    return file.size - bytes_held(file, out / ZIPS)


class _Job:
    """Fetches and unpacks in threads; ``stopping`` ends them all."""

    def __init__(
        self,
        out: Path,
        record: Record,
        lacking: Mapping[int, list[RemoteFile]],
        keep_zips: bool,
        patience: Patience,
    ) -> None:
        self.out, self.zips = out, out / ZIPS
        self.record, self.lacking = record, lacking
        self.keep_zips, self.patience = keep_zips, patience
        self.stopping = threading.Event()
        files = {file for files in lacking.values() for file in files}
        self.wants_audio = record.audio in files
        self.total = progress_bar(
            desc=f"{len(files)} files",
            total=sum(file.size for file in files),
            initial=sum(file.size - _remaining(file, out) for file in files),
            unit="B",
            unit_scale=True,
        )

    def run(self, parallel: int) -> None:
        """Does all of it; a file that cannot be had does not keep the others from coming."""
        failures: list[InputError] = []
        pool = ThreadPoolExecutor(parallel)
        with self.total, StopRequest() as stop:
            try:
                # First, so that no actor's thread waits for a sound archive that none fetches.
                audio = pool.submit(self._fetch, self.record.audio) if self.wants_audio else None
                pending = {pool.submit(self._bring, actor, audio) for actor in self.lacking}
                while pending:
                    done, pending = wait(pending, _POLL, return_when=FIRST_COMPLETED)
                    if stop.requested:
                        raise KeyboardInterrupt
                    if audio is not None and audio.done():
                        audio.result()  # without it, no actor can be finished
                    failures += filter(None, map(_failure, done))
            finally:
                self.stopping.set()
                pool.shutdown(cancel_futures=True)
        if failures:
            more = f" ({len(failures) - 1} more files failed)" if len(failures) > 1 else ""
            raise InputError(f"{failures[0]}{more}")
        everything = not any(_lacking(self.out, a, self.record) for a in self.record.videos)
        if everything and self.wants_audio and not self.keep_zips:
            (self.zips / self.record.audio.name).unlink()
        if not any(self.zips.iterdir()):
            self.zips.rmdir()

    def _bring(self, actor: int, audio: Future[Path] | None) -> None:
        """Fetches what an actor lacks and unpacks it."""
        files, archives = self.lacking[actor], []
        video = self.record.videos[actor]
        if video in files:
            archives.append(self._fetch(video))
        if audio is not None and self.record.audio in files:
            archives.append(audio.result())
        stage = self.zips / f"{_folder(self.out, actor).name}.unpacking"
        shutil.rmtree(stage, ignore_errors=True)  # of a start that was killed
        stage.mkdir()
        try:
            for archive in archives:
                self._unpack(archive, actor, stage)
            _publish(stage, _folder(self.out, actor))
        finally:
            shutil.rmtree(stage, ignore_errors=True)
        if video in files and not self.keep_zips:
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
        """Copies an actor's clips out of an archive, each durable on return."""
        try:
            with zipfile.ZipFile(archive) as opened:
                members = list(_clips(opened, archive, actor))
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
                    with opened.open(member) as source, (into / name).open("xb") as target:
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
    opened: zipfile.ZipFile, archive: Path, actor: int
) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """The members that are clips of an actor, with their bare file names.

    Raises:
      InputError: a member that would lie outside of the folder into which zips are unpacked.
    """
    for member in opened.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or member.filename[1:2] == ":":
            raise InputError(
                f"{archive} holds {member.filename!r}, which leads out of its folder; remove it"
            )
        try:
            clip = ClipName.parse(path.name)
        except InputError:
            continue  # a folder, or what an operating system left there
        whole = clip.clip_id + _SUFFIXES[clip.modality]
        if path.name == whole and int(clip.actor) == actor:
            yield member, whole


def _publish(stage: Path, folder: Path) -> None:
    """Makes an actor's folder appear whole, or completes the one that is there."""
    if folder.exists():
        for path in stage.iterdir():
            path.replace(folder / path.name)
    else:
        stage.rename(folder)


def _failure(done: Future[None]) -> InputError | None:
    """What is wrong with one file; whatever concerns them all is raised."""
    error = done.exception()
    if isinstance(error, InputError) and not isinstance(error, UnreachableError):
        return error
    if error is not None:
        raise error
    return None


def main(argv: list[str] | None = None) -> int:
    """The command line, see `avjax.commands.download`."""
    return commands.run("download", argv)
