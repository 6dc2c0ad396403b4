"""Turns raw clips into a dataset: ``python -m avjax.prepare --source RAVDESS --out DATA``.

With ``--import_crops`` it takes what the reference's scripts already prepared. A clip is durable
once it is done: the same command again goes on where it stopped.
"""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from tqdm import tqdm

from avjax import cli
from avjax.data import faces, media, sources
from avjax.data.clip import Detector, PreparedClip, check_profile, prepare_clip
from avjax.data.contact_sheet import MAX_CLIPS, write_contact_sheet
from avjax.data.ravdess import EMOTIONS
from avjax.data.ravdess_dataset_builder import ClipRecord, DatasetMetadata, write_dataset
from avjax.errors import InputError
from avjax.versions import versions

SUMMARY_FILE, SHEET_FILE, SETTINGS_FILE = "prepare.json", "contact_sheet.png", "settings.json"
_FACTS = ("has_audio", "has_video", "faceless")  # of a clip, besides its arrays


class Settings(NamedTuple):
    """What decides the content of a prepared clip."""

    profile: str
    num_frames: int
    image_size: int
    pair_video_only: bool


class Summary(NamedTuple):
    """What a preparation did.

    Attributes:
      written: clips in the dataset.
      skipped: clip or file to the reason why it is not in it.
      incomplete: clip in the dataset to what it should have had and lacks, sound or a face.
      faceless_frames: clip to the number of its frames in which no face was found.
      prepared_now: clips that this start prepared; the others were done before.
      seconds: that this start took.
    """

    written: int
    skipped: dict[str, str]
    incomplete: dict[str, str]
    faceless_frames: dict[str, int]
    prepared_now: int
    seconds: float


def prepare(
    source: Path,
    out: Path,
    settings: Settings,
    *,
    import_crops: Path | None = None,
    make_detector: Callable[[], Detector] | None = None,
) -> Summary:
    """Prepares every clip that can be, and writes the dataset.

    Args:
      source: RAVDESS folder; with ``import_crops``, the folder with the sound.
      out: the dataset's directory; ``<out>.partial`` beside it keeps finished clips meanwhile.
      settings: profile and sizes.
      import_crops: folder with face crops that the reference's scripts wrote.
      make_detector: makes the face detector; by default the MTCNN, when first needed.

    Returns:
      What was done, also written into ``out`` as ``prepare.json``, beside ``contact_sheet.png``.

    Raises:
      InputError: no clips, none that could be written, or ``out`` holds something else.
    """
    began = time.monotonic()
    check_profile(settings.profile)
    if import_crops is None:
        found, skipped = sources.find_raw(source, settings.pair_video_only)
    else:
        found, skipped = sources.find_crops(import_crops, source, settings.pair_video_only)
    if out.exists() and not _is_empty_directory(out):
        return _check_complete(out, settings, found)
    stage = _Stage(out.with_name(out.name + ".partial"), settings)
    todo = [clip for clip in found if not stage.has(clip)]
    shows_faces = import_crops is None and any(clip.video is not None for clip in todo)
    detector = (make_detector or faces.default_detector)() if shows_faces else None
    for clip in tqdm(todo, unit="clip", desc="preparing"):
        try:
            prepared = _prepare_source(clip, settings, detector)
        except InputError as error:
            skipped[clip.name.clip_id] = str(error)
        else:
            stage.save(clip, prepared)
    done = [clip for clip in found if stage.has(clip)]
    if not done:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
        raise InputError(f"none of the {len(skipped)} clips could be prepared ({reasons})")
    facts = [(clip, stage.load_facts(clip)) for clip in done]
    faceless = {c.name.clip_id: n for c, known in facts if (n := known["faceless"])}
    presence = [(c, known["has_audio"], known["has_video"]) for c, known in facts]
    lacking = {c.name.clip_id: what for c, *has in presence if (what := c.lacks(*has))}
    prepared_now = sum(stage.has(clip) for clip in todo)
    seconds = round(time.monotonic() - began, 1)
    summary = Summary(len(done), skipped, lacking, faceless, prepared_now, seconds)
    _publish(stage, done, settings, summary, out)
    return summary


def _prepare_source(
    source: sources.Source, settings: Settings, detector: Detector | None
) -> PreparedClip:
    """Prepares a raw clip or imports a prepared one.

    Raises:
      InputError: a file that cannot be read, a clip with neither sound nor a face, and in the
        reference profile a video without a face, which the reference cannot take.
    """
    if detector is None and source.video is not None:
        clip = _import_crops(source, settings, source.video)
    else:
        clip = prepare_clip(
            source.video,
            source.audio,
            profile=settings.profile,
            num_frames=settings.num_frames,
            image_size=settings.image_size,
            detector=detector,
        )
    lacks = source.lacks(clip.has_audio, clip.has_video)
    if not (clip.has_audio or clip.has_video):
        raise InputError(f"{lacks or f'no sound in {source.audio}'}; replace the file")
    if settings.profile == "reference" and source.video is not None and not clip.has_video:
        raise InputError(lacks)
    return clip


def _import_crops(source: sources.Source, settings: Settings, path: Path) -> PreparedClip:
    """Reads face crops (BGR, as the reference profile stores them) and sound."""
    size = settings.image_size
    expected = (settings.num_frames, size, size, 3)
    if path.suffix == ".npy":
        try:
            frames = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read ({error}); replace the file") from error
    else:
        frames = media.read_frames(path, range(len(media.frame_times(path))), "bgr24")
    if frames.shape != expected or frames.dtype != np.uint8:
        raise InputError(
            f"{path} holds {frames.dtype} {list(frames.shape)} instead of uint8 {list(expected)}; "
            "set --num_frames and --image_size to what the crops have"
        )
    if source.audio is None:
        if source.name.modality == "01":
            raise InputError(f"no sound found for {path}; name the folder with it as --source")
        return PreparedClip(frames, media.no_mfcc(), False, True)
    samples = media.read_audio(source.audio)
    if samples is None or media.is_silent(samples):
        return PreparedClip(frames, media.no_mfcc(), False, True)
    return PreparedClip(frames, media.mfcc(media.fit_audio(samples)), True, True)


@contextlib.contextmanager
def _full_disk_explained(directory: Path) -> Iterator[None]:
    """Makes one clear line of a full disk; array_record tells of it in a RuntimeError."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if not full and os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise InputError(
            f"no space left for {directory}; free some, and the same command goes on with the "
            "clips that are done"
        ) from error


class _Stage:
    """Folder of finished clips, each written under a temporary name first."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self.directory = directory
        self._clips = directory / "clips"
        self._clips.mkdir(parents=True, exist_ok=True)
        path = directory / SETTINGS_FILE
        if path.exists():
            _check_settings(Settings(**json.loads(path.read_text())), settings, directory)
        else:
            path.write_text(json.dumps(settings._asdict()))

    def _path(self, source: sources.Source) -> Path:
        return self._clips / f"{source.name.clip_id}.npz"

    def has(self, source: sources.Source) -> bool:
        return self._path(source).exists()

    def save(self, source: sources.Source, clip: PreparedClip) -> None:
        path = self._path(source)
        temporary = path.with_suffix(".tmp")
        try:
            frames = clip.frames if clip.has_video else clip.frames[:0]
            with _full_disk_explained(self.directory), temporary.open("wb") as file:
                np.savez(file, **{**clip._asdict(), "frames": frames})
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def load(self, source: sources.Source) -> PreparedClip:
        """The clip; without a face it has no frames at all."""
        with np.load(self._path(source)) as arrays:
            frames, mfcc = arrays["frames"], arrays["mfcc"]
        return PreparedClip(frames, mfcc, **self.load_facts(source))

    def load_facts(self, source: sources.Source) -> dict[str, Any]:
        """All of a clip but its arrays, which stay unread."""
        with np.load(self._path(source)) as arrays:
            return {name: arrays[name].item() for name in _FACTS}


def _check_settings(former: Settings, settings: Settings, directory: Path) -> None:
    differing = [
        f"{name} is {value!r} there and {getattr(settings, name)!r} here"
        for name, value in former._asdict().items()
        if value != getattr(settings, name)
    ]
    if differing:
        raise InputError(
            f"{directory} was begun with other settings: {'; '.join(differing)}; "
            "use those, or another --out"
        )


def _is_empty_directory(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _check_complete(out: Path, settings: Settings, found: Sequence[sources.Source]) -> Summary:
    """Accepts a dataset that holds just what was asked for; nothing is added twice."""
    try:
        stored = json.loads((out / SUMMARY_FILE).read_text())
        former = Settings(**stored.pop("settings"))
        clips = set(stored.pop("clips"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out} exists and was not written by avjax.prepare; choose another --out"
        ) from error
    _check_settings(former, settings, out)
    summary = Summary(**{"incomplete": {}, **stored})  # earlier versions wrote no such clips
    new = {clip.name.clip_id for clip in found} - clips - set(summary.skipped)
    if new:
        raise InputError(
            f"{out} is complete, without {len(new)} clips of the source ({min(new)}, ...); "
            "choose another --out, or delete it to prepare all of them"
        )
    return summary._replace(prepared_now=0, seconds=0.0)


def _publish(
    stage: _Stage,
    done: Sequence[sources.Source],
    settings: Settings,
    summary: Summary,
    out: Path,
) -> None:
    """Writes the dataset below the stage and moves it to ``out`` in one rename."""
    done = sorted(done, key=lambda clip: (clip.name.actor, clip.name))
    records = [_record(clip, stage.load_facts(clip)) for clip in done]
    shown = [clip for clip, record in zip(done, records, strict=True) if record.has_video]
    # A dataset of sound alone has no frames; in another, black ones stand for those of a clip.
    num_frames = settings.num_frames if shown else 0
    metadata = DatasetMetadata(
        profile=settings.profile,
        classes=EMOTIONS,
        num_frames=num_frames,
        image_size=settings.image_size,
        audio_steps=media.AUDIO_STEPS,
        versions=versions(),
    )
    names = [clip.name.clip_id for clip in done]
    stored = {**summary._asdict(), "settings": settings._asdict(), "clips": names}
    picked = np.linspace(0, len(shown) - 1, min(MAX_CLIPS, len(shown))).astype(int)
    building = stage.directory / "dataset"
    try:
        with _full_disk_explained(stage.directory):
            clips = (_with_frames(stage.load(clip), num_frames) for clip in done)
            built = write_dataset(building, metadata, records, clips)
            (built / SUMMARY_FILE).write_text(json.dumps(stored, indent=2) + "\n")
            rows = ((shown[i].name.clip_id, stage.load(shown[i]).frames) for i in picked)
            if shown:
                write_contact_sheet(built / SHEET_FILE, rows, settings.profile)
            built.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    shutil.rmtree(stage.directory)


def _with_frames(clip: PreparedClip, num_frames: int) -> PreparedClip:
    """Gives a clip without a face its black frames."""
    missing = num_frames - len(clip.frames)
    black = np.zeros((missing, *clip.frames.shape[1:]), np.uint8)
    return clip._replace(frames=np.concatenate([clip.frames, black])) if missing else clip


def _record(source: sources.Source, facts: dict[str, Any]) -> ClipRecord:
    name = source.name
    return ClipRecord(
        clip_id=name.clip_id,
        split=f"actor_{name.actor}",
        label=name.label,
        actor=int(name.actor),
        intensity=int(name.intensity),
        statement=int(name.statement),
        repetition=int(name.repetition),
        group=name.actor,
        has_audio=facts["has_audio"],
        has_video=facts["has_video"],
    )


def _report(summary: Summary, out: Path) -> None:
    for name, reason in summary.skipped.items():
        print(f"skipped {name}: {reason}")
    for name, lack in summary.incomplete.items():
        print(f"written incomplete {name}: {lack}")
    rate = summary.prepared_now / summary.seconds if summary.seconds else 0.0
    speed = f", {rate:.2f} clips per second" if summary.prepared_now else ""
    print(
        f"{out}: {summary.written} clips ({summary.prepared_now} prepared now in "
        f"{summary.seconds:.1f} s{speed}), {len(summary.skipped)} skipped, "
        f"{len(summary.incomplete)} incomplete, "
        f"{sum(summary.faceless_frames.values())} frames without a face"
    )
    if (out / SHEET_FILE).exists():
        print(f"contact sheet: {out / SHEET_FILE}")


def _define_flags(values: flags.FlagValues) -> None:
    def text(name: str, default: str | None, help_: str) -> None:
        flags.DEFINE_string(name, default, help_, flag_values=values)

    def number(name: str, default: int, help_: str) -> None:
        flags.DEFINE_integer(name, default, help_, lower_bound=1, flag_values=values)

    def switch(name: str, help_: str) -> None:
        flags.DEFINE_bool(name, False, help_, flag_values=values)

    text("source", None, "RAVDESS folder; with --import_crops, the folder with the sound.")
    text("out", None, "Directory of the dataset.")
    text("profile", None, "fixed (default), or reference: what published checkpoints expect.")
    text("import_crops", None, "Take face crops that the reference's scripts wrote.")
    number("num_frames", 15, "Frames of a clip.")
    number("image_size", 224, "Side of a face crop in pixels.")
    switch("pair_video_only", "Give 02-* recordings the sound of their trial, as the reference.")
    switch("strict", "Exit with status 1 when any clip was skipped.")


def _job(values: flags.FlagValues, positional: list[str]) -> int:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    for name in ("source", "out"):
        if not getattr(values, name):
            raise InputError(f"--{name} is missing; see --help")
    imported = values.import_crops is not None
    profile = values.profile or ("reference" if imported else "fixed")
    if imported and profile != "reference":
        raise InputError("imported crops are of the reference profile; leave --profile out")
    settings = Settings(profile, values.num_frames, values.image_size, values.pair_video_only)
    crops = Path(values.import_crops) if imported else None
    out = Path(values.out)
    summary = prepare(Path(values.source), out, settings, import_crops=crops)
    _report(summary, out)
    return int(values.strict and bool(summary.skipped))


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(argv, _define_flags, _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
