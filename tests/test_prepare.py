"""The prepare command: dataset, skipped clips, resuming, errors."""

import errno
import importlib.util
import json
import os
import shutil
import threading

import cv2
import numpy as np
import pytest

from avjax import prepare as command
from avjax.data.folds import Filter
from avjax.data.pipeline import open_dataset
from avjax.errors import InputError
from avjax.preparation import publish
from avjax.preparation.face_detector.weights import PACKAGE
from avjax.prepare import PreparationSettings, main, prepare
from tests.clips import WholeFrame, read_files, tone, write_sound, write_video

SETTINGS = PreparationSettings(profile="fixed", num_frames=4, image_size=64, pair_video_only=False)
FLAGS = ["--num_frames=4", "--image_size=64"]
EVERYTHING = Filter.parse("")
HAPPY, ANGRY, MUTE, BLACK = (f"01-01-0{i}-01-01-01-07" for i in (3, 5, 6, 7))
SILENT, NOTHING = "02-01-03-01-01-01-07", "01-01-08-01-01-01-07"


class SeesLight(WholeFrame):
    """A detector that finds no face in black frames; interrupts after ``calls`` calls."""

    def __init__(self, calls: int = 1000) -> None:
        super().__init__()
        self.allowed = calls
        self.lock = threading.Lock()

    def faces(self, frames, thorough=False):
        with self.lock:
            if self.calls == self.allowed:
                raise KeyboardInterrupt
            boxes = super().faces(frames)
        return [box if f.mean() > 10 else box[:0] for box, f in zip(boxes, frames, strict=True)]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Clips of two actors: four complete ones, one of them a silent recording, one that lacks its
    sound, one without a face, and three unusable ones."""
    root = tmp_path_factory.mktemp("RAVDESS")
    folder = root / "Actor_07"
    write_video(folder / f"{HAPPY}.mp4", 20)
    write_video(folder / f"{SILENT}.mp4", 20)
    write_sound(folder / f"03{HAPPY[2:]}.wav", tone(0.7))
    write_video(folder / f"{ANGRY}.mp4", 20, sound=tone(0.7))
    write_video(root / "ACTOR11" / "01-01-08-02-02-02-11.mp4", 20, sound=tone(0.7))
    write_video(folder / f"{MUTE}.mp4", 20)
    write_video(folder / f"{BLACK}.mp4", [np.zeros((64, 96, 3), np.uint8)] * 20, sound=tone(0.7))
    write_video(folder / f"{NOTHING}.mp4", [np.zeros((64, 96, 3), np.uint8)] * 20)
    content = (folder / f"{HAPPY}.mp4").read_bytes()
    (folder / "01-01-01-01-01-01-07.mp4").write_bytes(content[: len(content) // 2])
    (folder / "01-01-02-01-01-01-07.mp4").write_text("not a video")
    return root


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "DATA"
    return out, prepare(source, out, SETTINGS, make_detector=SeesLight)


@pytest.fixture
def cli(monkeypatch, capsys):
    """Runs the command line with a fake detector; returns status, output and errors."""

    def run(*arguments, detector=SeesLight):
        monkeypatch.setattr(command.face_detector, "default_detector", detector)
        status = main(["prepare", *map(str, arguments)])
        captured = capsys.readouterr()
        errors = [line for line in captured.err.splitlines() if line.startswith("error:")]
        return status, captured.out, errors

    return run


# ---------------------------------------------------------------------------------------- dataset


def test_usable_clips_are_written(prepared):
    clips = open_dataset(prepared[0]).select(EVERYTHING, video_only=True)
    assert clips.clip_ids == [HAPPY, ANGRY, MUTE, BLACK, SILENT, "01-01-08-02-02-02-11"]
    assert clips.labels.tolist() == [2, 4, 5, 6, 2, 7]
    (batch,) = clips.batches(6)
    assert batch["has_audio"].tolist() == [True, True, False, True, False, True]
    assert batch["has_video"].tolist() == [True, True, True, False, True, True]
    np.testing.assert_array_equal(batch["audio"].any((1, 2)), batch["has_audio"])
    np.testing.assert_array_equal(batch["frames"].any((1, 2, 3, 4)), batch["has_video"])
    assert batch["frames"].shape == (6, 4, 64, 64, 3)


def test_incomplete_clips_are_listed(prepared, source):
    folder = source / "Actor_07"
    assert prepared[1].incomplete == {
        MUTE: f"no sound in {folder / MUTE}.mp4",
        BLACK: f"no face found in {folder / BLACK}.mp4",
    }
    assert prepared[1].faceless_frames == {BLACK: 4}


def test_reference_profile_skips_videos_without_a_face(source, tmp_path):
    settings = SETTINGS._replace(profile="reference")
    summary = prepare(source, tmp_path / "DATA", settings, make_detector=SeesLight)
    assert "no face found" in summary.skipped[BLACK]
    records = {
        r.clip_id: (r.has_audio, r.has_video) for r in open_dataset(tmp_path / "DATA").records
    }
    assert BLACK not in records
    assert records[MUTE] == (False, True)
    assert summary.written == len(records) == 5


def test_skipped_clips_are_listed_with_their_reason(prepared):
    skipped = prepared[1].skipped
    assert set(skipped) == {NOTHING, "01-01-01-01-01-01-07", "01-01-02-01-01-01-07"}
    assert "no face found in" in skipped[NOTHING]
    assert "no sound in" in skipped[NOTHING]
    assert "01-01-01-01-01-01-07.mp4 cannot be decoded" in skipped["01-01-01-01-01-01-07"]
    assert "01-01-02-01-01-01-07.mp4 cannot be decoded" in skipped["01-01-02-01-01-01-07"]


def test_summary_and_contact_sheet_are_written(prepared):
    out, summary = prepared
    assert (summary.written, summary.prepared_now) == (6, 6)
    stored = json.loads((out / command.SUMMARY_FILE).read_text())
    assert stored["written"] == 6
    assert stored["skipped"] == summary.skipped
    assert PreparationSettings.from_json(stored["settings"]) == SETTINGS
    sheet = cv2.imread(str(out / publish.SHEET_FILE))
    assert sheet.shape == (5 * 64, 200 + 4 * 64, 3)
    assert not out.with_name("DATA.partial").exists()


def test_dataset_has_a_split_per_actor_and_metadata(prepared):
    dataset = open_dataset(prepared[0])
    assert {record.split for record in dataset.records} == {"actor_07", "actor_11"}
    m = dataset.metadata
    assert (m.profile, m.num_frames, m.image_size, m.audio_steps) == ("fixed", 4, 64, 156)
    assert m.classes[0] == "neutral"
    assert "scipy" in m.versions


def test_pairing_gives_silent_videos_the_sound_of_their_trial(source, tmp_path):
    settings = SETTINGS._replace(profile="reference", pair_video_only=True)
    prepare(source, tmp_path / "DATA", settings, make_detector=SeesLight)
    clips = open_dataset(tmp_path / "DATA").select(Filter.parse("label=2"))
    assert clips.clip_ids == [HAPPY, SILENT]
    np.testing.assert_array_equal(clips[0]["audio"], clips[1]["audio"])


# --------------------------------------------------------------------------------------- resuming


def test_interrupted_run_resumes_to_the_same_bytes(source, prepared, tmp_path):
    out = tmp_path / "DATA"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, SETTINGS, make_detector=lambda: SeesLight(calls=2))
    assert not out.exists()
    staged = out.with_name("DATA.partial") / "clips"
    (staged / "01-01-08-02-02-02-11.tmp").write_bytes(b"half a clip, as a killed process leaves it")
    detector = SeesLight()
    summary = prepare(source, out, SETTINGS, make_detector=lambda: detector)
    assert summary.written == 6
    assert detector.calls == 7 - 2  # seven clips can be decoded, two were finished
    assert read_files(out) == read_files(prepared[0])


def test_same_command_adds_nothing(source, prepared):
    out, first = prepared
    before = read_files(out)
    summary = prepare(source, out, SETTINGS, make_detector=pytest.fail)
    assert (summary.written, summary.prepared_now) == (6, 0)
    assert summary.skipped == first.skipped
    assert read_files(out) == before


def test_summary_without_incomplete_clips_is_read(source, prepared, tmp_path):
    out = tmp_path / "DATA"
    shutil.copytree(prepared[0], out)
    stored = json.loads((out / command.SUMMARY_FILE).read_text())
    del stored["incomplete"], stored["digest"]
    (out / command.SUMMARY_FILE).write_text(json.dumps(stored))
    assert prepare(source, out, SETTINGS, make_detector=pytest.fail).incomplete == {}


def test_different_settings_for_the_same_dataset_are_refused(source, prepared, tmp_path):
    changed = SETTINGS._replace(profile="reference")
    with pytest.raises(InputError, match=r"profile is 'fixed' there and 'reference' here"):
        prepare(source, prepared[0], changed)
    out = tmp_path / "DATA"
    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, SETTINGS, make_detector=lambda: SeesLight(calls=1))
    with pytest.raises(InputError, match=r"image_size is 64 there and 96 here"):
        prepare(source, out, SETTINGS._replace(image_size=96))


def test_complete_dataset_refuses_more_clips(prepared, tmp_path):
    write_video(tmp_path / "Actor_09" / "01-01-03-01-01-01-09.mp4", 20, sound=tone(0.5))
    with pytest.raises(InputError, match=r"without 1 clip of the source \(01-01-03-01-01-01-09\)"):
        prepare(tmp_path, prepared[0], SETTINGS)


def test_folder_with_other_files_is_refused(source, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"was not written by avjax\.prepare"):
        prepare(source, tmp_path, SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_empty_folder_is_used(source, prepared, tmp_path):
    out = tmp_path / "DATA"
    out.mkdir()
    prepare(source, out, SETTINGS, make_detector=SeesLight)
    assert read_files(out) == read_files(prepared[0])


@pytest.mark.parametrize("where", ["clip", "rename", "dataset", "sheet"])
def test_full_disk_is_a_one_line_error_and_loses_nothing(source, prepared, tmp_path, cli, where):
    out = tmp_path / "DATA"
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.MonkeyPatch.context() as patch:
        if where == "clip":
            save, saved = np.savez, []

            def savez(file, **arrays):
                saved.append(file)
                if len(saved) == 3:
                    file.write(b"half a clip")
                    raise full
                save(file, **arrays)

            patch.setattr(np, "savez", savez)
        elif where == "rename":
            patch.setattr(command.Path, "rename", lambda *_: (_ for _ in ()).throw(full))
        elif where == "dataset":
            text = f"write() failed: {os.strerror(errno.ENOSPC)}; writing a shard"
            patch.setattr(publish, "write_dataset", _raise(RuntimeError(text)))
        else:
            patch.setattr(publish, "write_contact_sheet", _raise(full))
        status, _, errors = cli(f"--source={source}", f"--out={out}", *FLAGS)
    assert status == 1
    assert len(errors) == 1
    assert "no space left in" in errors[0]
    assert not out.exists()
    staged = {path.suffix for path in (tmp_path / "DATA.partial" / "clips").iterdir()}
    assert staged == {".npz"}
    assert [path.name for path in tmp_path.iterdir()] == ["DATA.partial"]
    assert cli(f"--source={source}", f"--out={out}", *FLAGS)[0] == 0
    assert read_files(out) == read_files(prepared[0])


def _raise(error):
    def fail(*_):
        raise error

    return fail


# ------------------------------------------------------------------------------------ command line


def test_command_prints_a_summary(source, tmp_path, cli):
    status, text, errors = cli(f"--source={source}", f"--out={tmp_path / 'DATA'}", *FLAGS)
    assert (status, errors) == (0, [])
    assert f"skipped {NOTHING}: " in text
    assert f"incomplete {BLACK}: no face found in " in text
    assert "6 clips (6 prepared now" in text
    assert "3 skipped, 2 incomplete" in text
    assert "contact_sheet.png" in text
    assert "clips per second" in text


def test_strict_fails_but_writes_the_good_clips(source, tmp_path, cli):
    out = tmp_path / "DATA"
    assert cli(f"--source={source}", f"--out={out}", "--strict", *FLAGS)[0] == 1
    assert len(open_dataset(out).records) == 6


def test_only_bad_clips_is_an_error(tmp_path, cli):
    folder = tmp_path / "Actor_05"
    folder.mkdir()
    (folder / f"{HAPPY}.mp4").write_text("not a video")
    status, _, errors = cli(f"--source={tmp_path}", f"--out={tmp_path / 'DATA'}", *FLAGS)
    assert status == 1
    assert "no clip could be prepared, of 1 clip" in errors[0]
    assert not (tmp_path / "DATA").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--out is missing"),
        (["--out=DATA"], "give one of --source FOLDER, --manifest FILE, and --merge"),
        (["--out=DATA", "--source=.", "--manifest=clips.csv"], "give one of --source FOLDER"),
        (["--out=DATA", "--manifest=gone.csv"], "gone.csv cannot be read"),
        (["--out=DATA", "--source=.", "--classes=a,b"], "--classes needs --manifest"),
        (["--out=DATA", "--source=.", "--profile=reference", "--seconds=2"], "windows of 3.6 s"),
        (["--source=gone", "--out=DATA"], "there is no folder gone"),
        (["--source=.", "--out=DATA"], "no clips found"),
        (["--source=.", "--out=DATA", "--profile=fancy"], "unknown profile 'fancy'"),
        (
            ["--source=.", "--out=DATA", "--import_crops=.", "--profile=fixed"],
            "leave --profile out",
        ),
        (["--source=.", "--out=DATA", "more"], "unexpected argument 'more'"),
    ],
)
def test_wrong_arguments_are_one_line_errors(tmp_path, monkeypatch, cli, flags, message):
    monkeypatch.chdir(tmp_path)
    status, _, errors = cli(*flags)
    assert status == 1
    assert len(errors) == 1
    assert message in errors[0]


# -------------------------------------------------------------------------------- imported crops


@pytest.fixture
def crops(tmp_path):
    """Crops of a 01-* clip as an array and of a 02-* clip as a video, with their sound."""
    folder = tmp_path / "crops" / "ACTOR07"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), np.uint8)
    np.save(folder / f"{HAPPY}_facecroppad.npy", images)
    red_first = [np.full((64, 64, 3), (i, 100, 200), np.uint8) for i in (0, 20, 40, 60)]
    write_video(folder / f"{SILENT}_facecroppad.avi", red_first)
    write_sound(tmp_path / "sound" / f"03{HAPPY[2:]}_croppad.wav", tone(3.6, 22050), 22050)
    return tmp_path, images


def run_import(root, **changes):
    settings = SETTINGS._replace(profile="reference", **changes)
    out = root / "DATA"
    summary = prepare(
        root / "sound", out, settings, import_crops=root / "crops", make_detector=pytest.fail
    )
    return summary, out


def test_imported_crops_keep_their_values(crops):
    root, images = crops
    summary, out = run_import(root, pair_video_only=True)
    assert summary.written == 2
    dataset = open_dataset(out)
    assert dataset.metadata.profile == "reference"
    lossless, video = (dataset.select(EVERYTHING)[i] for i in range(2))
    np.testing.assert_array_equal(lossless["frames"], images)
    np.testing.assert_array_equal(lossless["audio"], video["audio"])
    # The reference reads its videos as BGR.
    np.testing.assert_allclose(video["frames"].mean((0, 1, 2)), [200, 100, 30], atol=6)


def test_importing_without_pairing_leaves_video_only_clips_silent(crops):
    _, out = run_import(crops[0])
    records = {record.clip_id: record.has_audio for record in open_dataset(out).records}
    assert records == {HAPPY: True, SILENT: False}


def test_crops_of_wrong_shape_are_refused(crops):
    with pytest.raises(InputError, match=r"uint8 \[4, 64, 64, 3\] instead of uint8 \[5, 64, 64"):
        run_import(crops[0], num_frames=5)


def test_crops_without_sound_are_skipped(crops):
    root, _ = crops
    (root / "sound" / f"03{HAPPY[2:]}_croppad.wav").unlink()
    summary, _ = run_import(root)
    assert "no sound found for" in summary.skipped[HAPPY]
    assert summary.written == 1


@pytest.mark.ravdess
@pytest.mark.slow
def test_crops_of_real_clips_equal_the_reference(shared_dir, tmp_path):
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} is not installed, whose wheel holds the detector's weights")
    settings = PreparationSettings("reference", 15, 224, pair_video_only=False)
    summary = prepare(shared_dir / "ravdess" / "video", tmp_path / "DATA", settings)
    assert (summary.written, summary.skipped, summary.faceless_frames) == (8, {}, {})
    clips = open_dataset(tmp_path / "DATA").select(EVERYTHING, video_only=True)
    for number, name in enumerate(clips.clip_ids):
        stored = shared_dir / "ravdess/reference_crops/Actor_05" / f"{name}_facecroppad.npy"
        np.testing.assert_array_equal(clips[number]["frames"], np.load(stored))
