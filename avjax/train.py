"""Trains a model: ``python -m avjax.train --config configs/ia_softhard.py --workdir RUN``.

The same command again resumes, from where the run stopped.
"""

import dataclasses
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import jax
import optax
from absl import flags
from ml_collections import ConfigDict, config_flags

from avjax import cli
from avjax.checkpoints import ModelCard, RunCheckpoints, check_config, save_model
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.data.ravdess import resolve_fold
from avjax.errors import InputError
from avjax.evaluate import Evaluator, check_bands, evaluate_run, table
from avjax.models.networks import Network, build_network, describe_network, learned_parameters
from avjax.pretrained import initial_variables
from avjax.runlog import RunLog, best_epoch
from avjax.training import metrics
from avjax.training.modality_dropout import check_mask
from avjax.training.optimizer import adamw, cosine_schedule, sgd, step_schedule
from avjax.training.parallel import Parallel
from avjax.training.sound_augment import SoundAugmentation
from avjax.training.step import Recipe, TrainState, check_dtype, create_state, train_step
from avjax.versions import versions


@flax.struct.dataclass
class Progress:
    """What a checkpoint holds: the state, and the sums so far of the epoch it stands in."""

    state: TrainState
    sums: metrics.Sums


class Job(NamedTuple):
    """A run's fixed parts, built once from its config."""

    config: ConfigDict
    workdir: Path
    dataset: PreparedDataset
    splits: dict[str, Clips]
    network: dict[str, Any]
    net: Network
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    parallel: Parallel

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; the last one may be of a smaller batch."""
        return self.splits["train"].num_batches(self.config.batch_size)

    def clips_before(self, step: int) -> int:
        """Clips trained on before an update."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.splits["train"]) + steps * self.config.batch_size


def train(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Trains, validates after every epoch, then scores the test split with the best epoch.

    Args:
      config: see `configs/common.py`.
      workdir: where everything is written; a run found there is resumed.

    Returns:
      The evaluation of the test split, as written to ``evaluation.json``.

    Raises:
      InputError: a config or data that cannot be trained on, or a workdir of another config.
    """
    job, variables = _build(config, workdir)
    check_config(workdir, config.to_dict())
    start = Progress(create_state(variables, job.optimizer), metrics.zeros(job.net.num_classes))
    with RunCheckpoints(workdir) as checkpoints:
        progress = checkpoints.restore(start) or start
        step = int(progress.state.step)
        first_epoch = step // job.steps_per_epoch + 1
        total = config.num_epochs * len(job.splits["train"])
        with RunLog(workdir, total, first_epoch, job.clips_before(step)) as log:
            _train_epochs(job, progress, first_epoch, checkpoints, log)
    return evaluate_run(workdir)


def _build(config: ConfigDict, workdir: Path) -> tuple[Job, dict[str, Any]]:
    """Checks the config against the data; builds the network, its variables, the optimizer."""
    check_mask(config.mask)
    check_dtype(config.dtype)
    dataset = open_dataset(config.data.dir)
    network = describe_network(config.model, len(dataset.metadata.classes))
    net = build_network(network)
    splits = _splits(config, dataset, net)
    check_bands(net, dataset)
    parallel = Parallel(config.batch_size)
    _sound_augmentation(config, net, parallel)
    variables = initial_variables(
        net, config.seed, config.model.pretrained, dataset.metadata.profile
    )
    steps = splits["train"].num_batches(config.batch_size)
    trained = learned_parameters(variables["params"], net)
    schedule, optimizer = _optimizer(config, steps, trained)
    job = Job(config, workdir, dataset, splits, network, net, schedule, optimizer, parallel)
    return job, variables


def _optimizer(
    config: ConfigDict, steps_per_epoch: int, trained: Any
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """The learning rate by step and the optimizer that a config names."""
    recipe = config.optimizer
    if recipe.name == "sgd":
        schedule = step_schedule(recipe.learning_rate, recipe.milestones, steps_per_epoch)
        return schedule, sgd(
            schedule,
            momentum=recipe.momentum,
            dampening=recipe.dampening,
            weight_decay=recipe.weight_decay,
            trained=trained,
        )
    if recipe.name != "adamw":
        raise InputError(f"unknown optimizer {recipe.name!r}; choose one of sgd, adamw")
    schedule = cosine_schedule(
        recipe.learning_rate, recipe.warmup_epochs, config.num_epochs, steps_per_epoch
    )
    return schedule, adamw(schedule, weight_decay=recipe.weight_decay, trained=trained)


def _sound_augmentation(config: ConfigDict, net: Network, parallel: Parallel) -> SoundAugmentation:
    """How a config changes and mixes sound.

    Raises:
      InputError: for another network than one of log-mel spectra, or with rows that have no
        neighbour on their device to be mixed with.
    """
    amount = SoundAugmentation(**config.sound_augment)
    if any(amount) and net.sound != "log_mel":
        raise InputError(
            f"config.sound_augment changes log-mel spectra, and a network of kind "
            f"{config.model.kind!r} reads MFCCs; set its values to 0"
        )
    if amount.mixup and config.batch_size // parallel.mesh.size % 2:
        raise InputError(
            f"mixup pairs neighbours, and batch_size={config.batch_size} gives each of "
            f"{parallel.mesh.size} devices an odd number of clips; choose an even share"
        )
    return amount


def _splits(config: ConfigDict, dataset: PreparedDataset, net: Network) -> dict[str, Clips]:
    """The clips of every split that the network can use."""
    if len(net.streams) == 1 and config.mask != "nodropout":
        raise InputError(
            f"mask {config.mask!r} takes away the only stream of a network of kind "
            f"{config.model.kind!r}; set config.mask='nodropout'"
        )
    if "video" in net.streams and not dataset.metadata.num_frames:
        raise InputError(
            f"{dataset.directory} holds sound alone; train configs/audio_only.py on it, or prepare "
            "videos"
        )
    filters = resolve_fold(config.data.fold)
    chosen = functools.partial(
        dataset.select, video_only=config.data.video_only, streams=net.streams, sound=net.sound
    )
    return {name: chosen(filter_) for name, filter_ in filters.items()}


def _train_epochs(
    job: Job, progress: Progress, first_epoch: int, checkpoints: RunCheckpoints, log: RunLog
) -> None:
    """Trains and validates epoch by epoch; keeps the newest state and the best model."""
    profile = job.dataset.metadata.profile
    recipe = Recipe(
        job.config.mask,
        profile,
        job.config.augment,
        job.config.deduplicate,
        _sound_augmentation(job.config, job.net, job.parallel),
        job.config.label_smoothing,
        job.config.dtype,
    )
    step = job.parallel.compile_train_step(
        functools.partial(train_step, net=job.net, optimizer=job.optimizer, recipe=recipe)
    )
    evaluator = Evaluator(job.net, profile)
    progress = dataclasses.replace(progress, state=job.parallel.replicate(progress.state))
    with cli.StopRequest() as stop:
        for epoch in range(first_epoch, job.config.num_epochs + 1):
            progress, speed = _train_epoch(job, step, progress, epoch, checkpoints, log, stop)
            done = epoch * job.steps_per_epoch
            rate = float(job.schedule(done - 1))
            line = {"epoch": epoch, "split": "train", "step": done, "learning_rate": rate}
            log.epoch({**line, **speed, **metrics.summarise(progress.sums)})
            variables = progress.state.variables
            scores = evaluator.clean(variables, job.splits["validation"])
            improved = scores["accuracy"] > best_epoch(log.lines)[1]
            log.epoch({"epoch": epoch, "split": "validation", "step": done, **scores})
            if improved:
                save_model(job.workdir / "best", variables, _card(job, epoch, scores))
            progress = dataclasses.replace(progress, sums=metrics.zeros(job.net.num_classes))
            checkpoints.save(done, progress)
            if stop.requested:
                raise KeyboardInterrupt


def _train_epoch(
    job: Job,
    step: Callable,
    progress: Progress,
    epoch: int,
    checkpoints: RunCheckpoints,
    log: RunLog,
    stop: cli.StopRequest,
) -> tuple[Progress, dict[str, float]]:
    """Trains the rest of an epoch; saves now and then, and when asked to stop.

    Sums are fetched one step late, so that the device never waits for the host.
    """
    key = jax.random.key(job.config.seed)
    batch_size, clips = job.config.batch_size, job.splits["train"]
    start = int(progress.state.step) % job.steps_per_epoch
    state, sums, unread = progress.state, progress.sums, None
    began = saved = time.monotonic()
    batches = clips.batches(batch_size, shuffle_key=job.config.seed, epoch=epoch, start=start)
    for done, batch in enumerate(batches, start=start + 1):
        state, new = step(state, job.parallel.split(batch), key)
        if unread is not None:
            sums = metrics.add(sums, unread)
        unread = new
        log.step(min(batch_size, len(clips) - (done - 1) * batch_size), epoch, sums)
        due = time.monotonic() - saved > 60 * job.config.checkpoint_minutes
        # A whole epoch is saved by the caller, with its validation.
        if (stop.requested or due) and done < job.steps_per_epoch:
            sums, unread = metrics.add(sums, unread), None
            step_number = (epoch - 1) * job.steps_per_epoch + done
            checkpoints.save(step_number, Progress(state, sums))
            saved = time.monotonic()
            if stop.requested:
                raise KeyboardInterrupt
    if unread is not None:
        sums = metrics.add(sums, unread)
    seconds = time.monotonic() - began
    trained = len(clips) - start * batch_size
    return Progress(state, sums), {"seconds": seconds, "clips_per_second": trained / seconds}


def _card(job: Job, epoch: int, scores: dict[str, float]) -> ModelCard:
    """What `avjax.load` must know of the best model."""
    data = job.dataset.metadata
    return ModelCard(
        network=job.network,
        classes=list(data.classes),
        profile=data.profile,
        num_frames=data.num_frames if "video" in job.net.streams else 0,
        image_size=data.image_size,
        audio_steps=data.audio_steps,
        seconds=data.seconds,
        epoch=epoch,
        metrics=scores,
        versions=versions(),
    )


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


def read_config_flag(values: flags.FlagValues) -> ConfigDict:
    """The configuration with its changes.

    Raises:
      InputError: none is named, or the file cannot be read.
    """
    config = values.config
    if config is None:
        raise InputError("--config is missing; name a file such as configs/ia_softhard.py")
    try:
        return config.lock()  # a file that could not be read fails on first use
    except OSError as error:
        file = values["config"].config_filename
        raise InputError(f"the config file {file} cannot be read; name one of configs/") from error


def _job(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    config = read_config_flag(values)
    workdir = Path(values.workdir or f"runs/{config.name}")
    print(table(train(config, workdir)))
    print(f"report: {workdir / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    argv = sys.argv if argv is None else argv
    return cli.run(argv, functools.partial(define_config_flags, argv), _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
