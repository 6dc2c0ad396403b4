"""Preparing many clips: killed and concurrent runs, threads, shards, odd files."""

import json
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

from avjax import prepare as command
from avjax.data.folds import Filter
from avjax.data.pipeline import open_dataset
from avjax.data.ravdess_dataset_builder import VERSION
from avjax.errors import InputError
from avjax.preparation.shards import Shard, merge
from avjax.prepare import SUMMARY_FILE, PreparationSettings, main, prepare
from tests.clips import WholeFrame, frame, read_files, tone, write_sound, write_video

SETTINGS = PreparationSettings(profile="fixed", num_frames=2, image_size=64, pair_video_only=False)
NAMES = [f"01-01-0{i}-01-01-01-0{actor}" for actor in (5, 7) for i in (3, 4, 5)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Six good clips of two actors, and an unreadable one."""
    root = tmp_path_factory.mktemp("RAVDESS")
    for number, name in enumerate(NAMES):
        pictures = [frame(2 * number + i) for i in range(4)]
        write_video(root / f"Actor_{name[-2:]}" / f"{name}.mp4", pictures, sound=tone(0.3))
    (root / "Actor_07" / "01-01-08-01-01-01-07.mp4").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "DATA"
    return out, prepare(source, out, SETTINGS, make_detector=WholeFrame, workers=1)


# ---------------------------------------------------------------------- killed and concurrent runs

STALLING = """
import sys, time
from pathlib import Path
from avjax.prepare import prepare
from tests.clips import WholeFrame
from tests.test_prepare_many import SETTINGS

class Stalls(WholeFrame):
    def faces(self, frames, thorough=False):
        if self.calls == 2:
            print("stalled", flush=True)
            time.sleep(600)
        return super().faces(frames)

prepare(Path(sys.argv[1]), Path(sys.argv[2]), SETTINGS, make_detector=Stalls, workers=1)
"""


@pytest.fixture(scope="module")
def killed(source, root_dir, tmp_path_factory):
    """The folder of a run killed at its third clip, and a concurrent run's error."""
    out = tmp_path_factory.mktemp("killed") / "DATA"
    arguments = [sys.executable, "-c", STALLING, str(source), str(out)]
    with subprocess.Popen(arguments, cwd=root_dir, stdout=subprocess.PIPE, text=True) as process:
        assert "stalled\n" in process.stdout
        with pytest.raises(InputError) as error:
            prepare(source, out, SETTINGS, make_detector=WholeFrame)
        process.kill()
    return out, str(error.value)


def test_concurrent_run_is_refused(killed):
    out, message = killed
    assert message.startswith(f"another process prepares clips into {out}.partial; wait for it")


def test_killed_run_resumes_to_the_same_bytes(source, prepared, killed):
    out, _ = killed
    staged = out.with_name("DATA.partial")
    assert {path.suffix for path in (staged / "clips").iterdir()} == {".npz"}
    unfinished = out.with_name("DATA.unfinished")  # as if killed while publishing
    partial = unfinished / "tfds" / "ravdess_faces" / VERSION
    partial.mkdir(parents=True)
    (partial / "dataset_info.json").write_text("{")
    summary = prepare(source, out, SETTINGS, make_detector=WholeFrame)
    assert (summary.written, summary.prepared_now) == (6, 4)
    assert read_files(out) == read_files(prepared[0])
    assert not (staged.exists() or unfinished.exists())


def test_dataset_published_by_another_process_is_complete(source, prepared, tmp_path, monkeypatch):
    """The other process publishes between the check of --out and the lock."""
    out, open_store = tmp_path / "DATA", command.open_clip_store

    def published_meanwhile(directory, settings):
        shutil.copytree(prepared[0], out)
        return open_store(directory, settings)

    monkeypatch.setattr(command, "open_clip_store", published_meanwhile)
    assert prepare(source, out, SETTINGS, make_detector=pytest.fail).written == 6
    assert not out.with_name("DATA.partial").exists()


def test_unwritable_folder_is_a_one_line_error(source, tmp_path, capsys):
    (tmp_path / "file").touch()
    status = main(["prepare", f"--source={source}", f"--out={tmp_path / 'file' / 'DATA'}"])
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert status == 1
    assert len(errors) == 1
    assert "cannot be written (Not a directory); choose another --out" in errors[0]


# --------------------------------------------------------------------------------------- threads


class ConcurrentDetector(WholeFrame):
    """A detector whose calls wait for a second one; counts concurrent calls."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = threading.Barrier(2)
        self.active = self.peak = 0

    def faces(self, frames, thorough=False):
        self.active += 1
        self.peak = max(self.peak, self.active)
        self.barrier.wait(timeout=60)
        boxes = super().faces(frames)
        self.active -= 1
        return boxes


def test_threads_give_the_same_bytes(source, prepared, tmp_path):
    detector = ConcurrentDetector()
    prepare(source, tmp_path / "DATA", SETTINGS, make_detector=lambda: detector, workers=2)
    assert detector.peak == 2
    assert read_files(tmp_path / "DATA") == read_files(prepared[0])


def test_error_ends_the_run_and_keeps_finished_clips(source, tmp_path):
    class Breaks(WholeFrame):
        def faces(self, frames, thorough=False):
            if self.calls == 1:
                raise RuntimeError("a bug")
            return super().faces(frames)

    with pytest.raises(RuntimeError, match="a bug"):
        prepare(source, tmp_path / "DATA", SETTINGS, make_detector=Breaks, workers=1)
    assert len(list((tmp_path / "DATA.partial" / "clips").glob("*.npz"))) == 1


def test_summary_has_the_time_of_each_phase(prepared):
    stored = json.loads((prepared[0] / SUMMARY_FILE).read_text())
    assert set(stored["phases"]) == {"sound", "decode", "detect", "crop", "write"}
    assert stored["phases"] == prepared[1].phases
    assert stored["phases"]["decode"] > 0
    assert list(stored["skipped"]) == ["01-01-08-01-01-01-07"]


# ----------------------------------------------------------------------------------------- shards


@pytest.fixture(scope="module")
def shards(source, tmp_path_factory):
    """A folder with two finished shards."""
    directory = tmp_path_factory.mktemp("shards")
    for number in (1, 2):
        shard = Shard(number, 2)
        prepare(source, directory / "DATA", SETTINGS, make_detector=WholeFrame, shard=shard)
    return directory


@pytest.fixture
def sharded(shards, tmp_path):
    """The output path for a copy of the shards."""
    shutil.copytree(shards, tmp_path, dirs_exist_ok=True)
    return tmp_path / "DATA"


def test_merged_shards_are_the_same_bytes(source, prepared, sharded):
    summary = merge(sharded)
    assert read_files(sharded) == read_files(prepared[0])
    assert summary._replace(seconds=0, phases={}) == prepared[1]._replace(seconds=0, phases={})
    assert not sharded.with_name("DATA.partial").exists()
    assert prepare(source, sharded, SETTINGS, make_detector=pytest.fail).prepared_now == 0
    with pytest.raises(InputError, match="DATA exists; choose another --out"):
        merge(sharded)


def test_finished_shard_is_not_prepared_again(source, sharded):
    summary = prepare(source, sharded, SETTINGS, make_detector=pytest.fail, shard=Shard(1, 2))
    assert (summary.written, summary.prepared_now) == (3, 0)


def test_command_prepares_and_merges_shards(source, prepared, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command.face_detector, "default_detector", WholeFrame)
    out = tmp_path / "DATA"
    flags = [f"--out={out}", "--num_frames=2", "--image_size=64"]
    for number in (1, 2, 3):
        assert main(["prepare", f"--source={source}", f"--shard={number}/3", *flags]) == 0
    assert "DATA.shard-3-of-3: 2 clips (2 prepared now" in capsys.readouterr().out
    assert main(["prepare", "--merge", f"--out={out}"]) == 0
    assert f"{out}: 6 clips" in capsys.readouterr().out
    assert read_files(out) == read_files(prepared[0])


def test_wrong_shard_flags_are_refused(source, tmp_path, capsys):
    out = f"--out={tmp_path / 'DATA'}"
    for flags, message in (
        (["--merge", "--source=."], "give one of --source FOLDER, --manifest FILE, and --merge"),
        (["--merge"], "there are no shards"),
        ([f"--source={source}", "--shard=3/2"], "cannot read shard '3/2'; write 1/8 to 8/8"),
        ([f"--source={source}", "--shard=two"], "cannot read shard 'two'"),
    ):
        assert main(["prepare", out, *flags]) == 1
        assert message in capsys.readouterr().err


def test_missing_shard_is_refused(sharded):
    sharded.with_name("DATA.shard-2-of-2").rename(sharded.with_name("elsewhere"))
    with pytest.raises(InputError, match=r"of the shards of .*DATA, 2/2 are missing"):
        merge(sharded)


def test_unfinished_shard_is_refused(sharded):
    (sharded.with_name("DATA.shard-2-of-2") / "shard.json").unlink()
    with pytest.raises(InputError, match=r"DATA\.shard-2-of-2 is not finished; run its command"):
        merge(sharded)


def test_duplicate_shard_is_refused(sharded):
    duplicate = sharded.with_name("DATA.shard-1-of-2-again")
    duplicate.mkdir()
    for path in sharded.with_name("DATA.shard-1-of-2").glob("*.json"):
        (duplicate / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"DATA\.shard-1-of-2-again are both shard 1/2"):
        merge(sharded)


def test_shard_that_lacks_a_clip_is_refused(sharded):
    (sharded.with_name("DATA.shard-1-of-2") / "clips" / f"{NAMES[2]}.npz").unlink()
    with pytest.raises(InputError, match=rf"DATA\.shard-1-of-2 lacks clip {NAMES[2]}"):
        merge(sharded)


@pytest.mark.parametrize("file", ["settings.json", "shard.json"])
def test_shards_of_different_settings_are_refused(sharded, file):
    path = sharded.with_name("DATA.shard-2-of-2") / file
    stored = json.loads(path.read_text())
    changed, expected = {
        "settings.json": ({"image_size": 96}, "image_size is 64 there and 96 here"),
        "shard.json": ({"versions": {"jax": "0"}}, "differ in the versions of the libraries"),
    }[file]
    del stored["digest"]  # as if changed by hand
    path.write_text(json.dumps({**stored, **changed}))
    with pytest.raises(InputError, match=expected):
        merge(sharded)


def test_shards_of_different_sources_are_refused(sharded, source, tmp_path):
    folder = tmp_path / "other" / "Actor_05"
    write_video(folder / f"{NAMES[0]}.mp4", 4, sound=tone(0.3))
    other_source = folder.parent
    with pytest.raises(InputError, match="the source has other clips since"):
        prepare(other_source, sharded, SETTINGS, make_detector=pytest.fail, shard=Shard(1, 2))
    (sharded.with_name("DATA.shard-2-of-2")).rename(tmp_path / "away")
    prepare(other_source, sharded, SETTINGS, make_detector=WholeFrame, shard=Shard(2, 2))
    with pytest.raises(InputError, match="differ in the clips in the source"):
        merge(sharded)


# -------------------------------------------------------------------------------------- odd files


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Unusual clips, all usable except four, in a path with spaces and umlauts."""
    folder = tmp_path_factory.mktemp("odd") / "Gefühle auf Video 情感" / "Actor_09"

    def name(number, modality="01"):
        return f"{modality}-01-0{number}-01-01-01-09"

    write_video(folder / f"{name(1)}.mp4", 1, sound=tone(0.3))  # one frame
    write_video(folder / f"{name(2)}.mp4", [frame(i, 64, 96) for i in range(4)])  # portrait
    write_sound(folder / f"{name(2, '03')}.wav", np.stack([tone(1, 8000)] * 2, 1), 8000)
    write_video(folder / f"{name(3)}.mp4", [frame(i, 3840, 2160) for i in range(2)])  # 4K
    write_sound(folder / f"{name(3, '03')}.flac", tone(0.02))  # shorter than one MFCC step
    times = [0, 0.01, 0.02, 0.03, 2.0]  # uneven: four short frames, then a long one
    write_video(folder / f"{name(4)}.mp4", [frame(20 * i) for i in range(5)], times=times)
    (folder / f"{name(5)}.mp4").touch()  # empty
    write_video(folder / f"{name(6)}.mp4", 4, sound=tone(0.3))
    (folder / f"{name(6, '03')}.wav").write_bytes(b"RIFF")  # unreadable
    write_video(folder / "holiday.mp4", 4)  # no RAVDESS name
    write_video(folder / "again" / "Actor_09" / f"{name(1)}.mp4", 4)  # repeated name
    return folder.parent


@pytest.fixture(scope="module")
def prepared_odd(odd):
    out = odd.parent / "Daten für später"
    return out, prepare(odd, out, SETTINGS, make_detector=WholeFrame)


def test_odd_clips_are_written(prepared_odd):
    clips = open_dataset(prepared_odd[0]).select(Filter.parse(""), video_only=True)
    assert clips.labels.tolist() == [0, 1, 2, 3]
    (batch,) = clips.batches(4)
    assert batch["has_audio"].tolist() == [True, True, True, False]
    assert batch["has_video"].all()
    single, _, _, uneven = batch["frames"]
    np.testing.assert_array_equal(single[0], single[1])
    np.testing.assert_allclose(uneven[:2].mean((1, 2, 3)), frame(60).mean(), atol=2)
    assert np.isfinite(batch["audio"]).all()


def test_unusable_clips_are_listed(odd, prepared_odd):
    skipped = prepared_odd[1].skipped
    folder = odd / "Actor_09"
    reasons = {
        "01-01-05-01-01-01-09": f"{folder}/01-01-05-01-01-01-09.mp4 is empty",
        "01-01-06-01-01-01-09": f"{folder}/03-01-06-01-01-01-09.wav cannot be decoded",
        f"{folder}/holiday.mp4": "holiday.mp4 is not a RAVDESS name",
    }
    assert skipped.keys() == reasons.keys()
    for name, reason in reasons.items():
        assert reason in skipped[name]
    repeat = f"{folder}/again/Actor_09/01-01-01-01-01-01-09.mp4"
    (note,) = (n for n in prepared_odd[1].inventory["notes"] if "repeat" in n)
    assert note.startswith(f"1 file repeats a clip and is left out: {repeat}")
