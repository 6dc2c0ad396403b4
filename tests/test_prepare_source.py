"""What the prepare command says of a source before work begins, and what it refuses."""

import json
import os
import subprocess
import sys

import pytest

from avjax import prepare as command
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.preparation.contact_sheet import fitting_end
from avjax.preparation.inventory import Inventory
from avjax.preparation.raw_clip import RawClip
from avjax.prepare import PreparationSettings, prepare
from tests.clips import WholeFrame, tone, write_sound, write_video

SETTINGS = PreparationSettings("fixed", 2, 64, pair_video_only=False)


def test_a_source_is_counted(tmp_path):
    video, sound = tmp_path / "a.mp4", tmp_path / "a.wav"
    files = [(video, video), (video, sound), (video, None), (None, sound), (video, sound)]
    clips = [
        RawClip(ClipRecord(str(i), "", label=i % 2, group=group), str(i), *pair)
        for i, (pair, group) in enumerate(zip(files, ("Bo", "Ann", "Bo", "", "Ann"), strict=True))
    ]
    counted = Inventory.of(clips, ("joy", "fear", "awe"), ["all is well"])
    assert counted.classes == {"joy": 3, "fear": 2, "awe": 0}
    assert counted.speakers == {"": 1, "Ann": 2, "Bo": 2}
    assert counted.streams == {"audio-video": 3, "video only": 1, "sound only": 1}
    assert counted.sound == {"separate file": 2, "own track": 1, "none": 1}
    assert str(counted).splitlines() == [
        "5 clips: audio-video 3, video only 1, sound only 1",
        "classes: joy 3, fear 2, awe 0",
        "2 speakers: Ann 2, Bo 2",
        "sound of videos: separate file 2, own track 1, none 1",
        "note: all is well",
    ]
    many = counted._replace(speakers={f"{i:02d}": 1 for i in range(14)})
    assert "14 speakers: 00 1, 01 1," in str(many) and "11 1, 2 more\n" in str(many)


def test_what_a_source_holds_is_told_before_work_begins(tmp_path, capsys):
    name = "01-03-01-02-01-05"
    write_video(tmp_path / f"source/Actor_05/01-{name}.mp4", 8)
    write_sound(tmp_path / f"source/03-{name}.wav", tone(0.5))
    (tmp_path / f"source/03-02{name[2:]}.wav").touch()
    told = []

    def make_detector():
        told.append(capsys.readouterr().out)
        return WholeFrame()

    summary = prepare(tmp_path / "source", tmp_path / "D", SETTINGS, make_detector=make_detector)
    (text,) = told
    assert "1 clip: audio-video 1\n" in text
    assert "happy 1" in text and "sound of videos: separate file 1\n" in text
    assert "note: 1 song is left out; --songs takes songs too\n" in text
    stored = json.loads((tmp_path / "D" / command.SUMMARY_FILE).read_text())["inventory"]
    assert stored == summary.inventory
    assert stored["classes"]["happy"] == 1 and stored["speakers"] == {"05": 1}
    assert stored["sound"] == {"separate file": 1}


@pytest.mark.parametrize(("size", "near"), [(100, 96), (32, 64), (1, 64), (225, 224)])
def test_frames_that_no_network_takes_are_refused(tmp_path, size, near):
    message = rf"image_size={size} pixels; .* multiple of 32 from 64 on, such as {near}$"
    with pytest.raises(InputError, match=message):
        prepare(tmp_path, tmp_path / "DATA", SETTINGS._replace(image_size=size))


def test_songs_are_no_matter_of_a_manifest(tmp_path, capsys):
    flags = [f"--out={tmp_path / 'DATA'}", f"--manifest={tmp_path / 'x.csv'}", "--songs"]
    assert command.main(["prepare", *flags]) == 1
    assert "--songs chooses RAVDESS clips" in capsys.readouterr().err


def test_captions_show_the_end_of_a_name():
    assert fitting_end("01-01-03-01-02-01-05") == "01-01-03-01-02-01-05"
    end = fitting_end("interviews of the second week/Zoë Müller@12.5-17")
    assert end.startswith("...") and end.endswith("Zoe Muller@12.5-17")
    assert fitting_end("") == ""


def test_names_that_a_terminal_cannot_show(root_dir, tmp_path):
    source = tmp_path / "Zoë"
    source.mkdir()
    (source / "holiday \udcff.mp4").touch()  # no UTF-8, and no RAVDESS name
    (source / "03-01-03-01-02-01-05.wav").write_bytes(b"RIFF")
    result = subprocess.run(
        [sys.executable, "-m", "avjax.prepare", f"--source={source}", f"--out={tmp_path / 'D'}"],
        cwd=root_dir,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 1
    told = result.stdout.decode("ascii")
    assert "1 clip: sound only 1\n" in told
    assert "Zo\\xeb/holiday \\udcff.mp4\n" in told
    error = result.stderr.decode("ascii").splitlines()[-1]
    assert error.startswith("error: no clip could") and "Zo\\xeb/03-01" in error
