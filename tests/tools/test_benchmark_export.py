"""The benchmark of exported programs. Nothing here is timed."""

import json
from importlib.util import find_spec

import pytest
from benchmarks import export as subject

from tools import benchmark


def once(capsys, **setting):
    """Runs one side of the benchmark on the carried model; returns its line of JSON."""
    setting = {"checkpoint": "voice", "batch": 2, "calls": 3, "threads": 1, **setting}
    assert benchmark.main(["benchmark", "export", f"--once={json.dumps(setting)}"]) == 0
    return json.loads(capsys.readouterr().out)


def test_sides_are_timed_by_call(tmp_path, capsys):
    program = str(subject.export_model("voice", tmp_path))
    for kind, path in (("avjax", "voice"), ("stablehlo", program)):
        result = once(capsys, kind=kind, program=path)
        assert len(result["seconds"]) == 3
        assert min(result["seconds"]) > 0
        assert result["memory"] > 1e8


@pytest.mark.parametrize("installed", [True, False])
def test_sides_alternate_and_onnx_may_be_missing(monkeypatch, capsys, installed):
    order = []
    found = {name: installed for name in subject.ONNX_PACKAGES}
    monkeypatch.setattr(
        subject.importlib.util, "find_spec", lambda name: found.get(name) or find_spec(name)
    )
    monkeypatch.setattr(subject, "export_model", lambda *arguments: arguments[-1])
    monkeypatch.setattr(subject.sides, "bind", lambda threads: None)

    def measure(side):
        order.append(side.name)
        return {"seconds": [1.0 + len(side.name)], "memory": 1e9}

    monkeypatch.setattr(subject.sides, "measure", measure)
    arguments = ["--checkpoint=voice", "--rounds=2", "--batch=4"]
    assert benchmark.main(["benchmark", "export", *arguments]) == 0
    names = ["avjax", "stablehlo", *(["onnx"] if installed else [])]
    assert order == [*names, *reversed(names)]
    output = capsys.readouterr().out
    row = next(line for line in output.splitlines() if line.startswith("stablehlo"))
    assert " ".join(row.split()) == "stablehlo 10.000 10.000 to 10.000 0.40 1.00 1.67x 1.00x"
    assert ("onnx: not measured" in output) != installed
