"""Finds RAVDESS clips on disk, raw or as prepared by the reference's scripts.

A file's name tells actor, channel and modality, wherever the file lies.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, SPEECH, VIDEO_ONLY, ClipName, split_name
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.folder import files_below, is_spare
from avjax.preparation.notes import counted
from avjax.preparation.raw_clip import RawClip

VIDEO_SUFFIXES = (
    *(".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".mts"),
    *(".flv", ".wmv", ".3gp", ".ogv"),
)
SOUND_SUFFIXES = (  # lossless ones first: they win over others of the same name
    *(".wav", ".flac", ".aiff", ".aif", ".aifc", ".au", ".caf"),
    *(".mp3", ".m4a", ".aac", ".ogg", ".oga", ".opus", ".weba", ".mka", ".wma", ".ac3"),
)
_RAW_SUFFIXES = (*VIDEO_SUFFIXES, *SOUND_SUFFIXES)
CROPS_SUFFIXES = ("_facecroppad.npy", "_facecroppad.avi")  # npy first: it is lossless
_PREPARED_SOUND = "_croppad"
_PREPARED = ("_facecroppad", _PREPARED_SOUND)  # ends of names that the reference's scripts write
_ACTOR_FOLDER = re.compile(r"(actor[ _-]?)?\d\d?( ?\(\d+\))?", re.IGNORECASE)


class Source(NamedTuple):
    """What a folder holds.

    Attributes:
      clips: sorted by name.
      skipped: reasons for skipping files or clips, by path or clip.
      notes: what else there is to know, a line each.
    """

    clips: list[RawClip]
    skipped: dict[str, str]
    notes: list[str]


def find_raw(root: Path, pair_video_only: bool, songs: bool = False) -> Source:
    """Finds raw clips at any depth, also behind links.

    A clip's sound is the sound file of its trial in any folder, otherwise the video's sound track.
    A sound file without a video is a clip by itself. Of several files with one name, one is taken:
    none that is hidden or a copy such as ``x (1).mp4`` if there is another.

    Args:
      root: the RAVDESS folder.
      pair_video_only: whether 02-* clips get the sound of their trial, as in the reference.
      songs: whether songs are clips too.

    Raises:
      InputError: ``root`` does not exist or contains no clips.
    """
    skipped: dict[str, str] = {}
    notes: list[str] = []
    media = [p for p in files_below(root, notes) if p.suffix.lower() in _RAW_SUFFIXES]
    media = [path for path in media if not path.stem.endswith(_PREPARED)]
    named = _by_name(media, root, skipped, notes)
    if not named:
        raise InputError(_nothing_in(root, media))
    _leave_songs(named, songs, root, notes)
    sounds, videos = _sounds_and_videos(named, root, skipped, notes)
    clips = []
    for name, path in videos.items():
        sound_track = path if name.modality == AUDIO_VIDEO else None
        audio = sounds.get(name.trial, sound_track)
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        clips.append(_raw_clip(name, path, None if silent else audio))
    paired = {clip.audio for clip in clips}
    alone = [path for path in sounds.values() if path not in paired]
    clips += [_raw_clip(ClipName.parse(path.name), None, path) for path in alone]
    if videos and alone:
        notes.append(
            counted(
                len(alone),
                "sound file belongs to no video and becomes a clip of sound alone:",
                "sound files belong to no video and become clips of sound alone, such as",
            )
            + f" {min(alone)}"
        )
    return Source(sorted(clips, key=lambda clip: clip.key), skipped, notes)


def find_crops(crops: Path, root: Path, pair_video_only: bool, songs: bool = False) -> Source:
    """Finds face crops written by the reference's scripts, with sound from ``root``.

    Args:
      crops: folder with ``*_facecroppad.npy`` or ``.avi`` files at any depth.
      root: folder with ``*_croppad.wav``, or raw sound, files at any depth.
      pair_video_only: as in `find_raw`.
      songs: as in `find_raw`.

    Raises:
      InputError: a folder does not exist, or ``crops`` contains no crops.
    """
    skipped: dict[str, str] = {}
    notes: list[str] = []
    files = [path for path in files_below(crops, notes) if path.name.endswith(CROPS_SUFFIXES)]
    named = _by_name(files, crops, skipped, notes)
    if not named:
        raise InputError(f"no face crops (*{', *'.join(CROPS_SUFFIXES)}) found in {crops}")
    _leave_songs(named, songs, crops, notes)
    sounds = _cut_or_raw_sounds(root, notes if root != crops else [])
    clips = []
    for name, paths in sorted(named.items()):
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        audio = None if silent else sounds.get(name.trial)
        video = _choose(paths, crops, (".npy", ".avi"))
        if audio is None and name.modality == AUDIO_VIDEO:
            reason = f"no sound found for {video}; name the folder with it as --source"
            skipped[name.clip_id] = reason
        else:
            clips.append(_raw_clip(name, video, audio))
    return Source(clips, skipped, notes)


def _by_name(
    files: Iterable[Path], root: Path, skipped: dict[str, str], notes: list[str]
) -> dict[ClipName, list[Path]]:
    """Groups files by their RAVDESS names.

    Others are skipped with a reason in an actor's folder, and told by their number elsewhere.
    """
    named: dict[ClipName, list[Path]] = {}
    others = []
    for path in files:
        try:
            named.setdefault(ClipName.parse(path.name), []).append(path)
        except InputError as error:
            if path.parent != root and _ACTOR_FOLDER.fullmatch(path.parent.name):
                skipped[str(path)] = str(error)
            else:
                others.append(path)
    if others and named:
        notes.append(
            counted(
                len(others),
                "media file without a RAVDESS name is ignored:",
                "media files without a RAVDESS name are ignored, such as",
            )
            + f" {others[0]}"
        )
    return named


def _leave_songs(
    named: dict[ClipName, list[Path]], songs: bool, root: Path, notes: list[str]
) -> None:
    """Removes songs unless they are asked for; tells their number.

    Raises:
      InputError: nothing else is there.
    """
    sung = [name for name in named if name.channel != SPEECH]
    if songs or not sung:
        return
    if len(sung) == len(named):
        songs_alone = counted(len(sung), "song")
        raise InputError(f"{root} holds {songs_alone} and no speech; --songs takes songs")
    for name in sung:
        del named[name]
    left_out = counted(len(sung), "song is", "songs are")
    notes.append(f"{left_out} left out; --songs takes songs too")


def _sounds_and_videos(
    named: Mapping[ClipName, list[Path]], root: Path, skipped: dict[str, str], notes: list[str]
) -> tuple[dict[str, Path], dict[ClipName, Path]]:
    """Chooses a sound file of each trial and a video of each name; tells the number of repeats."""
    sounds: dict[str, Path] = {}
    videos: dict[ClipName, Path] = {}
    repeats: list[tuple[Path, Path]] = []
    for name, paths in sorted(named.items(), reverse=True):  # 03-* wins over the sound of 01-*
        is_sound = {path: _is_sound(name, path) for path in paths}
        for part in ([p for p in paths if is_sound[p]], [p for p in paths if not is_sound[p]]):
            if not part:
                continue
            chosen = _choose(part, root, _RAW_SUFFIXES)
            repeats += [(path, chosen) for path in part if path != chosen]
            if not is_sound[chosen]:
                videos[name] = chosen
            elif name.modality == VIDEO_ONLY:
                skipped[str(chosen)] = f"{chosen.name} is sound with the name of a silent video"
            elif name.trial in sounds:
                repeats.append((chosen, sounds[name.trial]))
            else:
                sounds[name.trial] = chosen
    if repeats:
        path, chosen = min(repeats)
        notes.append(
            counted(
                len(repeats),
                "file repeats a clip and is left out:",
                "files repeat a clip and are left out, such as",
            )
            + f" {path}; {chosen} is used"
        )
    return sounds, dict(sorted(videos.items()))


def _cut_or_raw_sounds(root: Path, notes: list[str]) -> dict[str, Path]:
    """Sound files by trial: those cut by the reference's script, else raw ones."""
    files = [p for p in files_below(root, notes) if p.suffix.lower() in SOUND_SUFFIXES]
    raw, cut = (
        _by_name((p for p in files if p.stem.endswith(_PREPARED_SOUND) == is_cut), root, {}, [])
        for is_cut in (False, True)
    )
    chosen = {name: _choose(paths, root, SOUND_SUFFIXES) for name, paths in {**raw, **cut}.items()}
    return {name.trial: path for name, path in sorted(chosen.items())}  # 03-* comes last


def _is_sound(name: ClipName, path: Path) -> bool:
    return name.modality == AUDIO_ONLY or path.suffix.lower() in SOUND_SUFFIXES


def _choose(paths: Iterable[Path], root: Path, suffixes: Sequence[str]) -> Path:
    """The best file of one name: a live one, of an early suffix, with nothing after the name."""

    def rank(path: Path) -> tuple[tuple[bool, bool], int, int, Path]:
        return is_spare(path, root), suffixes.index(path.suffix.lower()), len(path.stem), path

    return min(paths, key=rank)


def _nothing_in(root: Path, media: list[Path]) -> str:
    """The message for a folder without RAVDESS clips."""
    if media:
        return (
            f"no clips found in {root}: none of its {len(media)} media files, such as "
            f"{media[0].name}, has a RAVDESS name; list clips of another corpus in a CSV file and "
            "name it as --manifest"
        )
    return (
        f"no clips found in {root}; expected files such as Actor_05/01-01-03-01-02-01-05.mp4 and "
        "03-01-03-01-02-01-05.wav"
    )


def _raw_clip(name: ClipName, video: Path | None, audio: Path | None) -> RawClip:
    record = ClipRecord(
        clip_id=name.clip_id,
        split=split_name(int(name.actor)),
        label=name.label,
        actor=int(name.actor),
        intensity=int(name.intensity),
        statement=int(name.statement),
        repetition=int(name.repetition),
        group=name.actor,
    )
    return RawClip(record, name.clip_id, video, audio)
