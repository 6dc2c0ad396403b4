"""What a training shows: lines in a log, a bar on a terminal, time left."""

import io

import pytest

from avjax.runs import display
from avjax.runs.display import Display
from avjax.runtime.progress import duration
from avjax.training import metrics


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def figures(loss, accuracy):
    return {"loss": loss, "accuracy": accuracy, "seconds": 30.0}


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(display.time, "monotonic", lambda: now[0])
    return now


def test_an_epoch_is_a_line_with_the_time_left(clock, capsys):
    """Compiling does not count; nor does the first epoch, once there are others."""
    with Display("training x", 12, 9, 120, 80) as shown:
        for steps, end in ((900.0, 1000.0), (1020.0, 1060.0), (1100.0, 1120.0), (1130.0, 1180.0)):
            clock[0] = steps
            shown.step(10, metrics.zeros(2))
            clock[0] = end
            shown.validated(figures(1.5, 0.25), figures(2.0, 0.125), best=end == 1000.0)
            shown.end_epoch()
    scores = "train loss 1.500, accuracy 25.0%; validation loss 2.000, accuracy 12.5%"
    assert capsys.readouterr().err.splitlines() == [
        "training x",
        f"epoch  9/12: {scores} (best so far); 30 s, 5 min left",
        f"epoch 10/12: {scores}; 30 s, 2 min left",
        f"epoch 11/12: {scores}; 30 s, 1 min left",
        f"epoch 12/12: {scores}; 30 s",
    ]


def test_several_runs_share_a_line(capsys):
    with Display("training two", 3, 3, 20, 0) as shown:
        shown.validated(figures(1.0, 0.5), figures(2.0, 0.25), best=True)
        shown.validated(figures(3.0, 1.0), figures(2.5, 0.75), best=False)
        shown.end_epoch()
    assert capsys.readouterr().err.splitlines()[1:] == [
        "epoch 3/3: means of 2 runs: train loss 2.000, accuracy 75.0%; "
        "validation loss 2.250, accuracy 50.0%; 30 s"
    ]


def test_a_finished_run_shows_nothing(capsys):
    with Display("training x", 3, 4, 30, 30):
        pass
    assert capsys.readouterr().err == ""


def test_a_terminal_keeps_the_lines_and_loses_the_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Display("training x", 1, 1, 10, 0) as shown:
        shown.step(10, metrics.zeros(2))
        shown.validated(figures(1.0, 0.5), figures(2.0, 0.25), best=True)
        shown.end_epoch()
    text = terminal.getvalue()
    assert "training x\n" in text and "10/10" in text
    assert "\repoch 1/1: train loss" in text and text.rstrip(" ").endswith("\r")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (29.6, "30 s"), (90, "2 min"), (3599, "1 h 0 min"), (7500, "2 h 5 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
