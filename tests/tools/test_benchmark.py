"""The benchmark: what it measures with and what it makes of figures. Nothing here is timed."""

import json

import pytest
from benchmarks import prepare as subject

from tests.clips import WholeFrame, tone, write_video
from tools import benchmark


def run(*arguments):
    return benchmark.main(["benchmark", *map(str, arguments)])


def test_one_measurement_prepares_twice_and_decodes(tmp_path, monkeypatch, capsys):
    for number in (3, 4):
        path = tmp_path / "Actor_07" / f"01-01-0{number}-01-01-01-07.mp4"
        write_video(path, 4, sound=tone(0.3))
    detector = WholeFrame()
    monkeypatch.setattr(subject.faces, "default_detector", lambda: detector)
    assert run("prepare", f"--source={tmp_path}", "--once", "--threads=1") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["what"] for line in told] == ["cold", "warm", "decoding"]
    assert set(told[1]["stages"]) == {"sound", "decode", "detect", "crop", "write"}
    assert detector.calls == 4  # two clips, cold and warm


def test_figures_are_medians_of_rounds(capsys):
    def found(warm, decoding, cold):
        return {
            "warm": {"seconds": warm, "cpu": 4.0, "stages": {"decode": 2.0, "crop": 1.0}},
            "decoding": {"seconds": decoding, "cpu": 2.0},
            "cold": {"since_start": cold},
        }

    ours = [found(2.0, 1.0, 8.0), found(90.0, 90.0, 90.0), found(1.0, 0.5, 4.0)]
    theirs = [{"seconds": s, "cpu": 40.0} for s in (20.0, 12.0, 70.0)]
    subject._print(8, 2, ours, theirs)
    text = capsys.readouterr().out
    assert "avjax       4.000 clips/s (0.089 to 8.000), 0.50 processor seconds a clip" in text
    assert "1.000 clips/s from a cold start" in text
    assert "avjax takes 2.00 times as long" in text
    assert "decode 0.250, crop 0.125" in text
    assert "reference   0.400 clips/s" in text
    assert "avjax is 10.0 times as fast" in text


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 0, "Subjects: prepare"),
        (["knitting"], 2, "Subjects: prepare"),
        (["prepare"], 1, "give --source"),
        (["prepare", "--source=gone"], 1, "there is no folder gone"),
    ],
)
def test_wrong_arguments(capsys, arguments, status, message):
    assert run(*arguments) == status
    captured = capsys.readouterr()
    assert message in captured.out + captured.err
