"""Trains several runs, which differ only in fold and seed, as one vmapped program.

Each run's folder has its own checkpoints, as if trained alone, and can be resumed either way. Runs
that are ahead idle until the others have caught up.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from avjax.config import RunConfig, check_resumable
from avjax.data.feed import Feed
from avjax.data.pipeline import PreparedDataset, open_dataset
from avjax.errors import InputError
from avjax.evaluate import calibrate_run, evaluate_run
from avjax.runs.display import Display
from avjax.runs.run_folder import RunFolder, run_lock
from avjax.runtime.signals import StopRequest
from avjax.train import Setup, build
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.loop import Progress, TrainingLoop
from avjax.training.step import Sums
from avjax.training.vmapped import Runs, stack, unstack, vmapped_step


def train_vmapped(configs: Mapping[Path, RunConfig]) -> None:
    """Trains, validates and evaluates runs that differ only in fold and seed.

    Args:
      configs: each run's config, by its folder; existing runs are resumed.

    Raises:
      InputError: as `avjax.train.train`, or with several processes or pmap.
    """
    if not configs:
        return
    dataset = open_dataset(next(iter(configs.values())).data.dir)
    setups = {workdir: _build(config, dataset) for workdir, config in configs.items()}
    first = next(iter(setups.values()))
    evaluator = Evaluator(first.net, first.profile, first.parallel)
    with contextlib.ExitStack() as locks:
        for workdir in configs:
            locks.enter_context(run_lock(workdir))
        with contextlib.ExitStack() as exit_stack:
            runs = [_open(setup, workdir, exit_stack) for workdir, setup in setups.items()]
            num_epochs = runs[0].setup.config.loop.num_epochs
            # With the finished runs, which idle: fewer runs are another program, which rounds
            # differently.
            if any(run.first_epoch <= num_epochs for run in runs):
                _train(runs, evaluator)
        for workdir, setup in setups.items():
            calibrate_run(workdir, setup.clips["validation"], evaluator)
            evaluate_run(workdir, evaluator=evaluator)


class _Run(NamedTuple):
    """One of the runs, with its restored progress."""

    setup: Setup
    folder: RunFolder
    progress: Progress

    @property
    def steps_done(self) -> int:
        return int(self.progress.state.step)

    @property
    def first_epoch(self) -> int:
        return self.setup.epoch_after(self.progress)


def _build(config: RunConfig, dataset: PreparedDataset) -> Setup:
    """Builds a run."""
    setup = build(config, dataset)
    if "device" not in setup.parallel.caches:
        raise InputError(
            f"--together needs config.parallel='jit' in a single process, not "
            f"{config.parallel!r}; leave --together out"
        )
    return setup


def _open(setup: Setup, workdir: Path, exit_stack: contextlib.ExitStack) -> _Run:
    """Restores a run."""
    check_resumable(setup.config, workdir)
    folder = exit_stack.enter_context(RunFolder(workdir))
    return _Run(setup, folder, folder.restore(setup.start))


class _Folders:
    """Observer that shows the progress of all runs and saves each state in its run's folder."""

    def __init__(self, runs: Sequence[_Run], display: Display) -> None:
        self._runs, self._display = runs, display

    def step(self, clips: int, sums: Sums) -> None:
        """Shows the clips and sums of all runs."""
        self._display.step(clips, jax.tree.map(lambda x: x.sum(0), sums))

    def save(self, progress: Progress) -> None:
        """Saves the runs within an epoch; at its end a run is saved with its validation."""
        for number, run in enumerate(self._runs):
            if int(progress.state.step[number]) % run.setup.steps_per_epoch:
                run.folder.save(_part(progress, number))

    def save_without_validation(self, progress: Progress, first: int, epoch: int) -> None:
        """Saves the runs from ``first`` on that trained in an epoch, which was stopped at its end.

        Resumed, they are validated.
        """
        for number, run in enumerate(self._runs):
            if number >= first and epoch >= run.first_epoch:
                part = _part(progress, number)
                state = run.setup.parallel.single(part.state)
                run.folder.save(Progress(state, part.sums))


def _train(runs: Sequence[_Run], evaluator: Evaluator) -> None:
    """Trains epoch by epoch; validates and saves each run on its own."""
    setup = runs[0].setup
    selections = [run.setup.clips[name] for run in runs for name in ("train", "validation")]
    feed = Feed(selections, setup.config.data.cache, setup.parallel)
    loop = _loop(runs, feed)
    display = _display(runs)
    folders = _Folders(runs, display)
    progress = loop.place(
        Progress(
            stack([run.progress.state for run in runs]),
            _stacked([run.progress.sums for run in runs]),
        )
    )
    with StopRequest() as stop:
        first = min(run.first_epoch for run in runs)
        for epoch in range(first, setup.config.loop.num_epochs + 1):
            rows = _rows(runs, feed, epoch)
            progress, speed = loop.train_epoch(progress, rows, folders, stop)
            for number, run in enumerate(runs):
                if epoch >= run.first_epoch:
                    part, clips = _part(progress, number), run.setup.clips["validation"]
                    num_clips = int((rows[..., number] >= 0).sum())
                    run_speed = {**speed, "clips_per_second": num_clips / speed["seconds"]}
                    scores = evaluator.undisturbed(part.state.variables, clips, feed, stop)
                    if scores is None:
                        folders.save_without_validation(progress, number, epoch)
                        raise KeyboardInterrupt
                    run.setup.end_epoch(run.folder, epoch, part, run_speed, scores)
            display.end_epoch()
            progress = Progress(progress.state, _next_sums(runs, epoch))
            if stop.requested:
                raise KeyboardInterrupt


def _display(runs: Sequence[_Run]) -> Display:
    """Describes the first run, opens all logs and shows the progress of all runs."""
    first = runs[0].setup
    title = f"training {len(runs)} runs of {first.config.name} as one program, the first of them:"
    first_epoch = min(run.first_epoch for run in runs)
    total = sum(run.setup.total_clips for run in runs)
    done = sum(run.setup.clips_in(run.steps_done) for run in runs)
    text, num_epochs = first.banner(title), first.config.loop.num_epochs
    display = Display(text, num_epochs, first_epoch, total, done)
    for run in runs:
        run.folder.open_log(run.first_epoch, display)
    return display


def _loop(runs: Sequence[_Run], feed: Feed) -> TrainingLoop:
    """Builds the training loop of all runs."""
    setup = runs[0].setup
    optimizer, loop = setup.config.optimizer, setup.config.loop
    lengths = sorted({run.setup.steps_per_epoch for run in runs})
    step = functools.partial(
        vmapped_step,
        net=setup.net,
        optimizer=functools.partial(
            optimizer.optimizer, trained=setup.net.trained(setup.start.state.params)
        ),
        schedules=[optimizer.schedule(loop.num_epochs, length) for length in lengths],
        config=setup.config.step,
        profile=setup.profile,
    )
    keys = stack([jax.random.key(run.setup.config.loop.seed) for run in runs])
    schedules = jnp.array([lengths.index(run.setup.steps_per_epoch) for run in runs])
    return TrainingLoop(step, Runs(keys, schedules), feed, setup.parallel, loop, lengths[-1])


def _rows(runs: Sequence[_Run], feed: Feed, epoch: int) -> Int[np.ndarray, "steps b m"]:
    """Returns the clips of each run's batches, padded to the longest run."""
    unpadded = [run.setup.rows_left(feed, epoch, run.steps_done) for run in runs]
    longest = max(len(rows) for rows in unpadded)
    return np.stack(
        [np.pad(rows, ((0, longest - len(rows)), (0, 0)), constant_values=-1) for rows in unpadded],
        axis=2,
    )


def _next_sums(runs: Sequence[_Run], epoch: int) -> Sums:
    """Returns the sums to start the next epoch with: zeros, except for runs that are ahead."""
    zeros = metrics.zeros(runs[0].setup.net.num_classes)
    return _stacked([run.progress.sums if run.first_epoch > epoch else zeros for run in runs])


def _part(progress: Progress, number: int) -> Progress:
    """Returns one run's part."""
    sums = jax.tree.map(lambda x: x[number], progress.sums)
    return Progress(unstack(progress.state, number), sums)


def _stacked(sums: Sequence[Sums]) -> Sums:
    """Stacks the sums of all runs, on the host in float64."""
    return jax.tree.map(lambda *x: np.stack([np.asarray(a, np.float64) for a in x]), *sums)
