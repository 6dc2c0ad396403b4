"""Progress on a terminal and in a log."""

import io

import pytest

from avjax.runtime import progress


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("leave", [True, False])
def test_a_log_gets_whole_lines_in_ascii(monkeypatch, leave):
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress.progress_bar(range(3), desc="preparing", leave=leave)) == [0, 1, 2]
    text = log.getvalue()
    assert text.isascii() and "\r" not in text and "\x1b" not in text
    lines = text.split("\n")
    assert lines.pop() == "" and all(line.startswith("preparing:") for line in lines)
    assert "0/3" in lines[0] and "3/3" in lines[-1]


def test_a_log_gets_a_line_a_minute(monkeypatch):
    log, now = io.StringIO(), [0.0]
    monkeypatch.setattr("sys.stderr", log)
    bar = progress.progress_bar(total=1200)
    monkeypatch.setattr(bar, "_time", lambda: now[0])
    bar.start_t = bar.last_print_t = 0.0
    for second in range(600):
        now[0] = second
        bar.update(2)
    bar.close()
    assert 9 <= len(log.getvalue().splitlines()) <= 12
    assert "1200/1200" in log.getvalue().splitlines()[-1]


def test_a_terminal_gets_a_live_bar(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    list(progress.progress_bar(range(3)))
    assert "\r" in terminal.getvalue()


def test_two_bars_of_a_log_do_not_move_the_cursor(monkeypatch):
    log = io.StringIO()
    monkeypatch.setattr("sys.stderr", log)
    with progress.progress_bar(total=2, desc="a"), progress.progress_bar(total=2, desc="b"):
        pass
    assert {line[:2] for line in log.getvalue().splitlines()} == {"a:", "b:"}
