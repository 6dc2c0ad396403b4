"""Errors of libraries on one clip, tracebacks on request, and calls outside the main thread."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from avjax import prepare as command
from avjax.errors import InputError
from avjax.preparation import media
from avjax.prepare import PreparationSettings, main, prepare
from tests.clips import WholeFrame, frame, tone, write_sound, write_video

SETTINGS = PreparationSettings("fixed", 2, 64, pair_video_only=False)
DARK, BRIGHT, LOUD = (f"01-03-01-01-01-0{actor}" for actor in (5, 6, 7))


class Dazzled(WholeFrame):
    """A detector that raises an error on bright frames, or if ``broken`` on all."""

    error: Exception = ZeroDivisionError("too bright")
    broken = False

    def faces(self, frames, thorough=False):
        if self.broken or frames.mean() > 100:
            raise self.error
        return super().faces(frames, thorough)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A dark clip, a bright one, and a sound file."""
    root = tmp_path_factory.mktemp("RAVDESS")
    write_video(root / f"01-{DARK}.mp4", [frame(1)] * 4, sound=tone(0.3))
    write_video(root / f"01-{BRIGHT}.mp4", [frame(90)] * 4, sound=tone(0.3))
    write_sound(root / f"03-{LOUD}.wav", tone(0.3))
    return root


@pytest.fixture
def run(source, tmp_path, monkeypatch, capsys):
    """Runs the command; returns its status and what it printed."""

    def run(*flags, detector=Dazzled):
        monkeypatch.setattr(command.face_detector, "default_detector", detector)
        arguments = [f"--source={source}", f"--out={tmp_path / 'DATA'}", "--workers=1"]
        status = main(["prepare", *arguments, "--num_frames=2", "--image_size=64", *flags])
        return status, *capsys.readouterr()

    return run


def test_an_error_of_the_detector_on_one_clip_lists_the_clip(source, run):
    status, out, err = run()
    assert status == 0
    reason = f"{source}/01-{BRIGHT}.mp4 cannot be prepared (ZeroDivisionError: too bright)"
    assert f"skipped 01-{BRIGHT}: {reason}" in out
    assert "DATA: 2 clips" in out and "Traceback" not in err


def test_debug_shows_the_traceback_of_a_listed_clip(run):
    status, out, err = run("--debug")
    assert status == 0 and f"skipped 01-{BRIGHT}" in out
    assert "Traceback" in err and "in faces" in err
    assert "ZeroDivisionError: too bright" in err


def test_an_error_of_a_library_on_one_sound_lists_the_clip(source, tmp_path, monkeypatch):
    compute, calls = media.mfcc, []

    def fails_once(samples):
        calls.append(samples)
        if len(calls) == 1:
            raise KeyError("window\nlost")
        return compute(samples)

    monkeypatch.setattr(media, "mfcc", fails_once)
    summary = prepare(source, tmp_path / "DATA", SETTINGS, make_detector=WholeFrame, workers=1)
    assert summary.written == 2
    (reason,) = summary.skipped.values()
    assert f"{DARK}.mp4 cannot be prepared (KeyError: 'window\\nlost'); replace" in reason


def test_a_detector_that_always_fails_ends_the_run(source, tmp_path):
    detector = Dazzled()
    detector.broken = True
    with pytest.raises(ZeroDivisionError, match="too bright"):
        prepare(source, tmp_path / "DATA", SETTINGS, make_detector=lambda: detector)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: 3 GiB")])
def test_lack_of_memory_ends_the_run_with_one_line(run, error):
    """A dataset would lack clips for a reason that does not lie in them."""
    detector = Dazzled()
    detector.error = error
    status, _, err = run(detector=lambda: detector)
    assert status == 1
    (line,) = [line for line in err.splitlines() if line.startswith("error:")]
    assert line.startswith("error: memory ran out while ") and f"{BRIGHT}.mp4 was prepared" in line
    assert "DATA: 3 clips (" in run(detector=WholeFrame)[1]  # resumes


@pytest.mark.parametrize("version", ["1.0.0", None])  # the first versions wrote none
def test_clips_of_a_version_that_prepared_them_differently_are_not_taken(
    source, tmp_path, run, version
):
    detector = Dazzled()
    detector.error = MemoryError()
    assert run(detector=lambda: detector)[0] == 1
    path = tmp_path / "DATA.partial" / "settings.json"
    stored = json.loads(path.read_text())
    del stored["digest"]
    former = {**stored, "dataset_version": version} if version else dict(stored)
    if version is None:
        del former["dataset_version"]
    path.write_text(json.dumps(former))
    status, _, err = run(detector=WholeFrame)
    assert status == 1 and "DATA.partial holds clips that another version" in err
    path.write_text(json.dumps(stored))
    assert "DATA: 3 clips (" in run(detector=WholeFrame)[1]


def test_clips_are_prepared_outside_the_main_thread(source, tmp_path, run):
    with ThreadPoolExecutor(1) as pool:
        out = tmp_path / "library"
        summary = pool.submit(prepare, source, out, SETTINGS, make_detector=WholeFrame).result()
        assert summary.written == 3
        assert pool.submit(run).result()[0] == 0


def test_names_that_are_not_utf_8(source, tmp_path):
    """Folders of such names are read by libsndfile, FFmpeg and NumPy, and named in JSON."""
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / f"03-{BRIGHT}.wav").write_text("no sound")
    here = prepare(folder, tmp_path / "here", SETTINGS, make_detector=WholeFrame)
    assert here.written == 2
    assert f"caf\udce9/03-{BRIGHT}.wav" in here.skipped[f"01-{BRIGHT}"]
    again = prepare(folder, tmp_path / "here", SETTINGS, make_detector=pytest.fail)
    assert again.skipped == here.skipped
    with pytest.raises(InputError, match=r"data\.partial is not UTF-8; choose another --out"):
        prepare(folder, tmp_path / "caf\udce9 data", SETTINGS, make_detector=WholeFrame)
    wav = folder / f"03-{LOUD}.wav"
    np.testing.assert_allclose(media.read_audio(wav, 48000), tone(0.3), atol=1e-4)
