"""The training loop: the calls of an epoch, its figures, stops and saves within it."""

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import flax.struct
import numpy as np
from jaxtyping import Int

from avjax.data.feed import Feed, take
from avjax.errors import InputError
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel
from avjax.runtime.signals import StopRequest
from avjax.training import metrics
from avjax.training.step import TrainState


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long a run trains, and in which portions.

    Attributes:
      seed: of all that is random.
      num_epochs: passes over the training clips.
      batch_size: clips of a step, over all devices.
      steps_per_call: steps of one compiled call; 0 for as many as suit the devices.
      checkpoint_minutes: between saves within an epoch.

    Raises:
      InputError: a value out of range.
    """

    seed: int = 1
    num_epochs: int = 100
    batch_size: int = 8
    steps_per_call: int = 0
    checkpoint_minutes: float = 10.0

    def __post_init__(self) -> None:
        least = {"seed": 0, "num_epochs": 1, "batch_size": 1, "steps_per_call": 0}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value < minimum:
                raise InputError(f"config.{name}={value}; choose {minimum} or more")
        if not self.checkpoint_minutes >= 0:
            raise InputError(
                f"config.checkpoint_minutes={self.checkpoint_minutes}; choose 0 or more"
            )


@flax.struct.dataclass
class Progress:
    """What a checkpoint holds: the state, and the sums so far of the epoch it stands in."""

    state: TrainState
    sums: metrics.Sums


@runtime_checkable  # for the tests, which check arguments
class Observer(Protocol):
    """What follows a run while an epoch is trained."""

    def step(self, clips: int, sums: metrics.Sums) -> None:
        """Told of each call: its number of clips, and the epoch's sums so far."""

    def save(self, progress: Progress) -> None:
        """Keeps a state within an epoch, in host memory; called now and then and before a stop."""


class TrainingLoop:
    """Trains epochs with one compiled step, of one model or of several at once."""

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
          config: batch size, steps a call, minutes between saves.
          steps_per_epoch: of the longest epoch.

        Raises:
          InputError: several steps a call where the devices cannot take them.
        """
        if config.steps_per_call > 1 and "device" not in parallel.caches:
            raise InputError(
                f"config.steps_per_call={config.steps_per_call} needs config.parallel='jit' in a "
                "single process; set it to 1"
            )
        self._feed, self._parallel, self._config = feed, parallel, config
        self._key = parallel.replicate(key)
        # An epoch's first call is of one step; room for more than the others would stay empty.
        self._steps_per_call = min(
            config.steps_per_call or parallel.steps_per_call, max(1, steps_per_epoch - 1)
        )
        self._call = self.compile_call(step)

    def compile_call(self, step: Callable) -> Callable:
        """What trains one call: ``call(state, batch_or_parts, count) -> (state, sums)``."""
        if self._steps_per_call == 1:
            single = self._parallel.compile_train_step(step)
            return lambda state, batch, count: single(state, batch, self._key)

        def batch_of(resident: Any, part: Any) -> Any:
            return part if resident is None else take(resident, part)

        several = self._parallel.compile_train_steps(step, batch_of)
        return lambda state, parts, count: several(
            state, parts, self._key, self._feed.resident, count
        )

    def place(self, progress: Progress) -> Progress:
        """Puts a state on the devices."""
        return Progress(self._parallel.replicate(progress.state), progress.sums)

    def train_epoch(
        self,
        progress: Progress,
        rows: Int[np.ndarray, "steps b *models"],
        observer: Observer,
        stop: StopRequest,
    ) -> tuple[Progress, dict[str, float]]:
        """Trains the rest of an epoch.

        Sums are fetched one call late, so that the device never waits for the host. Of several
        steps a call, the first call takes one, so that its figures come soon.

        Args:
          progress: where the epoch stands; the state is on the devices.
          rows: which clips make each batch, as `Feed.rows` tells.
          observer: follows the epoch.
          stop: the request to stop, granted between two calls.

        Returns:
          The epoch's end; its ``seconds``, ``clips_per_second`` and ``input_share``, the share of
          time in which a batch was awaited.

        Raises:
          KeyboardInterrupt: stopped on request; the state is saved.
        """
        several = self._steps_per_call > 1
        calls = _calls(rows, self._steps_per_call)
        state, sums, unread = progress.state, progress.sums, None
        began = saved = time.monotonic()
        with self._batches(calls, several) as batches:
            for number, (call, batch) in enumerate(zip(calls, batches, strict=True), start=1):
                state, new = self._call(state, batch, np.int32(len(call)))
                sums = self._add(sums, unread)
                unread = new
                observer.step(int((call >= 0).sum()), sums)
                if number == len(calls):  # the caller saves a whole epoch, with its validation
                    break
                due = time.monotonic() - saved > 60 * self._config.checkpoint_minutes
                stopping, due = multihost.agree(number, stop.requested, due)
                if stopping or due:
                    sums, unread = self._add(sums, unread), None
                    newest = Progress(self._parallel.single(state), sums)
                    multihost.from_first(functools.partial(observer.save, newest))
                    saved = time.monotonic()
                if stopping:
                    raise KeyboardInterrupt
            sums = self._add(sums, unread)
            seconds = time.monotonic() - began
        return Progress(state, sums), {
            "seconds": seconds,
            "clips_per_second": int((rows >= 0).sum()) / seconds,
            "input_share": batches.waited / seconds,
        }

    def _batches(self, calls: list[np.ndarray], several: bool) -> Any:
        """The calls' batches on the devices, made ahead of their use."""
        shares = [self._parallel.own(call) for call in calls]  # of this process
        if several:
            parts = [_filled(share, self._steps_per_call) for share in shares]
            return self._feed.batches(parts, self._parallel.split_steps, gather=False)
        return self._feed.batches([share[0] for share in shares], self._parallel.split)

    def _add(self, sums: metrics.Sums, new: Any) -> metrics.Sums:
        """Adds a call's sums, on the devices, to the epoch's."""
        if new is None:
            return sums
        return metrics.add(sums, self._parallel.single(new), steps=self._steps_per_call > 1)


def _calls(rows: Int[np.ndarray, "steps *rows"], most: int) -> list[np.ndarray]:
    """An epoch's steps call by call: one, then as many as a call may take."""
    firsts = [0, *range(1, len(rows), most)][: len(rows)]
    return [rows[first:last] for first, last in itertools.pairwise([*firsts, len(rows)])]


def _filled(call: Int[np.ndarray, "taken *rows"], steps: int) -> Int[np.ndarray, "{steps} *rows"]:
    """A call's rows with padding for the steps that it does not take."""
    spare = ((0, steps - len(call)),) + ((0, 0),) * (call.ndim - 1)
    return np.pad(call, spare, constant_values=-1)
