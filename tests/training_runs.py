"""Helpers for tests of training runs: starting, stopping, and reading metrics."""

import contextlib
import os
import signal
from unittest import mock

import pytest

from avjax import train
from avjax.config import RunConfig
from avjax.runs.display import Display
from avjax.runs.metrics_log import read_metrics


def train_run(config, workdir):
    """Trains a run from a config tree."""
    return train.train(RunConfig.from_tree(config), workdir)


_CLOCK = ("seconds", "clips_per_second", "input_share")


def lines(workdir):
    """Returns a run's metrics without times."""
    return [{k: v for k, v in line.items() if k not in _CLOCK} for line in read_metrics(workdir)]


@contextlib.contextmanager
def stopped_at(number):
    """Sends SIGTERM before call ``number`` is shown and expects the run to be interrupted."""
    count, show_step = 0, Display.step

    def step_then_stop(*arguments):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)
        show_step(*arguments)

    with mock.patch.object(Display, "step", step_then_stop), pytest.raises(KeyboardInterrupt):
        yield
