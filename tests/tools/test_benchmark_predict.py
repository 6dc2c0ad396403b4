"""The benchmark of prediction: its clips and its figures. Nothing here is timed."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest
from benchmarks import predict as subject

from avjax.errors import InputError
from tests.clips import tone, write_video
from tools import benchmark


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(subject, "WIDTH", 160)
    monkeypatch.setattr(subject, "HEIGHT", 96)


def lengths(path):
    with av.open(str(path)) as file:
        tracks = [*file.streams.video, *file.streams.audio]
        return [float(track.duration * track.time_base) for track in tracks]


def test_clip_and_talk_have_their_lengths(tmp_path):
    clip = subject.write_clip(tmp_path / "clip.mp4", 0.5)
    np.testing.assert_allclose(lengths(clip), [0.5, 0.5], atol=0.05)
    talk = subject.write_talk(tmp_path / "talk.mp4", clip, 2.2)
    np.testing.assert_allclose(lengths(talk), [2.2, 2.2], atol=0.05)


class FakeModel:
    """Predicts nothing, or fails on files of a name."""

    def __init__(self, bad=""):
        self.bad, self.predicted = bad, []

    def predict_many(self, paths, hop=None):
        for path in paths:
            self.predicted.append((path.name, hop))
            yield path, InputError("it is bad; replace it") if path.name == self.bad else None


@pytest.mark.parametrize("bad", ["", "talk.mp4"])
def test_figures_are_lines_of_json(tmp_path, monkeypatch, capsys, bad):
    model = FakeModel(bad)
    monkeypatch.setattr(subject, "Model", SimpleNamespace(load=lambda path: model))
    monkeypatch.setattr(subject.sides, "bind", lambda threads: None)
    answer = {"seconds": 4.0, "cpu": 6.0}
    monkeypatch.setattr(subject, "first_answer", lambda checkpoint, clip: answer)
    clip = write_video(tmp_path / "clip.mp4", 6, sound=tone(0.2))
    arguments = [f"--checkpoint={tmp_path}", f"--clip={clip}", "--minutes=0.02", "--threads=1"]
    status = benchmark.main(["benchmark", "predict", *arguments])
    captured = capsys.readouterr()
    lines = [json.loads(line) for line in captured.out.splitlines()]
    names = ["first answer", "each further clip", "talk"]
    assert model.predicted == [("clip.mp4", None)] * 9 + [("talk.mp4", 1.2)]
    if bad:
        assert status == 1
        assert "talk.mp4 cannot be predicted: it is bad" in captured.err
        names = names[:-1]
    assert [line["what"] for line in lines] == names
    assert lines[0]["seconds"] == 4.0
