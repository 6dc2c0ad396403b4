"""Trains a model: ``python -m avjax.train --config configs/ia_softhard.py --workdir RUN``.

The same command again resumes, from where the run stopped.
"""

import dataclasses
import functools
import sys
from pathlib import Path
from typing import Any

import jax
import optax
from absl import flags
from ml_collections import ConfigDict, config_flags

from avjax import cli
from avjax.data.feed import Feed, check_cache
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.epochs import (
    Job,
    Progress,
    close_epoch,
    compile_step,
    rows_left,
    train_epoch,
)
from avjax.errors import InputError
from avjax.evaluate import check_bands, evaluate_run, table
from avjax.models.networks import Network, build_network, describe_network, learned_parameters
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.metrics_log import RunLog, SilentLog, open_log
from avjax.runs.pretrained import initial_variables
from avjax.runs.run_config import check_config
from avjax.runtime import compilation, multihost
from avjax.runtime.devices import Parallel, spread
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.modality_dropout import check_mask
from avjax.training.optimizer import adamw, cosine_schedule, sgd, step_schedule
from avjax.training.sound_augment import SoundAugmentation
from avjax.training.step import Recipe, check_dtype, create_state, train_step


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
    with multihost.all_or_none():
        job, start = build(config, workdir)
    multihost.from_first(lambda: check_config(workdir, config.to_dict()))
    start = jax.device_get(start)
    with RunCheckpoints(workdir) as checkpoints:
        progress = multihost.from_first(lambda: checkpoints.restore(start) or start)
        step = int(progress.state.step)
        first_epoch = step // job.steps_per_epoch + 1
        total = config.num_epochs * len(job.splits["train"])
        with open_log(workdir, total, first_epoch, job.clips_before(step)) as log:
            _train_epochs(job, progress, first_epoch, checkpoints, log)
    return evaluate_run(workdir)


def build(
    config: ConfigDict, workdir: Path, dataset: PreparedDataset | None = None
) -> tuple[Job, Progress]:
    """Checks a config against the data; builds all that a run needs, and its start.

    Args:
      config: of the run.
      workdir: of the run; nothing is written.
      dataset: the config's, where it is open already.

    Raises:
      InputError: a config or data that cannot be trained on.
    """
    check_mask(config.mask)
    check_cache(config.data.cache)
    if config.steps_per_call < 0:
        raise InputError(
            f"config.steps_per_call={config.steps_per_call}; choose 1 or more, or 0 for as many as "
            "suit the devices"
        )
    dataset = dataset or open_dataset(config.data.dir)
    network = describe_network(config.model, len(dataset.metadata.classes))
    net = build_network(network)
    splits = _splits(config, dataset, net)
    check_bands(net, dataset)
    parallel = spread(config.parallel, config.batch_size)
    if config.steps_per_call > 1 and "device" not in parallel.caches:
        raise InputError(
            f"config.steps_per_call={config.steps_per_call} needs config.parallel='jit' in a "
            "single process; set it to 1"
        )
    recipe = Recipe(
        config.mask,
        dataset.metadata.profile,
        config.augment,
        config.deduplicate,
        _sound_augmentation(config, net, parallel),
        config.label_smoothing,
        check_dtype(config.dtype),
    )
    variables = initial_variables(
        net, config.seed, config.model.pretrained, dataset.metadata.profile
    )
    steps_per_epoch = splits["train"].num_batches(config.batch_size)
    schedule = make_schedule(config, steps_per_epoch)
    optimizer = make_optimizer(config, schedule, learned_parameters(variables["params"], net))
    job = Job(
        config,
        workdir,
        dataset,
        splits,
        network,
        net,
        schedule,
        optimizer,
        recipe,
        parallel,
        # An epoch's first call is of one step; room for more than the others would stay empty.
        min(config.steps_per_call or parallel.steps_per_call, max(1, steps_per_epoch - 1)),
    )
    return job, Progress(create_state(variables, optimizer), metrics.zeros(net.num_classes))


def make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    """The learning rate by step that a config names.

    Raises:
      InputError: an unknown optimizer.
    """
    recipe = config.optimizer
    if recipe.name == "sgd":
        return step_schedule(recipe.learning_rate, recipe.milestones, steps_per_epoch)
    if recipe.name == "adamw":
        return cosine_schedule(
            recipe.learning_rate, recipe.warmup_epochs, config.num_epochs, steps_per_epoch
        )
    raise InputError(f"unknown optimizer {recipe.name!r}; choose one of sgd, adamw")


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule, trained: Any
) -> optax.GradientTransformation:
    """The optimizer that a config names, following a schedule; see `sgd` for ``trained``."""
    recipe = config.optimizer
    if recipe.name == "adamw":
        return adamw(schedule, weight_decay=recipe.weight_decay, trained=trained)
    return sgd(
        schedule,
        momentum=recipe.momentum,
        dampening=recipe.dampening,
        weight_decay=recipe.weight_decay,
        trained=trained,
    )


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
    feed = Feed(list(job.splits.values())[:2], job.config.data.cache, job.parallel)
    step = compile_step(
        functools.partial(train_step, net=job.net, optimizer=job.optimizer, recipe=job.recipe),
        job,
        feed,
    )
    evaluator = Evaluator(job.net, job.recipe.profile, job.parallel)
    progress = dataclasses.replace(progress, state=job.parallel.replicate(progress.state))
    key = job.parallel.replicate(jax.random.key(job.config.seed))

    def save(progress: Progress) -> None:
        checkpoints.save(int(progress.state.step), progress)

    with cli.StopRequest() as stop:
        for epoch in range(first_epoch, job.config.num_epochs + 1):
            step_number = int(job.parallel.single(progress.state.step))
            rows = rows_left(job, feed, epoch, step_number)
            progress, speed = train_epoch(
                job, step, progress, key, feed, rows, epoch, log.step, save, stop
            )
            close_epoch(job, progress, epoch, speed, evaluator, feed, checkpoints, log)
            progress = dataclasses.replace(progress, sums=metrics.zeros(job.net.num_classes))
            if multihost.any_process(stop.requested):
                raise KeyboardInterrupt


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
    multihost.define_flags(values)


def _job(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    config = read_config_flag(values)
    workdir = Path(values.workdir or f"runs/{config.name}")
    with multihost.joined(values):
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
