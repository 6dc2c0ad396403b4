"""A run's folder: checkpoints, best model and metrics, written by the first process."""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from avjax.errors import InputError
from avjax.runs.checkpoints import RunCheckpoints, check_finite
from avjax.runs.display import Display
from avjax.runs.metrics_log import MetricsLog, best_epoch
from avjax.runs.run_config import CHECKPOINTS
from avjax.runs.saved_model import BEST, ModelCard, best_card, save_model
from avjax.runtime import multihost
from avjax.runtime.files import explain_unwritable, locked
from avjax.training.loop import Progress
from avjax.training.step import Sums

_ANOTHER_WORKDIR = "train again in another --workdir"
LOCK_SECONDS = 60.0  # that a job waits for its predecessor, which may be saving
_LOCK = "lock"


@contextlib.contextmanager
def run_lock(workdir: Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder of training. Collective.

    Raises:
      InputError: another process still uses it after `LOCK_SECONDS`, or it cannot be written.
    """
    busy = f"another process trains in {workdir}; wait for it, or choose another --workdir"
    with contextlib.ExitStack() as exit_stack:

        def acquire() -> None:
            with explain_unwritable(workdir, "choose another --workdir"):
                exit_stack.enter_context(locked(workdir / _LOCK, busy, wait=LOCK_SECONDS))

        multihost.from_first(acquire)
        yield


class RunFolder:
    """Saves and restores a run; an `Observer` of its training.

    All processes call the methods, but only the first one reads and writes.
    """

    def __init__(self, workdir: Path) -> None:
        """Opens files lazily."""
        self._workdir = workdir
        self._exit_stack = contextlib.ExitStack()
        self._log: MetricsLog | None = None
        self._display: Display | None = None
        self._best_accuracy = -1.0

    @functools.cached_property
    def _checkpoints(self) -> RunCheckpoints:
        return self._exit_stack.enter_context(RunCheckpoints(self._workdir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._exit_stack.__exit__(*error)

    def restore(self, start: Progress) -> Progress:
        """Restores the newest undamaged checkpoint; returns ``start`` if there is none.

        Raises:
          InputError: all checkpoints or the best model are damaged or missing.
        """

        def read() -> Progress:
            restored = self._checkpoints.restore(start)
            self._check_best(restored is not None)
            return start if restored is None else restored

        return multihost.from_first(read)

    def _check_best(self, has_state: bool) -> None:
        """Checks that checkpoint and best model belong together; remembers the model's card.

        The model of an epoch is saved before its checkpoint, so it may be one epoch ahead.
        """
        card = best_card(self._workdir)
        if card is not None and "accuracy" not in card.metrics:
            raise InputError(f"{self._workdir / BEST} is not a run's model; {_ANOTHER_WORKDIR}")
        if card is not None and card.epoch > 1 and not has_state:
            raise InputError(
                f"{self._workdir / CHECKPOINTS} is lost, though {self._workdir / BEST} is of epoch "
                f"{card.epoch}; restore it from a copy, or {_ANOTHER_WORKDIR}"
            )
        known = best_epoch(self._checkpoints.lines or ())
        if known[0] and (card is None or card.metrics["accuracy"] < known[1]):
            raise InputError(
                f"{self._workdir / BEST} lacks the model of epoch {known[0]}, the best so far; "
                f"restore it from a copy, or {_ANOTHER_WORKDIR}"
            )
        self._best_accuracy = -1.0 if card is None else card.metrics["accuracy"]

    def open_log(self, first_epoch: int, display: Display | None = None) -> None:
        """Starts logging the epochs from ``first_epoch`` on; closes the display with the folder."""
        self._display = display and self._exit_stack.enter_context(display)
        if multihost.is_first():
            log = MetricsLog(self._workdir, first_epoch, lines=self._checkpoints.lines)
            self._log = self._exit_stack.enter_context(log)

    def step(self, clips: int, sums: Sums) -> None:
        """Shows a call's clips and the epoch's sums so far."""
        if self._display is not None:
            self._display.step(clips, sums)

    def save(self, progress: Progress) -> None:
        """Saves a checkpoint; only the first process may call this."""
        lines = () if self._log is None else self._log.lines
        self._checkpoints.save(int(progress.state.step), progress, lines)

    def end_epoch(
        self,
        progress: Progress,
        trained: Mapping[str, Any],
        validated: Mapping[str, float],
        card: ModelCard,
    ) -> None:
        """Writes an epoch's metrics, its checkpoint and, if it is the best so far, its model.

        Args:
          progress: the state at the end of the epoch, in host memory, with empty sums.
          trained: the epoch's training line of metrics.jsonl.
          validated: metrics of the validation split.
          card: the model's card.

        Raises:
          InputError: the state holds a number that is not finite; nothing is written.
        """

        def write() -> None:
            log = self._log
            assert log is not None, "end_epoch needs open_log first"
            check_finite(progress)
            header = {"epoch": trained["epoch"], "split": "validation", "step": trained["step"]}
            log.end_epoch(trained, header | dict(validated))
            is_best = validated["accuracy"] > self._best_accuracy
            if is_best:
                save_model(self._workdir / BEST, progress.state.variables, card)
                self._best_accuracy = validated["accuracy"]
            self.save(progress)
            if self._display is not None:
                self._display.validated(trained, validated, best=is_best)

        multihost.from_first(write)
