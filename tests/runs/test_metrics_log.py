"""The log of a run's metrics, also without the history in a checkpoint; no import of PyTorch."""

import contextlib
import errno
import json
import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avjax.errors import InputError
from avjax.runs.metrics_log import MetricsLog, best_epoch, read_metrics

PROGRAM = """
import sys
from pathlib import Path
import avjax.train
from avjax.runs.metrics_log import MetricsLog

assert "torch" not in sys.modules
with MetricsLog(Path("run"), 1) as log:
    log.end_epoch({"epoch": 1, "split": "train", "step": 1, "loss": 0.5})
assert "torch" not in sys.modules
import torch  # still possible afterwards
"""


def test_installed_torch_is_not_imported(root_dir, tmp_path):
    package = tmp_path / "packages" / "torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("print('torch was imported')\n")
    (tmp_path / "run").mkdir()
    path = os.pathsep.join([str(tmp_path / "packages"), str(root_dir)])
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout == "torch was imported\n"  # only by the last line
    assert list((tmp_path / "run").glob("events.out.tfevents.*"))


LINES = [
    {"epoch": epoch, "split": split, "step": 2 * epoch, "accuracy": 0.5}
    for epoch in (1, 2)
    for split in ("train", "validation")
]


def test_events_hold_every_figure(tmp_path):
    from tensorboardX.proto.event_pb2 import Event

    with MetricsLog(tmp_path, 1) as log:
        log.end_epoch({"epoch": 1, "split": "train", "step": 3, "loss": 0.5, "accuracy": 0.25})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    content, events = path.read_bytes(), []
    while content:  # length, its checksum, the event, its checksum
        (size,) = struct.unpack("Q", content[:8])
        events.append(Event.FromString(content[12 : 12 + size]))
        content = content[16 + size :]
    scalars = [(e.step, v.tag, v.simple_value) for e in events for v in e.summary.value]
    assert scalars == [(3, "train/loss", 0.5), (3, "train/accuracy", 0.25)]


def test_log_of_a_finished_run_adds_no_event_file(tmp_path):
    write(tmp_path, LINES)
    assert open_log(tmp_path, 3) == LINES
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_event_file_on_a_full_disk_is_an_error_that_names_the_run(tmp_path, monkeypatch):
    """tensorboardX's own writer would wait forever."""

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with MetricsLog(tmp_path, 1) as log:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as error:
            log.end_epoch()
        monkeypatch.undo()
    assert error.value.filename == str(tmp_path)


def open_log(workdir, first_epoch, lines=None):
    with MetricsLog(workdir, first_epoch, lines=lines) as log:
        return log.lines


def write(workdir, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)


def test_lines_of_repeated_epochs_are_dropped(tmp_path):
    write(tmp_path, LINES)
    assert open_log(tmp_path, 2) == LINES[:2] == read_metrics(tmp_path)


def test_last_line_that_was_cut_is_dropped(tmp_path):
    write(tmp_path, LINES[:2])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "spl')
    assert open_log(tmp_path, 2) == LINES[:2]


@pytest.mark.parametrize("lost", [0, 1, 2, 3])
def test_lacking_line_is_refused(tmp_path, lost):
    write(tmp_path, LINES[:lost] + LINES[lost + 1 :])
    with pytest.raises(InputError, match=r"metrics\.jsonl lacks lines of epochs before 3"):
        open_log(tmp_path, 3)


@pytest.mark.parametrize("text", ["x\n", "[1]\n", '{"epoch": "1"}\n', "1\n{}\n"])
def test_damaged_line_is_refused(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(InputError, match=r"metrics\.jsonl is damaged in line 1"):
        open_log(tmp_path, 3)


def test_lost_file_is_told(tmp_path, capsys):
    assert open_log(tmp_path, 3) == []
    assert "metrics.jsonl is lost" in capsys.readouterr().err


def test_lines_of_the_checkpoint_replace_the_file(tmp_path, capsys):
    write(tmp_path, LINES[1:])
    assert open_log(tmp_path, 2, LINES[:2]) == LINES[:2] == read_metrics(tmp_path)
    assert "was damaged" in capsys.readouterr().err


LINE = st.fixed_dictionaries(
    {"epoch": st.integers(), "split": st.sampled_from(["train", "validation"])},
    optional={
        "step": st.integers() | st.none(),
        "accuracy": st.floats(0, 1) | st.text(),
        "loss": st.floats(allow_nan=False) | st.lists(st.integers()),
    },
)


@given(st.lists(LINE.map(json.dumps) | st.text()))
def test_any_log_is_read_whole_or_refused(tmp_path_factory, lines):
    folder = tmp_path_factory.mktemp("log")
    (folder / "metrics.jsonl").write_text("\n".join(lines), "utf-8")
    with contextlib.suppress(InputError):
        assert best_epoch(read_metrics(folder))[1] <= 1
