"""The stopwatch of preparation phases."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from avjax.preparation import stopwatch
from avjax.preparation.stopwatch import Stopwatch


def test_phases_add_up_over_threads(monkeypatch):
    monkeypatch.setattr(stopwatch.time, "perf_counter", iter(range(100)).__next__)
    watch = Stopwatch()

    def work(_):
        with watch.phase("decode"):
            pass

    with ThreadPoolExecutor(1) as pool:
        list(pool.map(work, range(3)))
    with watch.phase("crop"):
        pass
    assert watch.seconds() == {"decode": 3, "crop": 1}


def test_failed_phase_is_counted(monkeypatch):
    monkeypatch.setattr(stopwatch.time, "perf_counter", iter(range(100)).__next__)
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.phase("decode"):
        raise KeyError
    assert watch.seconds() == {"decode": 1}
