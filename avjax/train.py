"""Trains one run from a config; resumes it where it stopped."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("train"))

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Int

from avjax.config import RunConfig, check_resumable
from avjax.data.feed import Feed
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.errors import InputError
from avjax.evaluate import calibrate_run, evaluate_run
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.runs.display import Display, banner
from avjax.runs.pretrained import initial_variables
from avjax.runs.run_folder import RunFolder, run_lock
from avjax.runs.saved_model import ModelCard
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel, make_parallel
from avjax.runtime.signals import StopRequest
from avjax.runtime.versions import versions
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.loop import Progress, TrainingLoop
from avjax.training.step import create_state, train_step


def train(config: RunConfig, workdir: str | Path) -> dict[str, Any]:
    """Trains, validates after every epoch, then calibrates and tests the best epoch.

    With several processes, all must call it; only the first reads and writes the run's folder.

    Args:
      config: the run's config; see `configs/common.py`.
      workdir: the run's folder; an existing run is resumed.

    Returns:
      The evaluation on the test split, as written to ``evaluation.json``; see
      `avjax.evaluate.evaluate_checkpoint`.

    Raises:
      InputError: unsuitable data, a workdir of another config or that another process uses, or
        numbers that are not finite.
      KeyboardInterrupt: stopped by a signal, between two steps; the same call resumes.
    """
    workdir = Path(workdir)
    setup = build(config)
    with run_lock(workdir):
        multihost.from_first(lambda: check_resumable(config, workdir))
        evaluator = Evaluator(setup.net, setup.profile, setup.parallel)
        _train(setup, workdir, evaluator)
        calibrate_run(workdir, setup.clips["validation"], evaluator)
        return evaluate_run(workdir, evaluator=evaluator)


def _train(setup: "Setup", workdir: Path, evaluator: Evaluator) -> None:
    """Trains the remaining epochs."""
    config = setup.config
    train_clips, validation_clips = setup.clips["train"], setup.clips["validation"]
    feed = Feed([train_clips, validation_clips], config.data.cache, setup.parallel)
    step = functools.partial(
        train_step,
        net=setup.net,
        optimizer=setup.optimizer,
        config=config.step,
        profile=setup.profile,
    )
    key = jax.random.key(config.loop.seed)
    loop = TrainingLoop(step, key, feed, setup.parallel, config.loop, setup.steps_per_epoch)

    with RunFolder(workdir) as run, StopRequest() as stop:
        progress = run.restore(setup.start)
        steps_done = int(progress.state.step)
        first_epoch = setup.epoch_after(progress)
        resumed = f", from epoch {first_epoch}" if steps_done else ""
        display = Display(
            setup.banner(f"training {config.name} into {workdir}{resumed}"),
            config.loop.num_epochs,
            first_epoch,
            setup.total_clips,
            setup.clips_in(steps_done),
        )
        run.open_log(first_epoch, display)
        progress = loop.place(progress)
        for epoch in range(first_epoch, config.loop.num_epochs + 1):
            rows = setup.rows_left(feed, epoch, steps_done)
            progress, speed = loop.train_epoch(progress, rows, run, stop)
            variables = progress.state.variables
            scores = evaluator.undisturbed(variables, validation_clips, feed, stop)
            if scores is None:
                state = setup.parallel.single(progress.state)
                multihost.from_first(functools.partial(run.save, Progress(state, progress.sums)))
                raise KeyboardInterrupt
            progress = setup.end_epoch(run, epoch, progress, speed, scores)
            display.end_epoch()
            multihost.stop_if_any(stop.requested)


class Setup(NamedTuple):
    """The objects that a config describes, and the initial state.

    Attributes:
      config: the run's config.
      dataset: the prepared dataset.
      clips: the selected clips by split.
      net: the network.
      parallel: the devices.
      schedule: the learning rate schedule.
      optimizer: the optimizer with that schedule.
      start: the state before the first step.
    """

    config: RunConfig
    dataset: PreparedDataset
    clips: dict[str, Clips]
    net: Network
    parallel: Parallel
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    start: Progress

    @property
    def profile(self) -> str:
        """Preparation profile of the clips."""
        return self.dataset.metadata.profile

    @property
    def steps_per_epoch(self) -> int:
        """Steps per epoch; the last batch may be smaller."""
        return self.clips["train"].num_batches(self.config.loop.batch_size)

    def banner(self, title: str) -> str:
        """Describes the run below a title."""
        tree, params = self.config.to_tree(), self.start.state.params
        return banner(title, tree, self.dataset, self.clips, params, self.parallel)

    @property
    def total_clips(self) -> int:
        """Number of training clips over all epochs."""
        return self.config.loop.num_epochs * len(self.clips["train"])

    def epoch_after(self, progress: Progress) -> int:
        """Returns the epoch, from 1, to go on with.

        It is that of the next step, or the one before if a stop left it without its validation.
        """
        epochs, steps = divmod(int(progress.state.step), self.steps_per_epoch)
        lacks_validation = epochs > 0 and not steps and bool(progress.sums.count)
        return epochs if lacks_validation else epochs + 1

    def clips_in(self, steps: int) -> int:
        """Returns the number of clips in the first ``steps`` steps."""
        epochs, steps = divmod(steps, self.steps_per_epoch)
        return epochs * len(self.clips["train"]) + steps * self.config.loop.batch_size

    def rows_left(self, feed: Feed, epoch: int, steps: int) -> Int[np.ndarray, "steps b"]:
        """Returns the clips of an epoch's batches after the run's first ``steps`` steps."""
        loop = self.config.loop
        rows = feed.rows(self.clips["train"], loop.batch_size, shuffle_key=loop.seed, epoch=epoch)
        return rows[max(0, steps - (epoch - 1) * self.steps_per_epoch) :]

    def end_epoch(
        self,
        run: RunFolder,
        epoch: int,
        progress: Progress,
        speed: dict[str, float],
        scores: dict[str, float],
    ) -> Progress:
        """Saves and logs an epoch; returns the progress at the start of the next."""
        steps = epoch * self.steps_per_epoch
        train_scores = {
            "epoch": epoch,
            "split": "train",
            "step": steps,
            "learning_rate": float(self.schedule(steps - 1)),
            **speed,
            **metrics.summarise(progress.sums),
        }
        sums = metrics.zeros(self.net.num_classes)
        saved = Progress(self.parallel.single(progress.state), sums)
        run.end_epoch(saved, train_scores, scores, self._card(epoch, scores))
        return Progress(progress.state, sums)

    def _card(self, epoch: int, scores: dict[str, float]) -> ModelCard:
        """Returns the card of an epoch's model."""
        data = self.dataset.metadata
        return ModelCard(
            network=self.config.model.describe(self.net.num_classes),
            classes=list(data.classes),
            profile=data.profile,
            num_frames=data.num_frames if "video" in self.net.inputs.streams else 0,
            image_size=data.image_size,
            audio_steps=data.audio_steps,
            seconds=data.seconds,
            epoch=epoch,
            metrics=scores,
            versions=versions(),
        )


@multihost.all_or_none()
def build(config: RunConfig, dataset: PreparedDataset | None = None) -> Setup:
    """Builds what a config describes, and checks it against data and devices.

    Args:
      config: the run's config.
      dataset: the config's dataset, if already open.

    Raises:
      InputError: data or devices that do not suit the config.
    """
    dataset = dataset or open_dataset(config.data.dir)
    net = build_network(config.model.describe(len(dataset.metadata.classes)))
    clips = select_clips(config, dataset, net)
    parallel = make_parallel(config.parallel, config.loop.batch_size)
    variables = initial_variables(
        net, config.loop.seed, config.model.pretrained, dataset.metadata.profile
    )
    steps_per_epoch = clips["train"].num_batches(config.loop.batch_size)
    schedule = config.optimizer.schedule(config.loop.num_epochs, steps_per_epoch)
    optimizer = config.optimizer.optimizer(schedule, net.trained(variables["params"]))
    state = jax.device_get(create_state(variables, optimizer))
    start = Progress(state, metrics.zeros(net.num_classes))
    return Setup(config, dataset, clips, net, parallel, schedule, optimizer, start)


def select_clips(config: RunConfig, dataset: PreparedDataset, net: Network) -> dict[str, Clips]:
    """Returns the clips that the network can use, by split.

    Raises:
      InputError: a split without such clips, or a network that reads video on sound alone.
    """
    if "video" in net.inputs.streams and not dataset.metadata.num_frames:
        raise InputError(
            f"{dataset.directory} holds sound only; train --config audio_only on it, or prepare "
            "videos"
        )
    return {
        split: dataset.select(
            split_filter, net.inputs, split=split, video_only=config.data.video_only
        )
        for split, split_filter in resolve_fold(config.data.fold).items()
    }


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.train`."""
    return commands.run("train", argv)
