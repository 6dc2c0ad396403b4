"""What tests of training runs share: their metrics, and stopping them as a user would."""

import contextlib
import os
import signal
from unittest import mock

import pytest

from avjax import train
from avjax.config import RunConfig
from avjax.runs.metrics_log import MetricsLog, read_metrics


def train_run(config, workdir):
    """Trains what a config file says."""
    return train.train(RunConfig.from_tree(config), workdir)


_CLOCK = ("seconds", "clips_per_second", "input_share")


def lines(workdir):
    """The metrics, without what the clock says."""
    return [{k: v for k, v in line.items() if k not in _CLOCK} for line in read_metrics(workdir)]


@contextlib.contextmanager
def stopped_at(number):
    """Ctrl-C, or its like, just before so many steps are logged; the run must end in it."""
    count, former_step = 0, MetricsLog.step

    def step_then_stop(*arguments):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGTERM)
        former_step(*arguments)

    with mock.patch.object(MetricsLog, "step", step_then_stop), pytest.raises(KeyboardInterrupt):
        yield
