"""Predictions on screen and in files, read back; many files, one of them bad."""

import csv
import json
import threading
from pathlib import Path

import numpy as np
import pytest

from avjax.errors import InputError
from avjax.predictions.many import in_order, media_files
from avjax.predictions.outputs import check_outputs
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
    assert show([(name, expected)], [name], csv=tmp_path / "out.tsv") == 0
    with (tmp_path / "out.tsv").open(encoding="utf-8", newline="") as file:
        assert list(csv.DictReader(file, delimiter="\t")) == rows


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
    assert any("0:00.0 to   0:00.8  angry" in line for line in lines)
    assert "not judged: without audio and video" in lines[-1]


def test_ranges_meet_and_have_calibrated_probabilities():
    missing, margins = [(), (), ("video",), ("audio", "video")], [1.0, 3.0, 2.0, None]
    scored = [
        Scored(1.2 * i, 1.2 * i + 3.6, None if x is None else np.array([x, 0.0]), missing[i])
        for i, x in enumerate(margins)
    ]
    temperatures = {"both": 2.0, "audio": 4.0}
    streams = ("audio", "video")
    result = summarise(scored, [], [], classes=CLASSES, streams=streams, temperatures=temperatures)
    both = np.mean([1 / (1 + np.exp(-x / 2)) for x in (1, 3)])
    assert str(result).splitlines()[-3:] == [
        f"    0:00.0 to   0:03.6  calm        {both:6.1%}",
        f"    0:03.6 to   0:04.8  calm        {1 / (1 + np.exp(-0.5)):6.1%}  without video",
        "    0:04.8 to   0:07.2  not judged: without audio and video",
    ]


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


@pytest.mark.parametrize(
    ("inputs", "flag", "out", "overwritten"),
    [
        (["v.csv"], "csv", "v.csv", "v.csv"),
        (["v.csv"], "csv", "sub/../v.csv", "v.csv"),
        (["v.csv"], "csv", "link.csv", "v.csv"),
        (["link.csv"], "csv", "v.csv", "link.csv"),
        (["x.png", "b.mp4"], "plot", "x.png", None),
        (["a.mp4", "b.mp4", "x-a.mp4"], "annotate", "x.mp4", "x-a.mp4"),
        (["a.mp4", "x-absent.mp4", "absent.mp4"], "annotate", "x.mp4", "x-absent.mp4"),
        (["a.mp4"], "annotate", "x-a.mp4", None),
        (["a.mp4", "x.mp4.tmp"], "annotate", "x.mp4", None),
        (["x.mp4.tmp"], "annotate", "x.mp4", "x.mp4.tmp"),
    ],
)
def test_no_output_overwrites_an_input(tmp_path, inputs, flag, out, overwritten):
    for name in ("v.csv", "a.mp4", "b.mp4", "x-a.mp4", "x.png", "x.mp4.tmp"):
        (tmp_path / name).write_text(name)
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.csv").symlink_to("v.csv")
    files = [tmp_path / name for name in inputs]
    if overwritten is None:
        check_outputs(files, {flag: tmp_path / out})
        return
    with pytest.raises(InputError, match=rf"overwrite .*/{overwritten}, which is read; name"):
        check_outputs(files, {flag: tmp_path / out})


@pytest.mark.parametrize(
    ("flag", "name", "choice"),
    [
        ("csv", "v.mp4", r"\.csv or \.tsv"),
        ("annotate", "v.mov", r"\.mp4"),
        ("plot", "v", r"\.png or .* or \.jpg"),
    ],
)
def test_an_output_has_a_suffix_of_its_kind(tmp_path, flag, name, choice):
    with pytest.raises(InputError, match=rf"--{flag}=.*/{name} has another .*; choose {choice}$"):
        check_outputs([Path("a.mp4")], {flag: tmp_path / name})


@pytest.mark.parametrize("name", ["absent/x", "folder"])
@pytest.mark.parametrize(
    ("flag", "suffix"), [("csv", ".tsv"), ("plot", ".SVG"), ("annotate", ".mp4")]
)
def test_an_output_that_cannot_be_written_is_told_first(tmp_path, name, flag, suffix):
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match=rf"{name}{suffix} cannot be .*another --{flag}"):
        check_outputs([Path("a.mp4")], {flag: tmp_path / (name + suffix)})


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
