"""Trains the runs of several folds and seeds at once, as one vmapped program.

Each run's folder is what training it alone leaves, and may go on either way: every model has
checkpoints of its own, and those ahead of the others idle until these have caught up.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int
from ml_collections import ConfigDict

from avjax import cli
from avjax.data.feed import Feed
from avjax.data.pipeline import PreparedDataset, open_dataset
from avjax.epochs import (
    Job,
    Progress,
    close_epoch,
    compile_step,
    rows_left,
    train_epoch,
)
from avjax.errors import InputError
from avjax.evaluate import evaluate_run
from avjax.models.networks import learned_parameters
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.metrics_log import RunLog
from avjax.runs.run_config import check_config
from avjax.train import build, make_optimizer, make_schedule
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.vmapped import Members, member, members_step, stack


class Run(NamedTuple):
    """One of the runs, as far as it has come."""

    job: Job
    progress: Progress
    checkpoints: RunCheckpoints

    @property
    def step(self) -> int:
        """Updates so far."""
        return int(self.progress.state.step)

    @property
    def first_epoch(self) -> int:
        """The epoch to go on with."""
        return self.step // self.job.steps_per_epoch + 1

    @property
    def clips(self) -> int:
        """Clips of all epochs."""
        return self.job.config.num_epochs * len(self.job.splits["train"])


def train_together(configs: Mapping[Path, ConfigDict]) -> None:
    """Trains, validates and scores runs that differ in fold and seed alone.

    Args:
      configs: of each run, by its folder; a run found there goes on.

    Raises:
      InputError: as `avjax.train.train`.
    """
    if not configs:
        return
    dataset = open_dataset(next(iter(configs.values())).data.dir)
    with contextlib.ExitStack() as opened:
        runs = [_open(config, workdir, dataset, opened) for workdir, config in configs.items()]
        left = [run for run in runs if run.first_epoch <= run.job.config.num_epochs]
        if left:
            _train_epochs(left, [_log(left, run, opened) for run in left])
    for workdir in configs:
        evaluate_run(workdir)


def _open(
    config: ConfigDict, workdir: Path, dataset: PreparedDataset, opened: contextlib.ExitStack
) -> Run:
    """A run where it stands."""
    job, start = build(config, workdir, dataset)
    if "device" not in job.parallel.caches:
        raise InputError(
            f"--together needs config.parallel='jit' in a single process, not "
            f"{config.parallel!r}; leave --together out"
        )
    check_config(workdir, config.to_dict())
    checkpoints = opened.enter_context(RunCheckpoints(workdir))
    return Run(job, checkpoints.restore(start) or start, checkpoints)


def _log(runs: Sequence[Run], run: Run, opened: contextlib.ExitStack) -> RunLog:
    """A run's own log; the first one's bar counts the clips of all."""
    first = run is runs[0]
    counted = runs if first else [run]
    total = sum(each.clips for each in counted)
    done = sum(each.job.clips_before(each.step) for each in counted)
    log = RunLog(run.job.workdir, total, run.first_epoch, done, bar=first)
    return opened.enter_context(log)


def _train_epochs(runs: Sequence[Run], logs: Sequence[RunLog]) -> None:
    """Trains epoch by epoch; ends each run's epoch as if it were alone."""
    job = runs[0].job
    feed = Feed(
        [run.job.splits[name] for run in runs for name in ("train", "validation")],
        job.config.data.cache,
        job.parallel,
    )
    step, members = _program(runs, feed)
    evaluator = Evaluator(job.net, job.recipe.profile, job.parallel)
    state = job.parallel.replicate(stack([run.progress.state for run in runs]))
    sums = _stacked([run.progress.sums for run in runs])

    def show(clips: int, epoch: int, sums: metrics.Sums) -> None:
        logs[0].step(clips, epoch, jax.tree.map(lambda x: x.sum(0), sums))

    def save(progress: Progress) -> None:
        """Those within an epoch; one at its end is saved with its validation, or trained again."""
        for number, run in enumerate(runs):
            done = int(progress.state.step[number])
            if done % run.job.steps_per_epoch:
                run.checkpoints.save(done, _part(progress, number))

    with cli.StopRequest() as stop:
        for epoch in range(min(run.first_epoch for run in runs), job.config.num_epochs + 1):
            rows = _rows(runs, feed, epoch, np.asarray(state.step))
            progress, speed = train_epoch(
                job, step, Progress(state, sums), members, feed, rows, epoch, show, save, stop
            )
            for number, run in enumerate(runs):
                if epoch >= run.first_epoch:
                    clips = int((rows[..., number] >= 0).sum())
                    own = {**speed, "clips_per_second": clips / speed["seconds"]}
                    ended = _part(progress, number)
                    args = (ended, epoch, own, evaluator, feed, run.checkpoints, logs[number])
                    close_epoch(run.job, *args)
            state, sums = progress.state, _sums_of_next(runs, epoch)
            if stop.requested:
                raise KeyboardInterrupt


def _program(runs: Sequence[Run], feed: Feed) -> tuple[Any, Members]:
    """The compiled step of all models, and what tells them apart in it."""
    job = runs[0].job
    trained = learned_parameters(runs[0].progress.state.params, job.net)
    lengths = sorted({run.job.steps_per_epoch for run in runs})
    step = functools.partial(
        members_step,
        net=job.net,
        optimizer=functools.partial(_optimizer, job.config, trained),
        schedules=[make_schedule(job.config, length) for length in lengths],
        recipe=job.recipe,
    )
    keys = stack([jax.random.key(run.job.config.seed) for run in runs])
    schedules = jnp.array([lengths.index(run.job.steps_per_epoch) for run in runs])
    return compile_step(step, job, feed), Members(keys, schedules)


def _optimizer(config: ConfigDict, trained: Any, schedule: Any) -> Any:
    return make_optimizer(config, schedule, trained)


def _rows(
    runs: Sequence[Run], feed: Feed, epoch: int, steps: Int[np.ndarray, "m"]
) -> Int[np.ndarray, "steps b m"]:
    """Which clips make each model's batches; padding where a model has none left in the epoch."""
    own = [rows_left(run.job, feed, epoch, int(n)) for run, n in zip(runs, steps, strict=True)]
    longest = max(len(left) for left in own)
    return np.stack(
        [np.pad(left, ((0, longest - len(left)), (0, 0)), constant_values=-1) for left in own],
        axis=2,
    )


def _sums_of_next(runs: Sequence[Run], epoch: int) -> metrics.Sums:
    """Sums with which the epoch after ``epoch`` begins: none, but for runs that are ahead."""
    zeros = metrics.zeros(runs[0].job.net.num_classes)
    return _stacked([run.progress.sums if run.first_epoch > epoch else zeros for run in runs])


def _part(progress: Progress, number: int) -> Progress:
    """One model's part."""
    sums = jax.tree.map(lambda x: x[number], progress.sums)
    return Progress(member(progress.state, number), sums)


def _stacked(sums: Sequence[metrics.Sums]) -> metrics.Sums:
    """The sums of all models, on the host in float64."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(a, np.float64) for a in x]), *sums)
