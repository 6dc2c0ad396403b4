"""Finds RAVDESS clips on disk, raw or as prepared by the reference's scripts."""

import re
from collections.abc import Iterable
from pathlib import Path

from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, VIDEO_ONLY, ClipName, split_name
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.media import SOUND_SUFFIXES
from avjax.preparation.raw_clip import RawClip

VIDEO_SUFFIXES = (".mp4",)
CROPS_SUFFIXES = ("_facecroppad.npy", "_facecroppad.avi")  # npy first: it is lossless
_PREPARED_SOUND = "_croppad"
_ACTOR_FOLDER = re.compile(r"actor_?\d\d", re.IGNORECASE)


def find_raw(root: Path, pair_video_only: bool) -> tuple[list[RawClip], dict[str, str]]:
    """Finds raw clips in ``ACTORNN/`` or ``Actor_NN/`` folders at any depth.

    A clip's sound is the wav or flac file of its trial in any folder, otherwise the video's sound
    track. A sound file without a video is a clip by itself.

    Args:
      root: the RAVDESS folder.
      pair_video_only: whether 02-* clips get the sound of their trial, as in the reference.

    Returns:
      The clips sorted by name, and the reasons for skipping files, by path.

    Raises:
      InputError: ``root`` does not exist or contains no clips.
    """
    files = [path for path in _files(root) if _ACTOR_FOLDER.fullmatch(path.parent.name)]
    skipped: dict[str, str] = {}
    sounds = _sounds(files, skipped)
    videos: dict[ClipName, Path] = {}
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            name = _name(path, skipped)
            if name is not None and _is_new(name, path, videos, skipped):
                videos[name] = path
    if not videos and not sounds and not skipped:
        raise InputError(
            f"no clips found in {root}; expected folders such as Actor_05/ with .mp4, .wav or "
            ".flac files"
        )
    clips = []
    for name, path in sorted(videos.items()):
        sound_track = path if name.modality == AUDIO_VIDEO else None
        audio = sounds.get(name.trial, sound_track)
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        clips.append(_raw_clip(name, path, None if silent else audio))
    paired = {clip.audio for clip in clips}
    unpaired = [path for path in sounds.values() if path not in paired]
    clips += [_raw_clip(ClipName.parse(path.name), None, path) for path in unpaired]
    return sorted(clips, key=lambda clip: clip.key), skipped


def find_crops(
    crops: Path, root: Path, pair_video_only: bool
) -> tuple[list[RawClip], dict[str, str]]:
    """Finds face crops written by the reference's scripts, with sound from ``root``.

    Args:
      crops: folder with ``*_facecroppad.npy`` or ``.avi`` files at any depth.
      root: folder with ``*_croppad.wav``, or raw wav or flac, files at any depth.
      pair_video_only: as in `find_raw`.

    Returns:
      As `find_raw`.

    Raises:
      InputError: a folder does not exist, or ``crops`` contains no crops.
    """
    skipped: dict[str, str] = {}
    videos: dict[ClipName, Path] = {}
    for suffix in CROPS_SUFFIXES:
        for path in _files(crops):
            if path.name.endswith(suffix):
                name = _name(path, skipped)
                if name is not None:
                    videos.setdefault(name, path)
    if not videos:
        raise InputError(f"no face crops (*{', *'.join(CROPS_SUFFIXES)}) found in {crops}")
    files = _files(root)
    sounds = {**_sounds(files, {}), **_sounds(files, {}, prepared=True)}
    clips = []
    for name, path in sorted(videos.items()):
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        audio = None if silent else sounds.get(name.trial)
        if audio is None and name.modality == AUDIO_VIDEO:
            reason = f"no sound found for {path}; name the folder with it as --source"
            skipped[name.clip_id] = reason
        else:
            clips.append(_raw_clip(name, path, audio))
    return clips, skipped


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


def _files(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(f"there is no folder {root}; name the folder that holds the clips")
    return sorted(path for path in root.rglob("*") if path.is_file())


def _sounds(
    files: Iterable[Path], skipped: dict[str, str], prepared: bool = False
) -> dict[str, Path]:
    """Returns sound files by trial: raw ones, or those cut by the reference's script."""
    sounds: dict[str, Path] = {}
    for path in files:
        is_prepared = path.stem.endswith(_PREPARED_SOUND)
        if path.suffix.lower() not in SOUND_SUFFIXES or is_prepared != prepared:
            continue
        name = _name(path, skipped)
        if name is not None and name.modality == AUDIO_ONLY:
            sounds.setdefault(name.trial, path)
    return sounds


def _name(path: Path, skipped: dict[str, str]) -> ClipName | None:
    try:
        return ClipName.parse(path.name)
    except InputError as error:
        skipped[str(path)] = str(error)
        return None


def _is_new(
    name: ClipName, path: Path, videos: dict[ClipName, Path], skipped: dict[str, str]
) -> bool:
    """Whether no video has that name yet; otherwise notes the duplicate in ``skipped``."""
    if name in videos:
        skipped[str(path)] = f"{name.clip_id} was already found as {videos[name]}; remove one"
    return name not in videos
