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

from avjax import cli, hosts
from avjax.checkpoints import ModelCard, RunCheckpoints, check_config, save_model
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.data.ravdess import resolve_fold
from avjax.errors import InputError
from avjax.evaluate import Evaluator, check_bands, evaluate_run, table
from avjax.models.networks import Network, build_network, describe_network, learned_parameters
from avjax.pretrained import initial_variables
from avjax.runlog import RunLog, SilentLog, best_epoch, open_log
from avjax.training import metrics
from avjax.training.modality_dropout import check_mask
from avjax.training.optimizer import adamw, cosine_schedule, sgd, step_schedule
from avjax.training.parallel import Parallel, spread
from avjax.training.sound_augment import SoundAugmentation
from avjax.training.step import Recipe, TrainState, create_state, train_step
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

    All processes must call it, where there are several; the first keeps the run's folder.

    Args:
      config: see `configs/common.py`.
      workdir: where everything is written; a run found there is resumed.

    Returns:
      The evaluation of the test split, as written to ``evaluation.json``.

    Raises:
      InputError: a config or data that cannot be trained on, or a workdir of another config.
    """
    with hosts.all_or_none():
        job, variables = _build(config, workdir)
    hosts.from_first(lambda: check_config(workdir, config.to_dict()))
    start = Progress(create_state(variables, job.optimizer), metrics.zeros(job.net.num_classes))
    start = jax.device_get(start)
    with RunCheckpoints(workdir) as checkpoints:
        progress = hosts.from_first(lambda: checkpoints.restore(start) or start)
        step = int(progress.state.step)
        first_epoch = step // job.steps_per_epoch + 1
        total = config.num_epochs * len(job.splits["train"])
        with open_log(workdir, total, first_epoch, job.clips_before(step)) as log:
            _train_epochs(job, progress, first_epoch, checkpoints, log)
    return evaluate_run(workdir)


def _build(config: ConfigDict, workdir: Path) -> tuple[Job, dict[str, Any]]:
    """Checks the config against the data; builds the network, its variables, the optimizer."""
    check_mask(config.mask)
    dataset = open_dataset(config.data.dir)
    network = describe_network(config.model, len(dataset.metadata.classes))
    net = build_network(network)
    splits = _splits(config, dataset, net)
    check_bands(net, dataset)
    parallel = spread(config.parallel, config.batch_size)
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
    job: Job,
    progress: Progress,
    first_epoch: int,
    checkpoints: RunCheckpoints,
    log: RunLog | SilentLog,
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
    )
    step = job.parallel.compile_train_step(
        functools.partial(train_step, net=job.net, optimizer=job.optimizer, recipe=recipe)
    )
    evaluator = Evaluator(job.net, profile, job.parallel)
    progress = dataclasses.replace(progress, state=job.parallel.replicate(progress.state))
    with cli.StopRequest() as stop:
        for epoch in range(first_epoch, job.config.num_epochs + 1):
            progress, speed = _train_epoch(job, step, progress, epoch, checkpoints, log, stop)
            done = epoch * job.steps_per_epoch
            rate = float(job.schedule(done - 1))
            line = {"epoch": epoch, "split": "train", "step": done, "learning_rate": rate}
            line |= {**speed, **metrics.summarise(progress.sums)}
            scores = evaluator.clean(progress.state.variables, job.splits["validation"])
            progress = dataclasses.replace(progress, sums=metrics.zeros(job.net.num_classes))
            keep = functools.partial(_keep_epoch, job, progress, line, scores, checkpoints, log)
            hosts.from_first(keep)
            if hosts.any_process(stop.requested):
                raise KeyboardInterrupt


def _keep_epoch(
    job: Job,
    progress: Progress,
    trained: dict[str, Any],
    scores: dict[str, float],
    checkpoints: RunCheckpoints,
    log: RunLog | SilentLog,
) -> None:
    """Writes down a whole epoch: its figures, the newest state, the model where it is the best."""
    epoch, step = trained["epoch"], trained["step"]
    improved = scores["accuracy"] > best_epoch(log.lines)[1]
    log.epoch(trained)
    log.epoch({"epoch": epoch, "split": "validation", "step": step, **scores})
    state = job.parallel.single(progress.state)
    if improved:
        save_model(job.workdir / "best", state.variables, _card(job, epoch, scores))
    checkpoints.save(step, dataclasses.replace(progress, state=state))


def _train_epoch(
    job: Job,
    step: Callable,
    progress: Progress,
    epoch: int,
    checkpoints: RunCheckpoints,
    log: RunLog | SilentLog,
    stop: cli.StopRequest,
) -> tuple[Progress, dict[str, float]]:
    """Trains the rest of an epoch; saves now and then, and when asked to stop.

    Sums are fetched one step late, so that the device never waits for the host.
    """
    parallel, batch_size, clips = job.parallel, job.config.batch_size, job.splits["train"]
    key = parallel.replicate(jax.random.key(job.config.seed))
    start = int(parallel.single(progress.state.step)) % job.steps_per_epoch
    state, sums, unread = progress.state, progress.sums, None
    began = saved = time.monotonic()
    batches = clips.batches(
        batch_size, shuffle_key=job.config.seed, epoch=epoch, start=start, **parallel.share
    )
    for done, batch in enumerate(batches, start=start + 1):
        state, new = step(state, parallel.split(batch), key)
        if unread is not None:
            sums = metrics.add(sums, parallel.single(unread))
        unread = new
        log.step(min(batch_size, len(clips) - (done - 1) * batch_size), epoch, sums)
        if done == job.steps_per_epoch:  # the caller saves a whole epoch, with its validation
            break
        due = time.monotonic() - saved > 60 * job.config.checkpoint_minutes
        stopping, due = hosts.agree(done, stop.requested, due)
        if stopping or due:
            sums, unread = metrics.add(sums, parallel.single(unread)), None
            newest = Progress(parallel.single(state), sums)
            step_number = (epoch - 1) * job.steps_per_epoch + done
            hosts.from_first(functools.partial(checkpoints.save, step_number, newest))
            saved = time.monotonic()
        if stopping:
            raise KeyboardInterrupt
    if unread is not None:
        sums = metrics.add(sums, parallel.single(unread))
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


def _define_flags(argv: list[str], values: flags.FlagValues) -> None:
    define_config_flags(argv, values)
    hosts.define_flags(values)


def _job(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    config = read_config_flag(values)
    workdir = Path(values.workdir or f"runs/{config.name}")
    with hosts.joined(values):
        evaluation = train(config, workdir)
        if hosts.is_first():
            print(table(evaluation))
            print(f"report: {workdir / 'report.html'}")


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    argv = sys.argv if argv is None else argv
    return cli.run(argv, functools.partial(_define_flags, argv), _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
