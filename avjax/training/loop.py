"""The training loop: the compiled calls of an epoch, with checkpoints and stops between them."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import flax.struct
import jax
import numpy as np
from jaxtyping import Int

from avjax.data.feed import Feed, take
from avjax.errors import InputError
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel
from avjax.runtime.signals import StopRequest
from avjax.training import metrics
from avjax.training.step import StepSums, Sums, TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Epochs, batch size, seed and checkpoint interval of a run.

    Attributes:
      seed: seed of all randomness.
      num_epochs: passes over the training clips.
      batch_size: clips per step, over all devices.
      steps_per_call: steps per compiled call; 0 chooses what suits the devices.
      checkpoint_minutes: minutes between checkpoints within an epoch.

    Raises:
      InputError: a value out of range.
    """

    seed: int = 1
    num_epochs: int = 100
    batch_size: int = 8
    steps_per_call: int = 0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        minima = {"seed": 0, "num_epochs": 1, "batch_size": 1, "steps_per_call": 0}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if value < minimum:
                raise InputError(f"config.{name}={value}; choose {minimum} or more")
        if not self.checkpoint_minutes >= 0:
            raise InputError(
                f"config.checkpoint_minutes={self.checkpoint_minutes}; choose 0 or more"
            )


@flax.struct.dataclass
class Progress:
    """Content of a checkpoint: the train state and the current epoch's metric sums so far."""

    state: TrainState
    sums: Sums


@runtime_checkable  # the tests check argument types
class Observer(Protocol):
    """Callbacks of a training epoch."""

    def step(self, clips: int, sums: Sums) -> None:
        """Receives each call's number of clips, and the epoch's sums so far."""

    def save(self, progress: Progress) -> None:
        """Saves progress within an epoch, given in host memory; called regularly and at a stop."""


class TrainingLoop:
    """Trains epochs with one compiled step, for one model or several vmapped ones."""

    def __init__(
        self,
        step: Callable,
        key: Any,
        feed: Feed,
        parallel: Parallel,
        config: LoopConfig,
        steps_per_epoch: int,
    ) -> None:
        """Compiles nothing before the first call.

        Args:
          step: ``step(state, batch, key, axis_name) -> (state, sums)``.
          key: third argument of ``step``.
          feed: the clips.
          parallel: the devices.
          config: batch size, steps per call, checkpoint interval.
          steps_per_epoch: steps of the longest epoch.

        Raises:
          InputError: several steps per call in a mode that does not support them.
        """
        if config.steps_per_call > 1 and "device" not in parallel.caches:
            raise InputError(
                f"config.steps_per_call={config.steps_per_call} needs config.parallel='jit' in a "
                "single process; set it to 1"
            )
        self._feed, self._parallel, self._config = feed, parallel, config
        self._key = parallel.replicate(key)
        # An epoch's first call takes one step, so longer calls would only add padding.
        self._steps_per_call = min(
            config.steps_per_call or parallel.steps_per_call, max(1, steps_per_epoch - 1)
        )
        self._call = self.compile_call(step)

    def compile_call(self, step: Callable) -> Callable:
        """Compiles ``call(state, batch_or_rows, count) -> (state, sums)``."""
        if self._steps_per_call == 1:
            single = self._parallel.compile_train_step(step)
            return lambda state, batch, count: single(state, batch, self._key)

        def batch_of(resident: Any, rows: Any) -> Any:
            return rows if resident is None else take(resident, rows)

        multiple = self._parallel.compile_train_steps(step, batch_of)
        return lambda state, rows, count: multiple(
            state, rows, self._key, self._feed.resident, count
        )

    def place(self, progress: Progress) -> Progress:
        """Puts the state on the devices."""
        return Progress(self._parallel.replicate(progress.state), progress.sums)

    def train_epoch(
        self,
        progress: Progress,
        rows: Int[np.ndarray, "steps b *models"],
        observer: Observer,
        stop: StopRequest,
    ) -> tuple[Progress, dict[str, float]]:
        """Trains the remaining steps of an epoch.

        Fetches each call's sums during the next call, so the device never waits for the host. With
        several steps per call, the first call takes one step, to report early.

        Args:
          progress: progress within the epoch; the state is on the devices.
          rows: the clips of each batch, from `Feed.rows`.
          observer: receives progress and checkpoints.
          stop: checked between calls.

        Returns:
          The progress at the end of the epoch. And its ``seconds``, ``clips_per_second`` and
          ``input_share``, the share of time spent waiting for batches.

        Raises:
          KeyboardInterrupt: stopped on request; the state is saved.
          InputError: a loss or gradient is not finite; nothing is saved.
        """
        calls = _calls(rows, self._steps_per_call)
        check = FiniteCheck(self._feed.clip_ids, self._parallel.single(progress.state.step))
        state, sums, pending = progress.state, progress.sums, None
        start = saved = time.monotonic()
        with self._batches(calls) as batches:
            for number, (call, batch) in enumerate(zip(calls, batches, strict=True), start=1):
                state, call_sums = self._call(state, batch, np.int32(len(call)))
                sums = self._add(check, sums, pending)
                pending = call, call_sums
                observer.step(int((call >= 0).sum()), sums)
                if number == len(calls):  # the caller saves it, with its validation
                    break
                due = time.monotonic() - saved > 60 * self._config.checkpoint_minutes
                stopping, due = multihost.agree(number, stop.requested, due)
                if stopping or due:
                    sums, pending = self._add(check, sums, pending), None
                    progress = Progress(self._parallel.single(state), sums)
                    multihost.from_first(functools.partial(observer.save, progress))
                    saved = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
            sums = self._add(check, sums, pending)
            seconds = time.monotonic() - start
        return Progress(state, sums), {
            "seconds": seconds,
            "clips_per_second": int((rows >= 0).sum()) / seconds,
            "input_share": batches.waited / seconds,
        }

    def _batches(self, calls: list[np.ndarray]) -> Any:
        """Prefetches the calls' batches onto the devices."""
        shares = [self._parallel.local_rows(call) for call in calls]  # of this process
        if self._steps_per_call == 1:
            return self._feed.batches([share[0] for share in shares], self._parallel.split)
        padded = [_pad_steps(share, self._steps_per_call) for share in shares]
        return self._feed.batches(padded, self._parallel.split_steps, gather=False)

    def _add(self, check: "FiniteCheck", sums: Sums, pending: Any) -> Sums:
        """Adds a call's sums, which are on the devices, to the epoch's, and checks them."""
        if pending is None:
            return sums
        rows, call_sums = pending
        call_sums, several = self._parallel.single(call_sums), self._steps_per_call > 1
        check(rows, call_sums if several else jax.tree.map(lambda x: x[None], call_sums))
        return metrics.add(sums, call_sums, steps=several)


class FiniteCheck:
    """Stops an epoch at the first step whose loss or gradient is not finite."""

    def __init__(self, clip_ids: Sequence[str], steps: Int[np.ndarray, "*models"]) -> None:
        """Takes the names of the feed's clips, and the steps that each model has done."""
        self._clip_ids, self._steps = clip_ids, np.atleast_1d(steps)
        self._largest: Any = np.full(len(self._steps), np.nan)

    def __call__(self, rows: Int[np.ndarray, "n b *models"], sums: StepSums) -> None:
        """Checks the next steps, given their clips and sums, ``[n or more, ...]``.

        Raises:
          InputError: names step, loss, largest gradient and clips.
        """
        rows = rows.reshape(*rows.shape[:2], -1)
        loss, count, largest = (
            np.reshape(x, (len(x), -1)) for x in (sums.loss, sums.count, sums.largest_gradient)
        )
        for number, clips in enumerate(rows):
            self._steps = self._steps + (clips >= 0).any(0)
            for model in np.flatnonzero(~np.isfinite(loss[number] + largest[number])):
                names = [self._clip_ids[row] for row in clips[:, model] if row >= 0]
                raise InputError(
                    f"step {self._steps[model]}: the mean loss is "
                    f"{loss[number, model] / count[number, model]:.3g} and the largest gradient "
                    f"{largest[number, model]:.3g} (one step before "
                    f"{self._largest[model]:.3g}), on the clips {', '.join(names)}; what was "
                    "saved before is kept: train in another --workdir with a lower "
                    "config.optimizer.learning_rate, or without these clips"
                )
            self._largest = largest[number]


def _calls(rows: Int[np.ndarray, "steps *rows"], steps_per_call: int) -> list[np.ndarray]:
    """Splits an epoch's steps into calls: one step, then ``steps_per_call`` steps each."""
    starts = [0, *range(1, len(rows), steps_per_call)][: len(rows)]
    return [rows[start:end] for start, end in itertools.pairwise([*starts, len(rows)])]


def _pad_steps(call: Int[np.ndarray, "n *rows"], steps: int) -> Int[np.ndarray, "{steps} *rows"]:
    """Pads a call to ``steps`` steps."""
    padding = ((0, steps - len(call)),) + ((0, 0),) * (call.ndim - 1)
    return np.pad(call, padding, constant_values=-1)
