"""Preparation: raw clips become a dataset.

A clip is durable once it is done: the same call again goes on where it stopped.
"""

import sys

from avjax import commands

if __name__ == "__main__":  # before the imports below, which take seconds
    sys.exit(commands.run("prepare"))

import functools
import json
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from tqdm import tqdm

from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.preparation import face_detector, media, notes, ravdess_files, shards
from avjax.preparation.clip import Detector, explained, prepare_clip, sound_features
from avjax.preparation.clip_store import (
    ClipStore,
    PreparationSettings,
    load_facts,
    open_clip_store,
)
from avjax.preparation.manifest import read_manifest
from avjax.preparation.publish import SUMMARY_FILE, Summary, fingerprint, publish
from avjax.preparation.raw_clip import RawClip
from avjax.preparation.shards import Shard
from avjax.preparation.sound import read_sound
from avjax.preparation.stopwatch import Stopwatch
from avjax.runtime import compilation
from avjax.runtime.versions import versions


def prepare(
    source: Path | None,
    out: Path,
    settings: PreparationSettings,
    *,
    import_crops: Path | None = None,
    manifest: Path | None = None,
    classes: Sequence[str] | None = None,
    make_detector: Callable[[], Detector] | None = None,
    shard: Shard | None = None,
    workers: int | None = None,
    debug: bool = False,
) -> Summary:
    """Prepares every clip that can be, and writes the dataset.

    Args:
      source: RAVDESS folder; with ``import_crops``, the folder with the sound; None with a
        ``manifest``.
      out: the dataset's directory; ``<out>.partial`` beside it keeps finished clips meanwhile.
      settings: profile and sizes.
      import_crops: folder with face crops that the reference's scripts wrote.
      manifest: CSV file that lists own clips, see `avjax.preparation.manifest.read_manifest`.
      classes: with a manifest, names of the classes in their order.
      make_detector: makes the face detector; by default the MTCNN, when first needed. Several
        threads call it at once.
      shard: prepare this share of the clips only, into ``<out>.shard-*``, and write no dataset:
        `avjax.preparation.shards.merge` does.
      workers: clips in hand at once; by default as many as there are cores.
      debug: print the traceback of every clip that fails.

    Returns:
      What was done, also written into ``out`` as ``prepare.json``, beside ``contact_sheet.png``.

    Raises:
      InputError: no clips, none that could be written, ``out`` holds something else or cannot be
        written, or another process prepares into it.
    """
    settings.check()
    if manifest is not None:
        found, skipped, used = read_manifest(manifest, classes)
        settings = settings._replace(classes=used)
    elif source is None:
        raise InputError("neither a folder of clips nor a manifest is named")
    elif import_crops is None:
        found, skipped = ravdess_files.find_raw(source, settings.pair_video_only)
    else:
        found, skipped = ravdess_files.find_crops(import_crops, source, settings.pair_video_only)
    if import_crops is None:
        make_detector = make_detector or face_detector.default_detector
    prepare_share = functools.partial(
        prepare_clips,
        skipped=skipped,
        settings=settings,
        make_detector=make_detector if import_crops is None else None,
        workers=workers or compilation.available_cores(),
        debug=debug,
    )
    if shard is not None:
        with open_clip_store(shard.directory(out), settings) as store:
            summary = shards.finished(store, found)
            if summary is None:
                summary = prepare_share(store, shard.share(found))
                shards.finish(store, shard, settings, versions(), found, summary)
        return summary
    if _is_occupied(out):
        return _check_complete(out, settings, found)
    with open_clip_store(out.with_name(out.name + ".partial"), settings) as store:
        if _is_occupied(out):  # by a run that ended just now
            store.remove()
            return _check_complete(out, settings, found)
        summary = prepare_share(store, found)
        if not summary.written:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            raise InputError(f"none of the {len(skipped)} clips could be prepared ({reasons})")
        done = {clip.record: store.path(clip.key) for clip in found if store.has(clip.key)}
        publish(store, done, settings, versions(), summary, out)
    return summary


def prepare_clips(
    store: ClipStore,
    clips: Sequence[RawClip],
    *,
    skipped: dict[str, str],
    settings: PreparationSettings,
    make_detector: Callable[[], Detector] | None,
    workers: int,
    debug: bool = False,
) -> Summary:
    """Finishes those clips that the store has not, several at once, and tells of all.

    Decoding and sound of some thus go on while the networks look at others, and what is held in
    memory depends on the number of workers alone.

    Args:
      store: receives the clips.
      clips: all that shall be in it.
      skipped: reasons by name, to which those of these clips are added.
      settings: profile and sizes.
      make_detector: as for `prepare`; None imports crops.
      workers: clips in hand at once.
      debug: print the traceback of every clip that fails.
    """
    began = time.monotonic()
    watch = Stopwatch()
    todo = [clip for clip in clips if not store.has(clip.key)]
    shows_faces = make_detector is not None and any(clip.video is not None for clip in todo)
    detector = make_detector() if shows_faces and make_detector is not None else None
    threads = 1 if min(workers, len(todo)) > 1 else 0

    def finish(clip: RawClip) -> str | None:
        try:
            prepared = _prepare_source(clip, settings, detector, watch, threads)
        except InputError as error:
            if debug:
                traceback.print_exc()
            return str(error)
        with watch.phase("write"):
            store.save(clip.key, prepared)
        return None

    reasons = {}
    with ThreadPoolExecutor(workers, "prepare") as pool:
        futures = {pool.submit(finish, clip): clip.record.clip_id for clip in todo}
        try:
            bar = tqdm(as_completed(futures), total=len(futures), unit="clip", desc="preparing")
            for future in bar:
                reasons[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # clips in hand are finished, others not begun
            raise
    skipped.update((name, reason) for name, reason in sorted(reasons.items()) if reason)
    facts = [(c, load_facts(store.path(c.key))) for c in clips if store.has(c.key)]
    lacking = [
        (c.record.clip_id, _lacks(c, f["has_audio"], f["has_video"], f["notes"])) for c, f in facts
    ]
    return Summary(
        written=len(facts),
        skipped=skipped,
        incomplete={name: what for name, what in lacking if what},
        faceless_frames={c.record.clip_id: n for c, f in facts if (n := f["faceless"])},
        prepared_now=sum(reason is None for reason in reasons.values()),
        seconds=round(time.monotonic() - began, 1),
        phases=watch.seconds(),
        notes={c.record.clip_id: f["notes"] for c, f in facts if f["notes"]},
    )


def _lacks(clip: RawClip, has_audio: bool, has_video: bool, told: Sequence[str]) -> str:
    """Describes missing streams; a file listed as video that is sound alone lacks none."""
    if notes.NO_VIDEO in told:
        clip = clip._replace(video=None)
    return clip.lacks(has_audio, has_video)


def _prepare_source(
    source: RawClip,
    settings: PreparationSettings,
    detector: Detector | None,
    watch: Stopwatch,
    threads: int,
) -> PreparedClip:
    """Prepares a raw clip or imports a prepared one.

    Raises:
      InputError: a file that cannot be read, a clip with neither sound nor a face, and in the
        reference profile a video without a face, which the reference cannot take.
    """
    if detector is None and source.video is not None:
        with watch.phase("decode"), explained(source.video):
            clip = _import_crops(source, settings, source.video)
    else:
        clip = prepare_clip(
            source.video,
            source.audio,
            profile=settings.profile,
            num_frames=settings.num_frames,
            image_size=settings.image_size,
            detector=detector,
            watch=watch,
            threads=threads,
            seconds=settings.seconds,
            start=source.start,
            end=source.end,
            log_mels=settings.log_mels,
        )
    lacks = _lacks(source, clip.has_audio, clip.has_video, clip.notes)
    if not (clip.has_audio or clip.has_video):
        raise InputError(f"{lacks or f'no sound in {source.audio}'}; replace the file")
    shows = source.video is not None and notes.NO_VIDEO not in clip.notes
    if settings.profile == "reference" and shows and not clip.has_video:
        raise InputError(lacks)
    return clip


def _import_crops(source: RawClip, settings: PreparationSettings, path: Path) -> PreparedClip:
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
    sound = None if source.audio is None else read_sound(source.audio)
    heard = sound_features(None if sound is None else sound.samples, log_mels=settings.log_mels)
    told = () if sound is None else sound.notes
    return PreparedClip(frames, heard.mfcc, heard.has_audio, True, 0, heard.log_mel, told)


def _is_occupied(path: Path) -> bool:
    """Whether a dataset, or anything else, is there: more than an empty folder."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def _check_complete(out: Path, settings: PreparationSettings, found: Sequence[RawClip]) -> Summary:
    """Accepts a dataset that holds just what was asked for; nothing is added twice."""
    try:
        stored = json.loads((out / SUMMARY_FILE).read_text())
        former = PreparationSettings.from_json(stored.pop("settings"))
        clips = stored.pop("clips")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{out} exists and was not written by avjax.prepare; choose another --out"
        ) from error
    settings.check_same(former, out)
    summary = Summary.from_json(stored)
    new = {clip.record.clip_id for clip in found} - set(clips) - set(summary.skipped)
    if new:
        raise InputError(
            f"{out} is complete, without {len(new)} clips of the source ({min(new)}, ...); "
            "choose another --out, or delete it to prepare all of them"
        )
    if isinstance(clips, dict):  # earlier versions stored no fingerprints
        for clip in found:
            name = clip.record.clip_id
            if clips.get(name) not in (None, fingerprint(clip.record, clip.key)):
                raise InputError(
                    f"{out} is complete, and clip {name} was listed otherwise then; choose another "
                    "--out, or delete it to prepare the clips again"
                )
    return summary._replace(prepared_now=0, seconds=0.0, phases={})


def main(argv: list[str] | None = None) -> int:
    """The command line, see `avjax.commands.prepare`."""
    return commands.run("prepare", argv)
