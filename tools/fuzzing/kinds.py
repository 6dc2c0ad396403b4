"""Kinds of files that commands read: small valid ones, and how they are read."""

import functools
import hashlib
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import av
import jax
import numpy as np
import soundfile

from avjax.config import RunConfig
from avjax.crossval import cross_validate, table
from avjax.data.digests import DIGESTS_FILE, write_digests
from avjax.data.pipeline import open_dataset
from avjax.data.ravdess import AUDIO_ONLY, AUDIO_VIDEO, speech_clips
from avjax.data.ravdess_dataset_builder import write_dataset
from avjax.data.records import ClipRecord, DatasetMetadata, PreparedClip
from avjax.download import ZIPS, download
from avjax.errors import InputError
from avjax.evaluate import check_compatible
from avjax.models.networks import build_network
from avjax.models.variables import init_variables
from avjax.predict import Model
from avjax.preparation.clip import prepare_clip
from avjax.preparation.clip_store import load_clip
from avjax.preparation.container import has_video
from avjax.preparation.manifest import read_manifest
from avjax.preparation.settings import PreparationSettings
from avjax.preparation.shards import Shard
from avjax.preparation.transfer import Patience, RemoteFile
from avjax.preparation.zenodo import Record
from avjax.prepare import prepare
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.evaluation_file import EVALUATION_FILE
from avjax.runs.metrics_log import METRICS_FILE
from avjax.runs.pretrained import initial_variables
from avjax.runs.report import write_report
from avjax.runs.run_config import CONFIG_FILE, write_config
from avjax.runs.run_folder import RunFolder
from avjax.runs.saved_model import ModelCard, load_model, save_model
from avjax.runtime.files import append_json_line, write_json
from avjax.training.loop import Progress
from avjax.training.step import Sums, TrainState
from avjax.weights.conversion import convert
from avjax.weights.torch_file import read_torch_file

_RATE = 16000
_SETTINGS = PreparationSettings("fixed", 2, 64, False, 1.0)
_METADATA = DatasetMetadata("fixed", ("low", "high"), 0, 64, 44, {}, 1.0)
_CARD = ModelCard(
    {"kind": "audio", "num_classes": 2}, ["low", "high"], "fixed", 0, 64, 44, 1.0, 1,
    {"accuracy": 0.5, "loss": 1.0}, {"jax": "0"},
)  # fmt: skip


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
      make: writes valid files below a folder.
      files: patterns of those that are changed.
      read: reads a changed file as a command does; the number of the change decides between ways.
    """

    make: Callable[[Path], None]
    files: tuple[str, ...]
    read: Callable[[Path, int], None]


def renew_digests(path: Path) -> None:
    """Makes a changed file of a dataset pass for an undamaged one."""
    if (path.parent / DIGESTS_FILE).exists() and path.name != DIGESTS_FILE:
        write_digests(path.parent)


# ----------------------------------------------------------------------------------------- media


_CONTAINERS = (  # file, codecs of video and sound
    ("a.mp4", "libx264", "aac"),
    ("b.mkv", "libx264", "libopus"),
    ("c.webm", "libvpx-vp9", "libopus"),
    ("d.avi", "mpeg4", "libmp3lame"),
    ("e.mov", "mjpeg", "pcm_s16le"),
    ("f.ts", "mpeg2video", "mp2"),
    ("g.flv", "flv", "libmp3lame"),
)


def _sound(seconds: float, rate: int = _RATE) -> np.ndarray:
    return np.float32(0.3 * np.sin(np.arange(int(seconds * rate)) / 9))


def _make_media(folder: Path) -> None:
    for name, video, audio in _CONTAINERS:
        with av.open(str(folder / name), "w") as container:
            track: Any = container.add_stream(video, rate=25, options={"threads": "1"})
            track.width, track.height = 64, 48
            track.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            rate = 44100 if audio == "libmp3lame" else 48000
            sound: Any = container.add_stream(audio, rate=rate, layout="mono")
            for number in range(20):
                image = np.full((48, 64, 3), 8 * number, np.uint8)
                picture = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(track.encode(picture.reformat(format=track.pix_fmt)))
            container.mux(track.encode(None))
            samples = np.int16(9000 * _sound(0.8, rate))[None]
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate, block.time_base, block.pts = rate, Fraction(1, rate), 0
            for part in av.AudioResampler(sound.format.name, "mono", rate, 1024).resample(block):
                container.mux(sound.encode(part))
            container.mux(sound.encode(None))


class _WholeFrame:
    """Finds the whole frame as a face."""

    def faces(self, frames: np.ndarray, thorough: bool = False) -> list[np.ndarray]:
        height, width = frames.shape[1:3]
        return [np.array([[0.0, 0.0, width, height]]) for _ in frames]


def _read_media(path: Path, time: int) -> None:
    has_video(path)
    part = {"start": 0.2, "end": 0.5} if time % 3 == 1 else {}
    profile = "reference" if time % 3 == 2 else "fixed"
    sizes: Any = {"profile": profile, "num_frames": 3, "image_size": 64, "threads": 1}
    prepare_clip(path, path, **sizes, detector=_WholeFrame(), seconds=0.5, **part)


def _make_sound(folder: Path) -> None:
    stereo = np.stack([_sound(0.3), _sound(0.3)], 1)
    for name, subtype in (("a", "PCM_16"), ("b", "PCM_24"), ("c", "FLOAT"), ("d", "IMA_ADPCM")):
        soundfile.write(folder / f"{name}.wav", stereo, _RATE, subtype)
    for suffix in ("flac", "ogg", "mp3", "aiff", "au", "w64"):
        soundfile.write(folder / f"e.{suffix}", stereo, _RATE)


def _read_sound(path: Path, time: int) -> None:
    part = {"start": 0.1, "end": 0.2} if time % 2 else {}
    sizes: Any = {"profile": "fixed", "num_frames": 0, "image_size": 64, "detector": None}
    prepare_clip(None, path, **sizes, seconds=0.3, log_mels=8, **part)


# ------------------------------------------------------------------------------- tables, weights


def _make_manifests(folder: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.wav"):
        (folder / name).touch()
    rows = [
        ["video", "audio", "label", "group", "start", "end", "split", "id", "face"],
        ["a.mp4", "", "joy", "Ann", "0.5", "1.5", "train", "one", "10 20"],
        ["b.mp4", "c.wav", "fear", "Bo", "", "", "validation", "two", "1;2;3;4"],
        ["", "c.wav", "joy", "Zoë", "1", "2", "test", "three", ""],
    ]
    for name, delimiter, encoding in (
        ("comma", ",", "utf-8"),
        ("tab", "\t", "utf-16"),
        ("mark", "\t", "utf-8-sig"),
        ("semicolon", ";", "cp1252"),
    ):
        text = "\n".join(delimiter.join(row).replace("1;2;3;4", "1 2 3 4") for row in rows)
        (folder / f"{name}.csv").write_text(text + "\n", encoding)


def _read_manifest(path: Path, time: int) -> None:
    read_manifest(path, ("joy", "fear") if time % 2 else None)


def _make_weights(folder: Path) -> None:
    from tests import torch_files as torch

    rng = np.random.default_rng(0)
    tree = {
        "state_dict": {
            f"module.layer{i}.{name}": np.float32(rng.normal(size=shape))
            for i in range(3)
            for name, shape in (("weight", (4, 3)), ("bias", (4,)))
        },
        "epoch": 3,
        "best": [0.5, None, True, "x", (1, 2)],
    }
    torch.save(folder / "zip.pth", tree)
    torch.save(folder / "legacy.pth", tree, legacy=True)
    weight = ("F32", [2, 2], np.ones(4, "<f4").tobytes())
    half = ("BF16", [3], np.ones(3, "<u2").tobytes())
    torch.write_safetensors(folder / "a.safetensors", {"a.weight": weight, "b": half})


def _read_weights(path: Path, time: int) -> None:
    read_torch_file(path)
    try:
        convert(path)
    except InputError as error:  # the valid ones are of no network
        if "damaged" in str(error) or str(path) not in str(error):
            raise


# ------------------------------------------------------------------------------------------ runs


_FINISHED = "config-0-seed1"  # a run of the cross-validation


@functools.cache
def _config() -> RunConfig:
    fold = "train: actor=1; validation: actor=2; test: actor=3"
    tree = {"model.kind": "audio", "mask": "nodropout", "num_epochs": 2, "data.folds": (fold,)}
    return RunConfig.from_tree(tree)


@functools.cache
def _progress() -> Progress:
    zero = np.zeros((), np.float32)
    state = TrainState(np.array(7, np.int32), {"w": np.ones((2, 3), np.float32)}, {}, {"m": zero})
    return Progress(state, Sums(zero, zero, np.zeros((2, 2), np.float32)))


@functools.cache
def _lines() -> list[dict[str, Any]]:
    figures = {"loss": 1.5, "accuracy": 0.5, "seconds": 1.0, "clips_per_second": 9.0}
    return [
        {"epoch": epoch, "split": split, "step": 4 * epoch, **figures}
        for epoch in (1, 2)
        for split in ("train", "validation")
    ]


def _make_runs(folder: Path) -> None:
    scores = {"num_clips": 6, "accuracy": 0.5, "macro_f1": 0.4, "loss": 1.0}
    scores["confusion"] = [[2, 1], [2, 1]]
    evaluation = {
        "split": "test",
        "num_clips": 6,
        "classes": ["low", "high"],
        "epoch": 1,
        "conditions": {"audio_only/zeros": scores, "video_only/addnoise": scores},
        "actors": {"3": {"num_clips": 6, "accuracy": 0.5}},
        "predictions": {"clip-1": "low"},
    }
    config = _config().with_fold(_config().data.folds[0], _config().loop.seed)
    for name in (_FINISHED, "old"):
        write_config(folder / name, config.to_tree())
        write_json(folder / name / EVALUATION_FILE, evaluation)
    for line in _lines():
        append_json_line(folder / "old" / METRICS_FILE, line)
    model = Model(init_variables(_net(), jax.random.key(0)), _CARD)
    save_model(folder / _FINISHED / "best", jax.device_get(model.variables), _CARD)
    with RunCheckpoints(folder / _FINISHED) as checkpoints:
        checkpoints.save(7, _progress(), _lines())


@functools.cache
def _net() -> Any:
    return build_network(_CARD.network)


def _read_runs(path: Path, time: int) -> None:
    run = next(folder for folder in path.parents if folder.name in (_FINISHED, "old"))
    if path.name in (CONFIG_FILE, EVALUATION_FILE, METRICS_FILE):
        if run.name == _FINISHED:
            table(cross_validate(_config(), run.parent, "config"))
        if time % 5 == 0:  # drawing takes time
            write_report(run)
    elif path.parent.name == "best":
        variables, card = load_model(run)
        repr(Model(variables, card))
        check_compatible(card, _METADATA, run, "DATA")
        initial_variables(_net(), 1, str(run), "fixed")
    else:
        with RunFolder(run) as opened:
            opened.restore(_progress())


# -------------------------------------------------------------------------------------- datasets


def _make_dataset(folder: Path) -> None:
    rng = np.random.default_rng(0)
    records, clips = [], []
    for actor in (1, 2):
        for number in range(2):
            name, split = f"clip-{actor}-{number}", f"actor_{actor:02d}"
            records.append(ClipRecord(name, split, number, actor, 1, 1, 1, "x", True, False))
            mfcc = np.float32(rng.normal(0, 1, (44, 10)))
            clips.append(PreparedClip(np.zeros((0, 64, 64, 3), np.uint8), mfcc, True, False))
    write_dataset(folder / "data", _METADATA, records, clips)
    source = folder / "source" / "Actor_01"
    source.mkdir(parents=True)
    for emotion in ("01", "02"):
        soundfile.write(source / f"03-01-{emotion}-01-01-01-01.wav", _sound(1.0), _RATE)
    for shard in (None, Shard(1, 1)):
        prepare(source.parent, folder / "done", _SETTINGS, shard=shard)


def _read_dataset(path: Path, time: int) -> None:
    if path.suffix == ".npz":
        load_clip(path)
    elif path.name in ("shard.json", "settings.json", "prepare.json"):
        folder = path.parent.parent
        shard = None if path.name == "prepare.json" else Shard(1, 1)
        prepare(folder / "source", folder / "done", _SETTINGS, shard=shard)
    else:
        dataset = open_dataset(path.parent)
        check_compatible(_CARD, dataset.metadata, "RUN", path.parent)
        repr(dataset.select("label=0 actor=1-2", _net().inputs))
        for batch in dataset.select("", _net().inputs).batches(4):
            assert set(batch["label"]) <= {0, 1}, "a label outside of the classes"


# ------------------------------------------------------------------------------------- downloads


def _make_archives(folder: Path) -> None:
    videos = list(speech_clips(1, AUDIO_VIDEO))[:3]
    names = [f"Actor_01/{clip.clip_id}.mp4" for clip in videos]
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(folder / f"video-{method}.zip", "w", method) as archive:
            for name in names:
                info = zipfile.ZipInfo(name)  # of a fixed date
                info.compress_type = method
                archive.writestr(info, np.random.default_rng(0).bytes(200))
    actor = folder / "out" / "Actor_01"
    actor.mkdir(parents=True)
    for clip in speech_clips(1, AUDIO_ONLY):
        (actor / f"{clip.clip_id}.wav").touch()


def _read_archive(path: Path, time: int) -> None:
    content, out = path.read_bytes(), path.parent / "out"
    (out / ZIPS).mkdir(exist_ok=True)
    (out / ZIPS / path.name).write_bytes(content)
    for clip in (out / "Actor_01").glob("*.mp4"):
        clip.unlink()
    md5 = hashlib.md5(content).hexdigest()
    nowhere = "http://127.0.0.1:9/"
    video = RemoteFile(path.name, nowhere, len(content), md5)
    record = Record(RemoteFile("audio.zip", nowhere, 1, ""), 1, {1: video})
    before = sorted(path.parent.parent.iterdir())
    download(out, [1], record, patience=Patience(1, 0.0, 1.0))
    clips = list((out / "Actor_01").glob("*.mp4"))
    assert all(clip.is_file() and not clip.is_symlink() for clip in clips), "a link was unpacked"
    assert sorted(path.parent.parent.iterdir()) == before, "unpacked outside of the folder"


KINDS = {
    "media": Kind(_make_media, ("*",), _read_media),
    "sound": Kind(_make_sound, ("*",), _read_sound),
    "manifests": Kind(_make_manifests, ("*.csv",), _read_manifest),
    "weights": Kind(_make_weights, ("*",), _read_weights),
    "runs": Kind(
        _make_runs,
        (
            *("*/config.json", "*/evaluation.json", "*/metrics.jsonl"),
            *("*/best/*", "*/best/*", "*/best/*", "*/checkpoints/**/*"),
        ),
        _read_runs,
    ),
    "datasets": Kind(
        _make_dataset,
        ("data/*", "done/prepare.json", "done.shard*/*.json", "done.shard*/clips/*"),
        _read_dataset,
    ),
    "archives": Kind(_make_archives, ("*.zip",), _read_archive),
}
