"""What runs are made of, alone or together: a step's call, an epoch, its end."""

import functools
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import flax.struct
import numpy as np
import optax
from jaxtyping import Int
from ml_collections import ConfigDict

from avjax import cli
from avjax.data.feed import Feed, take
from avjax.data.pipeline import Clips, PreparedDataset
from avjax.models.networks import Network
from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.metrics_log import RunLog, SilentLog, best_epoch
from avjax.runs.saved_model import ModelCard, save_model
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel
from avjax.runtime.versions import versions
from avjax.training import metrics
from avjax.training.evaluator import Evaluator
from avjax.training.step import Recipe, TrainState


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
    recipe: Recipe
    parallel: Parallel
    steps_per_call: int  # at most

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; the last one may be of a smaller batch."""
        return self.splits["train"].num_batches(self.config.batch_size)

    def clips_before(self, step: int) -> int:
        """Clips trained on before an update."""
        epochs, steps = divmod(step, self.steps_per_epoch)
        return epochs * len(self.splits["train"]) + steps * self.config.batch_size


def compile_step(step: Callable, job: Job, feed: Feed) -> Callable:
    """Compiles what `train_epoch` calls: ``step(state, parts, key, count)``."""
    if job.steps_per_call == 1:
        single = job.parallel.compile_train_step(step)
        return lambda state, batch, key, count: single(state, batch, key)

    def batch_of(resident: Any, part: Any) -> Any:
        return part if resident is None else take(resident, part)

    steps = job.parallel.compile_train_steps(step, batch_of)
    return lambda state, parts, key, count: steps(state, parts, key, feed.resident, count)


def rows_left(job: Job, feed: Feed, epoch: int, step: int) -> Int[np.ndarray, "steps b"]:
    """Which clips make the batches of an epoch that are yet to be trained on, after ``step``."""
    clips, config = job.splits["train"], job.config
    rows = feed.rows(clips, config.batch_size, shuffle_key=config.seed, epoch=epoch)
    return rows[max(0, step - (epoch - 1) * job.steps_per_epoch) :]


def train_epoch(
    job: Job,
    step: Callable,
    progress: Progress,
    key: Any,
    feed: Feed,
    rows: Int[np.ndarray, "steps b *members"],
    epoch: int,
    show: Callable[[int, int, metrics.Sums], None],
    save: Callable[[Progress], None],
    stop: cli.StopRequest,
) -> tuple[Progress, dict[str, float]]:
    """Trains the rest of an epoch, of one model or of several at once.

    Sums are fetched one call late, so that the device never waits for the host. Of several steps a
    call, the first call takes one, so that its figures come soon.

    Args:
      job: the run's parts, or those that all models share.
      step: made by `compile_step`.
      progress: where the epoch stands.
      key: third argument of ``step``.
      feed: the clips.
      rows: which clips make each batch.
      epoch: its number.
      show: told the number of clips of each call, the epoch, and its sums so far.
      save: keeps what it is given; called now and then, and when asked to stop, but not at the
        epoch's end.
      stop: the wish to stop.

    Returns:
      The epoch's end; its ``seconds`` and ``input_share``, the share in which a batch was awaited.
    """
    parallel, several = job.parallel, job.steps_per_call > 1
    calls = _calls(rows, job.steps_per_call)
    own = [parallel.own(call) for call in calls]  # of this process
    place = parallel.split_steps if several else parallel.split
    state, sums, unread = progress.state, progress.sums, None
    began = saved = time.monotonic()
    wanted = [_filled(call, job.steps_per_call) if several else call[0] for call in own]
    with feed.batches(wanted, place, gather=not several) as batches:
        for done, (call, batch) in enumerate(zip(calls, batches, strict=True), start=1):
            state, new = step(state, batch, key, np.int32(len(call)))
            if unread is not None:
                sums = metrics.add(sums, parallel.single(unread), steps=several)
            unread = new
            show(int((call >= 0).sum()), epoch, sums)
            if done == len(calls):  # the caller saves a whole epoch, with its validation
                break
            due = time.monotonic() - saved > 60 * job.config.checkpoint_minutes
            stopping, due = multihost.agree(done, stop.requested, due)
            if stopping or due:
                sums = metrics.add(sums, parallel.single(unread), steps=several)
                newest, unread = Progress(parallel.single(state), sums), None
                multihost.from_first(functools.partial(save, newest))
                saved = time.monotonic()
            if stopping:
                raise KeyboardInterrupt
        if unread is not None:
            sums = metrics.add(sums, parallel.single(unread), steps=several)
        seconds = time.monotonic() - began
    return Progress(state, sums), {
        "seconds": seconds,
        "clips_per_second": int((rows >= 0).sum()) / seconds,
        "input_share": batches.waited / seconds,
    }


def _calls(rows: Int[np.ndarray, "steps *rows"], most: int) -> list[np.ndarray]:
    """An epoch's steps call by call: one, then as many as a call may take."""
    firsts = [0, *range(1, len(rows), most)][: len(rows)]
    return [rows[first:last] for first, last in itertools.pairwise([*firsts, len(rows)])]


def _filled(call: Int[np.ndarray, "steps *rows"], steps: int) -> Int[np.ndarray, "steps *rows"]:
    """A call's rows with padding for the steps that it does not take."""
    spare = ((0, steps - len(call)),) + ((0, 0),) * (call.ndim - 1)
    return np.pad(call, spare, constant_values=-1)


def close_epoch(
    job: Job,
    progress: Progress,
    epoch: int,
    speed: dict[str, float],
    evaluator: Evaluator,
    feed: Feed,
    checkpoints: RunCheckpoints,
    log: RunLog | SilentLog,
) -> None:
    """Validates an epoch's end; writes its lines, its state, and its model where it is the best."""
    done = epoch * job.steps_per_epoch
    rate = float(job.schedule(done - 1))
    line = {"epoch": epoch, "split": "train", "step": done, "learning_rate": rate}
    line |= {**speed, **metrics.summarise(progress.sums)}
    rows = job.parallel.own(feed.rows(job.splits["validation"], evaluator.batch_size))
    with feed.batches(list(rows), job.parallel.split) as batches:
        scores = evaluator.clean(progress.state.variables, batches)
    multihost.from_first(
        functools.partial(_keep_epoch, job, progress, line, scores, checkpoints, log)
    )


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
    checkpoints.save(step, Progress(state, metrics.zeros(job.net.num_classes)))


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
