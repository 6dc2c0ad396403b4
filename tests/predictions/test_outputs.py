"""Predictions on screen and in files, read back; many files, one of them bad."""

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from avjax.errors import InputError
from avjax.predictions.many import in_order, media_files
from avjax.predictions.prediction import Prediction, Scored, summarise
from avjax.predictions.show import show
from avjax.preparation.faces import Face

CLASSES = ["calm", "angry"]
FILES = [Path("a.mp4"), Path("b.mp4")]


def prediction(temperatures=None, windows=3):
    scored = [
        Scored(0.5 * i, 0.5 * i + 1, np.array([i, 1.0], np.float32), ("audio",) if i == 2 else ())
        for i in range(windows - 1)
    ]
    scored.append(Scored(0.5 * windows, 0.5 * windows + 1, None, ("audio", "video")))
    faces = [Face(0.25, (1.0, 2.0, 3.0, 4.0)), Face(0.5, None)]
    return summarise(
        scored,
        ["deinterlaced"],
        faces,
        classes=CLASSES,
        streams=("audio", "video"),
        temperatures=temperatures or {},
    )


def outcomes(tmp_path):
    bad = InputError(f"{tmp_path / 'b.mp4'} cannot be decoded; replace the file")
    return [(tmp_path / "a.mp4", prediction()), (tmp_path / "b.mp4", bad)]


@pytest.mark.parametrize(
    ("outputs", "name"),
    [
        ({"csv": "clip.mp4"}, "clip.mp4"),
        ({"video": "clip.mp4"}, "clip-clip.mp4"),  # the name that the first clip's video gets
    ],
)
def test_no_output_replaces_a_clip(tmp_path, outputs, name):
    files = [tmp_path / "clip.mp4", tmp_path / "clip-clip.mp4"]
    for file in files:
        file.write_text("a clip")
    with pytest.raises(InputError, match=f"/{name} would replace the clip itself"):
        show(iter([]), files, **{kind: tmp_path / out for kind, out in outputs.items()})
    assert [file.read_text() for file in files] == ["a clip"] * 2


@pytest.mark.parametrize("temperatures", [{}, {"both": 2.0, "audio": 2.0, "video": 3.0}])
def test_csv_has_a_row_per_window(tmp_path, capsys, temperatures):
    expected, path = prediction(temperatures), tmp_path / "out.csv"
    name = tmp_path / 'a "quoted", named.mp4'
    assert show([(name, expected)], [name], csv=path) == 0
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    calibrated = [f"calibrated_{name}" for name in CLASSES] if temperatures else []
    assert list(rows[0]) == ["file", "start", "end", "label", *CLASSES, *calibrated, "missing"]
    assert len(rows) == 3
    for row, window in zip(rows, expected.timeline, strict=True):
        assert row["file"] == str(name)
        assert (float(row["start"]), float(row["end"])) == (window.start, window.end)
        assert row["label"] == (window.label or "")
        assert row["missing"].split() == list(window.missing)
        for key, p in window.probabilities.items():
            assert float(row[key]) == p
        for key, p in (window.calibrated or {}).items():
            assert float(row[f"calibrated_{key}"]) == p
    assert rows[-1]["calm"] == ""
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


def test_json_has_the_timeline(tmp_path, capsys):
    assert show(outcomes(tmp_path), FILES, as_json=True) == 1
    out, err = capsys.readouterr()
    (line,) = map(json.loads, out.splitlines())
    assert line.pop("clip") == str(tmp_path / "a.mp4")
    windows = line.pop("timeline")
    restored = Prediction(**line)
    assert restored.probabilities == prediction().probabilities
    assert [window["missing"] for window in windows] == [[], [], ["audio", "video"]]
    assert [window["label"] for window in windows] == ["angry", "calm", None]
    assert "error: " in err and "b.mp4 cannot be decoded" in err


def test_screen_shows_the_timeline_in_short(tmp_path, capsys):
    assert show(outcomes(tmp_path), FILES) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'a.mp4'}: angry"
    assert "  note: deinterlaced" in lines
    assert any("0:00.0 to   0:01.0  angry" in line for line in lines)
    assert "not judged: without audio and video" in lines[-1]


def test_a_long_timeline_is_cut(tmp_path):
    scored = [Scored(i, i + 1, np.array([i % 2, 0.5]), ()) for i in range(50)]
    result = summarise(scored, [], [], classes=CLASSES, streams=("audio",), temperatures={})
    assert "and 30 more; see --json, --csv or --plot" in str(result)


def test_an_interrupted_table_leaves_the_old_one(tmp_path):
    path = tmp_path / "out.csv"
    path.write_text("old")

    def interrupted():
        yield tmp_path / "a.mp4", prediction()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        show(interrupted(), FILES, csv=path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_cannot_be_written_is_told_first(tmp_path):
    with pytest.raises(InputError, match=r"absent/out\.csv cannot be written .*another --csv"):
        show(iter([]), FILES, csv=tmp_path / "absent" / "out.csv")


def test_one_bad_file_stops_no_other(tmp_path):
    def predict(path):
        if path.name == "2":
            raise InputError("2 is bad; replace it")
        return prediction()

    results = list(in_order(predict, map(str, range(6)), threading.Event()))
    assert [path.name for path, _ in results] == list("012345")
    assert [isinstance(result, Prediction) for _, result in results] == [
        *(True, True, False, True, True, True)
    ]
    with pytest.raises(ZeroDivisionError):  # a bug is no bad file
        list(in_order(lambda path: 1 / 0, ["a"], threading.Event()))


def test_files_in_hand_give_up_when_the_reader_stops():
    stop, given_up = threading.Event(), []

    def predict(path):
        if path.name != "0":
            given_up.append(stop.wait(10))
        return prediction()

    results = in_order(predict, map(str, range(20)), stop)
    next(results)
    threading.Timer(0.05, stop.set).start()
    next(results)
    results.close()
    assert all(given_up)
    assert len(given_up) < 20


def test_folders_stand_for_their_media_files(tmp_path):
    for name in ("b.MP4", "a.wav", "notes.txt", ".hidden.wav", "sub/c.mkv", "odd"):
        path = tmp_path / "clips" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    told: list[str] = []
    odd = tmp_path / "clips" / "odd"
    files = media_files([tmp_path / "clips", odd, tmp_path / "absent.mp4"], told)
    assert [file.name for file in files] == ["a.wav", "b.MP4", "c.mkv", "odd", "absent.mp4"]
    assert told == [
        f"2 other files in {tmp_path / 'clips'} left out; name a file itself to take it"
    ]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no video or sound file"):
        media_files([tmp_path / "empty"], told)
