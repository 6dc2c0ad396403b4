"""Finding clips on disk: RAVDESS folders, and what the reference's scripts prepared from them."""

import re
from collections.abc import Iterable
from pathlib import Path

from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, VIDEO_ONLY, ClipName, split_name
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.media import SOUND_SUFFIXES
from avjax.preparation.raw_clip import RawClip

VIDEO_SUFFIXES = (".mp4",)
CROPS_SUFFIXES = ("_facecroppad.npy", "_facecroppad.avi")  # the first is lossless
_PREPARED_SOUND = "_croppad"
_ACTOR_FOLDER = re.compile(r"actor_?\d\d", re.IGNORECASE)


def find_raw(root: Path, pair_video_only: bool) -> tuple[list[RawClip], dict[str, str]]:
    """Raw clips below ``ACTORNN/`` or ``Actor_NN/`` folders, however deep these lie.

    A clip's sound is the wav or flac of its trial, in the same or another folder, else its own
    sound track. A sound file that belongs to no video is a clip of its own.

    Args:
      root: the RAVDESS folder.
      pair_video_only: give 02-* recordings the sound of their trial, as the reference does.

    Returns:
      Clips by name, and the reasons why other files are left out, by path.

    Raises:
      InputError: no such folder, or neither videos nor sound in it.
    """
    files = [path for path in _files(root) if _ACTOR_FOLDER.fullmatch(path.parent.name)]
    skipped: dict[str, str] = {}
    sounds = _sounds(files, skipped)
    videos: dict[ClipName, Path] = {}
    for path in files:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            name = _name(path, skipped)
            if name is not None and _first_of_its_name(name, path, videos, skipped):
                videos[name] = path
    if not videos and not sounds and not skipped:
        raise InputError(
            f"no clips found in {root}; expected folders such as Actor_05/ with .mp4, .wav or "
            ".flac files"
        )
    found = []
    for name, path in sorted(videos.items()):
        own_track = path if name.modality == AUDIO_VIDEO else None
        audio = sounds.get(name.trial, own_track)
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        found.append(_raw_clip(name, path, None if silent else audio))
    heard = {clip.audio for clip in found}
    alone = [path for path in sounds.values() if path not in heard]
    found += [_raw_clip(ClipName.parse(path.name), None, path) for path in alone]
    return sorted(found, key=lambda clip: clip.key), skipped


def find_crops(
    crops: Path, root: Path, pair_video_only: bool
) -> tuple[list[RawClip], dict[str, str]]:
    """Face crops that the reference's scripts wrote, with sound from ``root``.

    Args:
      crops: folder below which ``*_facecroppad.npy`` or ``.avi`` lie.
      root: folder below which ``*_croppad.wav``, or the raw wavs or flacs, lie.
      pair_video_only: as in `find_raw`.

    Raises:
      InputError: no such folders, or no crops.
    """
    skipped: dict[str, str] = {}
    prepared: dict[ClipName, Path] = {}
    for suffix in CROPS_SUFFIXES:
        for path in _files(crops):
            if path.name.endswith(suffix):
                name = _name(path, skipped)
                if name is not None:
                    prepared.setdefault(name, path)
    if not prepared:
        raise InputError(f"no face crops (*{', *'.join(CROPS_SUFFIXES)}) found in {crops}")
    files = _files(root)
    sounds = {**_sounds(files, {}), **_sounds(files, {}, prepared=True)}
    found = []
    for name, path in sorted(prepared.items()):
        silent = name.modality == VIDEO_ONLY and not pair_video_only
        audio = None if silent else sounds.get(name.trial)
        if audio is None and name.modality == AUDIO_VIDEO:
            reason = f"no sound found for {path}; name the folder with it as --source"
            skipped[name.clip_id] = reason
        else:
            found.append(_raw_clip(name, path, audio))
    return found, skipped


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
    """Sound files by trial: those cut by the reference's script, or the raw ones."""
    found: dict[str, Path] = {}
    for path in files:
        cut = path.stem.endswith(_PREPARED_SOUND)
        if path.suffix.lower() not in SOUND_SUFFIXES or cut != prepared:
            continue
        name = _name(path, skipped)
        if name is not None and name.modality == AUDIO_ONLY:
            found.setdefault(name.trial, path)
    return found


def _name(path: Path, skipped: dict[str, str]) -> ClipName | None:
    try:
        return ClipName.parse(path.name)
    except InputError as error:
        skipped[str(path)] = str(error)
        return None


def _first_of_its_name(
    name: ClipName, path: Path, videos: dict[ClipName, Path], skipped: dict[str, str]
) -> bool:
    if name in videos:
        skipped[str(path)] = f"{name.clip_id} was already found as {videos[name]}; remove one"
    return name not in videos
