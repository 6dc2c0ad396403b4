"""Prepares raw clips into a dataset.

Each finished clip is durable: the same call resumes.
"""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("prepare"))

import functools
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from avjax.data.records import PreparedClip
from avjax.errors import InputError
from avjax.preparation import face_detector, media, notes, ravdess_files, shards
from avjax.preparation.clip import (
    NoMemoryError,
    explained,
    prepare_clip,
    sound_features,
)
from avjax.preparation.clip_store import (
    ClipStore,
    load_facts,
    open_clip_store,
)
from avjax.preparation.faces import Detector
from avjax.preparation.inventory import Inventory
from avjax.preparation.manifest import read_manifest
from avjax.preparation.publish import SUMMARY_FILE, Summary, fingerprint, publish
from avjax.preparation.raw_clip import RawClip
from avjax.preparation.settings import PreparationSettings
from avjax.preparation.shards import Shard
from avjax.preparation.sound import read_sound
from avjax.preparation.stopwatch import Stopwatch
from avjax.runtime import compilation
from avjax.runtime.files import is_occupied
from avjax.runtime.progress import progress_bar
from avjax.runtime.sealed import read_json
from avjax.runtime.typed import check_fields
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
    """Prepares all clips, skipping unusable ones, and writes the dataset.

    Prints what the source holds before work begins.

    Args:
      source: RAVDESS folder; with ``import_crops``, the folder with the sound; None with a
        ``manifest``.
      out: the dataset's directory; finished clips are kept in ``<out>.partial`` until then.
      settings: profile and sizes.
      import_crops: folder with face crops written by the reference's scripts.
      manifest: CSV file of your own clips, see `avjax.preparation.manifest.read_manifest`.
      classes: with a manifest, the class names in order.
      make_detector: makes the face detector, by default the MTCNN, on first use. The detector is
        called by several threads.
      shard: prepare only this share of the clips, into ``<out>.shard-*``, without a dataset; see
        `avjax.preparation.shards.merge`.
      workers: clips processed at once; by default the number of cores.
      debug: print the traceback of every clip that fails.

    Returns:
      The summary, also written to ``out`` as ``prepare.json``, beside ``contact_sheet.png``.

    Raises:
      InputError: no clips, a frame size that no network takes, no clip could be prepared, ``out``
        holds something else or cannot be written, another process is preparing it, or memory ran
        out.
      Exception: the face detector's, if it fails on every image.
    """
    settings.check()
    clips, skipped, source_notes, classes = _find(source, import_crops, manifest, classes, settings)
    settings = settings._replace(classes=tuple(classes))
    inventory = Inventory.of(clips, classes, source_notes)
    print(inventory, flush=True)
    counts = inventory._asdict()
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
            summary = shards.finished(store, clips)
            if summary is None:
                summary = prepare_share(store, shard.share(clips))._replace(inventory=counts)
                shards.finish(store, shard, settings, versions(), clips, summary)
        return summary
    partial = out.with_name(out.name + ".partial")
    if is_occupied(out) and not partial.exists():
        return _check_complete(out, settings, clips)
    with open_clip_store(partial, settings) as store:
        if is_occupied(out):  # another process has just finished, or was killed just then
            summary = _check_complete(out, settings, clips)
            store.remove()
            return summary
        summary = prepare_share(store, clips)._replace(inventory=counts)
        if not summary.written:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(skipped.items())[:3])
            tried = notes.counted(len(skipped), "clip")
            raise InputError(f"no clip could be prepared, of {tried} ({reasons})")
        done = {clip.record: store.path(clip.key) for clip in clips if store.has(clip.key)}
        publish(store, done, settings, versions(), summary, out)
    return summary


def _find(
    source: Path | None,
    import_crops: Path | None,
    manifest: Path | None,
    classes: Sequence[str] | None,
    settings: PreparationSettings,
) -> tuple[list[RawClip], dict[str, str], list[str], Sequence[str]]:
    """Returns the clips, reasons for skipping others, notes, and the classes."""
    if manifest is not None:
        listed = read_manifest(manifest, classes)
        if settings.profile == "reference" and any(clip.face for clip in listed.clips):
            raise InputError(
                f"{manifest} names faces, but the reference profile takes the largest one of every "
                "frame; remove the column face, or choose the fixed profile"
            )
        return listed.clips, listed.skipped, listed.notes, listed.classes
    if source is None:
        raise InputError("neither a folder of clips nor a manifest is named")
    choice = settings.pair_video_only, settings.songs
    if import_crops is None:
        return *ravdess_files.find_raw(source, *choice), settings.classes
    return *ravdess_files.find_crops(import_crops, source, *choice), settings.classes


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
    """Prepares the clips that the store lacks, in parallel, and summarises all clips.

    Decoding of some clips overlaps with face detection in others. Memory depends only on the number
    of workers.

    Args:
      store: where the clips are saved.
      clips: all clips that it should hold.
      skipped: reasons by name; those of these clips are added in place.
      settings: profile and sizes.
      make_detector: as for `prepare`; None imports crops.
      workers: clips processed at once.
      debug: print the traceback of every clip that fails.
    """
    start = time.monotonic()
    watch = Stopwatch()
    todo = [clip for clip in clips if not store.has(clip.key)]
    has_videos = any(clip.video is not None for clip in todo)
    detector = make_detector() if has_videos and make_detector is not None else None
    threads = 1 if min(workers, len(todo)) > 1 else 0

    def finish(clip: RawClip) -> str | None:
        try:
            prepared = _prepare_source(clip, settings, detector, watch, threads)
        except NoMemoryError:  # in a dataset without it nobody could tell why
            raise
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
            done = as_completed(futures)
            bar = progress_bar(done, total=len(futures), unit="clip", desc="preparing")
            for future in bar:
                reasons[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # finishes running clips only
            raise
    skipped.update((name, reason) for name, reason in sorted(reasons.items()) if reason)
    facts = [(c, load_facts(store.path(c.key))) for c in clips if store.has(c.key)]
    incomplete = [
        (c.record.clip_id, _lacks(c, f["has_audio"], f["has_video"], f["notes"])) for c, f in facts
    ]
    return Summary(
        written=len(facts),
        skipped=skipped,
        incomplete={name: reason for name, reason in incomplete if reason},
        faceless_frames={c.record.clip_id: n for c, f in facts if (n := f["faceless"])},
        prepared_now=sum(reason is None for reason in reasons.values()),
        seconds=round(time.monotonic() - start, 1),
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
      InputError: an unreadable file, a clip with neither sound nor a face, or, in the reference
        profile, a video without a face, which the reference does not support.
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
            face=source.face,
        )
    reason = _lacks(source, clip.has_audio, clip.has_video, clip.notes)
    if not (clip.has_audio or clip.has_video):
        raise InputError(f"{reason or f'no sound in {source.audio}'}; replace the file")
    has_frames = source.video is not None and notes.NO_VIDEO not in clip.notes
    if settings.profile == "reference" and has_frames and not clip.has_video:
        raise InputError(reason)
    return clip


def _import_crops(source: RawClip, settings: PreparationSettings, path: Path) -> PreparedClip:
    """Reads face crops (BGR, as in the reference profile) and sound."""
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
            "set --num_frames and --image_size to those of the crops"
        )
    sound = None if source.audio is None else read_sound(source.audio)
    features = sound_features(None if sound is None else sound.samples, log_mels=settings.log_mels)
    clip_notes = () if sound is None else sound.notes
    return PreparedClip(
        frames, features.mfcc, features.has_audio, True, 0, features.log_mel, clip_notes
    )


def _check_complete(out: Path, settings: PreparationSettings, clips: Sequence[RawClip]) -> Summary:
    """Checks that an existing dataset has these settings and clips; returns its summary."""
    if not (out / SUMMARY_FILE).is_file():
        raise InputError(f"{out} exists and was not written by avjax.prepare; choose another --out")
    stored = read_json(out / SUMMARY_FILE, "choose another --out")
    try:
        former = PreparationSettings.from_json(stored.pop("settings"))
        stored_clips = stored.pop("clips")
        summary = Summary.from_json(stored)
        check_fields(summary)
        set(stored_clips)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{out} exists and was not written by avjax.prepare; choose another --out"
        ) from error
    settings.check_same(former, out)
    new = {clip.record.clip_id for clip in clips} - set(stored_clips) - set(summary.skipped)
    if new:
        raise InputError(
            f"{out} is complete, without {notes.counted(len(new), 'clip')} of the source "
            f"({min(new)}{', ...' if new - {min(new)} else ''}); "
            "choose another --out, or delete it to prepare all clips"
        )
    if isinstance(stored_clips, dict):  # earlier versions stored no fingerprints
        for clip in clips:
            name = clip.record.clip_id
            if stored_clips.get(name) not in (None, fingerprint(clip.record, clip.key)):
                raise InputError(
                    f"{out} is complete, but clip {name} was listed differently; choose another "
                    "--out, or delete it to prepare the clips again"
                )
    return summary._replace(prepared_now=0, seconds=0.0, phases={})


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.prepare`."""
    return commands.run("prepare", argv)
