"""Trains a model: ``python -m avjax.train --config configs/ia_softhard.py --workdir RUN``.

The same command again resumes, from where the run stopped.
"""

import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from absl import flags
from jaxtyping import Int
from ml_collections import config_flags

from avjax import cli
from avjax.config import RunConfig, check_resumable
from avjax.data.feed import Feed
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.errors import InputError
from avjax.evaluate import evaluate_run, table
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.runs.pretrained import initial_variables
from avjax.runs.run_folder import RunFolder
from avjax.runs.saved_model import ModelCard
from avjax.runtime import compilation, multihost
from avjax.runtime.devices import Parallel, spread
from avjax.runtime.signals import StopRequest
from avjax.runtime.versions import versions
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.loop import Progress, TrainingLoop
from avjax.training.step import create_state, train_step


def train(config: RunConfig, workdir: str | Path) -> dict[str, Any]:
    """Trains, validates after every epoch, then scores the test split with the best epoch.

    All processes must call it, where there are several; the first keeps the run's folder.

    Args:
      config: what to train, on what, how; see `configs/common.py`.
      workdir: where everything is written; a run found there is resumed.

    Returns:
      The evaluation of the test split, as written to ``evaluation.json``; see
      `avjax.evaluate.evaluate_checkpoint`.

    Raises:
      InputError: data that cannot be trained on, or a workdir of another config.
      KeyboardInterrupt: stopped by a signal, between two steps; the same call goes on from there.
    """
    workdir = Path(workdir)
    setup = build(config)
    multihost.from_first(lambda: check_resumable(config, workdir))

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
    evaluator = Evaluator(setup.net, setup.profile, setup.parallel)

    with RunFolder(workdir) as run, StopRequest() as stop:
        progress = run.restore(setup.start)
        steps_done = int(progress.state.step)
        run.open_log(setup.epoch_after(steps_done), setup.total_clips, setup.clips_in(steps_done))
        progress = loop.place(progress)
        for epoch in range(setup.epoch_after(steps_done), config.loop.num_epochs + 1):
            rows = setup.rows_left(feed, epoch, steps_done)
            progress, speed = loop.train_epoch(progress, rows, run, stop)
            scores = evaluator.undisturbed(progress.state.variables, validation_clips, feed)
            progress = setup.end_epoch(run, epoch, progress, speed, scores)
            multihost.stop_if_any(stop.requested)
    return evaluate_run(workdir)


class Setup(NamedTuple):
    """A config made real: the fixed parts of a run, and where it starts.

    Attributes:
      config: of the run.
      dataset: the clips to choose from.
      clips: the chosen ones by split.
      net: the network.
      parallel: the devices.
      schedule: the learning rate by step.
      optimizer: follows the schedule.
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
        """How the clips were prepared."""
        return self.dataset.metadata.profile

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; the last one may be of a smaller batch."""
        return self.clips["train"].num_batches(self.config.loop.batch_size)

    @property
    def total_clips(self) -> int:
        """Clips of all epochs."""
        return self.config.loop.num_epochs * len(self.clips["train"])

    def epoch_after(self, steps: int) -> int:
        """The epoch, from 1, in which training goes on after so many updates."""
        return steps // self.steps_per_epoch + 1

    def clips_in(self, steps: int) -> int:
        """Clips of the first updates."""
        epochs, rest = divmod(steps, self.steps_per_epoch)
        return epochs * len(self.clips["train"]) + rest * self.config.loop.batch_size

    def rows_left(self, feed: Feed, epoch: int, steps: int) -> Int[np.ndarray, "steps b"]:
        """The clips of an epoch's batches, without those of the run's first updates."""
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
        """Writes an epoch down; returns where the next one starts."""
        steps = epoch * self.steps_per_epoch
        trained = {
            "epoch": epoch,
            "split": "train",
            "step": steps,
            "learning_rate": float(self.schedule(steps - 1)),
            **speed,
            **metrics.summarise(progress.sums),
        }
        after = Progress(progress.state, metrics.zeros(self.net.num_classes))
        kept = Progress(self.parallel.single(progress.state), after.sums)
        run.end_epoch(kept, trained, scores, self._card(epoch, scores))
        return after

    def _card(self, epoch: int, scores: dict[str, float]) -> ModelCard:
        """What `avjax.load` must know of the model."""
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
      config: of the run.
      dataset: the config's, where it is open already.

    Raises:
      InputError: data or devices that the config cannot be trained on.
    """
    dataset = dataset or open_dataset(config.data.dir)
    net = build_network(config.model.describe(len(dataset.metadata.classes)))
    clips = _clips(config, dataset, net)
    parallel = spread(config.parallel, config.loop.batch_size)
    variables = initial_variables(
        net, config.loop.seed, config.model.pretrained, dataset.metadata.profile
    )
    steps_per_epoch = clips["train"].num_batches(config.loop.batch_size)
    schedule = config.optimizer.schedule(config.loop.num_epochs, steps_per_epoch)
    optimizer = config.optimizer.optimizer(schedule, net.trained(variables["params"]))
    state = jax.device_get(create_state(variables, optimizer))
    start = Progress(state, metrics.zeros(net.num_classes))
    return Setup(config, dataset, clips, net, parallel, schedule, optimizer, start)


def _clips(config: RunConfig, dataset: PreparedDataset, net: Network) -> dict[str, Clips]:
    """The clips of every split that the network can use."""
    if "video" in net.inputs.streams and not dataset.metadata.num_frames:
        raise InputError(
            f"{dataset.directory} holds sound alone; train configs/audio_only.py on it, or prepare "
            "videos"
        )
    return {
        split: dataset.select(chosen, net.inputs, video_only=config.data.video_only)
        for split, chosen in resolve_fold(config.data.fold).items()
    }


# ------------------------------------------------------------------------------- the command line


def define_config_flags(argv: list[str], values: flags.FlagValues) -> None:
    """Defines ``--config`` with its changes, and ``--workdir``."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        "Configuration file; --config.key=value changes a value.",
        flag_values=values,
        sys_argv=argv,
    )
    flags.DEFINE_string(
        "workdir", None, "Where the run is kept (default: runs/<config name>).", flag_values=values
    )


def read_config_flag(values: flags.FlagValues) -> RunConfig:
    """The configuration with its changes.

    Raises:
      InputError: none is named, the file cannot be read, or it holds what cannot be used.
    """
    if values.config is None:
        raise InputError("--config is missing; name a file such as configs/ia_softhard.py")
    try:
        tree = values.config.to_dict()  # a file that could not be read fails on first use
    except OSError as error:
        file = values["config"].config_filename
        raise InputError(f"the config file {file} cannot be read; name one of configs/") from error
    return RunConfig.from_tree(tree)


def _define_flags(argv: list[str], values: flags.FlagValues) -> None:
    define_config_flags(argv, values)
    cli.define_process_flags(values)


def _job(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    config = read_config_flag(values)
    workdir = Path(values.workdir or f"runs/{config.name}")
    with multihost.joined(**cli.process_flags(values)):
        compilation.keep_compiled_programs()
        evaluation = train(config, workdir)
        if multihost.is_first():
            print(table(evaluation))
            print(f"report: {workdir / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    argv = sys.argv if argv is None else argv
    return cli.run(argv, functools.partial(_define_flags, argv), _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
