"""`avjax compare` and `avjax report`, on run folders written by hand."""

import json
import re

import pytest

from avjax import compare, report
from avjax.compare import compare_runs, paired_tests, table
from avjax.errors import InputError
from avjax.runs.report.comparison import Run

BOTH, SOUND = "audiovisual", "audio_only/zeros"


def write_run(folder, hits, **changes):
    """Writes a run whose clips are right under both conditions where ``hits`` has a 1."""
    folder.mkdir()
    lines = [
        {"split": split, "epoch": e, "step": e, "loss": 1.0 / e, "accuracy": 0.2 * e}
        for e in (1, 2)
        for split in ("train", "validation")
    ]
    clips = {}
    for number, hit in enumerate(hits):
        answer = "high" if hit == "1" else "low"
        predicted = {BOTH: answer, SOUND: "high"}
        raw = [0.1, 0.9] if hit == "1" else [0.9, 0.1]
        clip = {"speaker": "1", "truth": "high", "predicted": predicted}
        clips[f"clip-{number}"] = clip | {"probabilities": {BOTH: raw}}
    accuracy = hits.count("1") / len(hits)
    figures = {"macro_f1": 0.5, "loss": 1.0, "calibration_error": 0.1}
    evaluation = {
        "split": "test",
        "num_clips": len(hits),
        "classes": ["low", "high"],
        "temperatures": {},
        "conditions": {
            BOTH: {"accuracy": accuracy, "confusion": [[0, 0], [1, 1]], **figures},
            SOUND: {"accuracy": 1.0, "confusion": [[0, 0], [0, 2]], **figures},
        },
        "actors": {"1": {"num_clips": len(hits), "accuracy": accuracy}},
        "clips": clips,
    }
    (folder / "config.json").write_text(json.dumps({"name": "run", "seed": 1} | changes))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    return folder


@pytest.fixture
def folders(tmp_path):
    first = write_run(tmp_path / "first", "1110000000")
    return first, write_run(tmp_path / "second", "0111111111", seed=2)


def test_runs_are_tested_clip_by_clip(folders, tmp_path):
    runs, tests = compare_runs(folders, tmp_path / "out" / "page.html")
    first, second = map(str, folders)
    assert list(runs) == [first, second]
    both, sound = tests
    assert both == (first, second, BOTH, 10, 1, 7, 18 / 256)  # 2 (1 + 8) / 2^8
    assert both.difference == pytest.approx(0.6)
    assert sound == (first, second, SOUND, 10, 0, 0, 1.0)
    page = (tmp_path / "out" / "page.html").read_text()
    assert f"<td>{BOTH}</td><td>10</td><td>+60.0</td><td>1</td><td>7</td><td>0.070</td>" in page
    assert "<td>seed</td><td>1</td><td>2</td>" in page
    assert page.count("<svg") == 3
    assert not re.search(r"https?://(?!www\.w3\.org)|<script|url\((?!#)", page)


def test_only_clips_that_count_in_both_are_tested():
    def run(answers):
        clips = {
            name: {"truth": "high", "predicted": {BOTH: answer}, "probabilities": {}}
            for name, answer in answers.items()
        }
        clips["silent"] = {"truth": "high", "predicted": {}, "probabilities": {}}
        return Run({}, [], {"conditions": {BOTH: {}, SOUND: {}}, "clips": clips})

    (test,) = paired_tests("a", run({"x": "low", "y": "low"}), "b", run({"x": "high", "y": "low"}))
    assert (test.condition, test.num_clips, test.only_first, test.only_second) == (BOTH, 2, 0, 1)


def test_command_prints_a_table(folders, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert compare.main(["compare", *map(str, folders), f"--out={out}"]) == 0
    printed = capsys.readouterr().out
    assert re.search(rf"{BOTH} +30.0% +90.0%\n{SOUND} +100.0% +100.0%", printed)
    header, both, sound = printed.splitlines()[-4:-1]
    first, second = folders
    assert header.split() == ["condition", "points", "only", str(second), "only", str(first), "p"]
    assert re.match(rf"{BOTH} +\+60.0 +7 +1 +0.070", both)
    assert len(header) == len(both) == len(sound)
    assert printed == f"{table(*compare_runs(folders, out))}\npage: {out}\n"


def test_runs_that_cannot_be_compared_are_refused(folders, tmp_path, capsys):
    first = str(folders[0])
    other = write_run(tmp_path / "other", "11")
    content = json.loads((other / "evaluation.json").read_text())
    relabelled = write_run(tmp_path / "relabelled", "1110000000")
    text = (relabelled / "evaluation.json").read_text()
    (relabelled / "evaluation.json").write_text(text.replace('"truth": "high"', '"truth": "low"'))
    old = write_run(tmp_path / "old", "11")
    (old / "evaluation.json").write_text(json.dumps({**content, "clips": {}}))
    for runs, message in (
        ([first], "a comparison needs two different runs or more"),
        ([first, first], "a comparison needs two different runs or more"),
        ([first, str(other)], f"{other} was tested on other clips than {first}: 8 clips, such as "),
        ([first, str(relabelled)], f"clip clip-0 is high in {first} and low in {relabelled}"),
        ([first, str(old)], f"evaluate it first: avjax evaluate --workdir {old}"),
        ([first, str(tmp_path)], f"{tmp_path} is not a run"),
    ):
        assert compare.main(["compare", *runs, f"--out={tmp_path / 'no.html'}"]) == 1
        *notes, error = capsys.readouterr().err.splitlines()
        assert message in error
        assert all(line.startswith("note: ") for line in notes)  # files without digests
    assert not (tmp_path / "no.html").exists()


def test_page_replaces_no_other_kind_of_file(folders, tmp_path, capsys):
    script = tmp_path / "s.py"
    script.write_text("1")
    assert compare.main(["compare", *map(str, folders), f"--out={script}"]) == 1
    assert f"--out={script} is no .html file" in capsys.readouterr().err
    assert script.read_text() == "1"


def test_damaged_evaluation_is_named(folders, tmp_path):
    path = folders[1] / "evaluation.json"
    content = json.loads(path.read_text())
    del content["clips"]["clip-3"]["probabilities"], content["clips"]["clip-3"]["predicted"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"second/evaluation.json is damaged \(KeyError"):
        compare_runs(folders, tmp_path / "page.html")


def test_report_command_writes_page_and_figures(folders, capsys):
    assert report.main(["report", str(folders[0]), "--figures"]) == 0
    assert report.main(["report", *map(str, folders)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"report: {folders[k]}/report.html" for k in (0, 0, 1)]
    names = {path.name for path in (folders[0] / "figures").iterdir()}
    expected = ("loss", "accuracy", "conditions", "reliability")
    expected += ("confusion-audiovisual", "confusion-audio_only-zeros")
    assert names == {f"{name}.{kind}" for name in expected for kind in ("svg", "png")}
    assert not (folders[1] / "figures").exists()
    assert "var(--" not in (folders[0] / "figures" / "loss.svg").read_text()
    assert (folders[0] / "figures" / "loss.png").read_bytes().startswith(b"\x89PNG")
    page = (folders[1] / "report.html").read_text()
    assert "<td>seed</td><td>2</td><td>1</td>" in page  # differs from the default
    assert report.main(["report"]) == 1
    assert "no run is named" in capsys.readouterr().err
