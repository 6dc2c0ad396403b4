"""A run's folder: checkpoints, best model and metrics, written by the first process."""

import contextlib
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from avjax.runs.checkpoints import RunCheckpoints
from avjax.runs.metrics_log import MetricsLog, best_epoch
from avjax.runs.saved_model import BEST, ModelCard, save_model
from avjax.runtime import multihost
from avjax.training import metrics
from avjax.training.loop import Progress


class RunFolder:
    """Saves and restores a run; an `Observer` of its training.

    All processes call the methods, but only the first one reads and writes.
    """

    def __init__(self, workdir: Path) -> None:
        """Opens files lazily."""
        self._workdir = workdir
        self._exit_stack = contextlib.ExitStack()
        self._log: MetricsLog | None = None

    @functools.cached_property
    def _checkpoints(self) -> RunCheckpoints:
        return self._exit_stack.enter_context(RunCheckpoints(self._workdir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._exit_stack.close()

    def restore(self, start: Progress) -> Progress:
        """Restores the newest checkpoint; returns ``start``, in host memory, if there is none."""
        return multihost.from_first(lambda: self._checkpoints.restore(start) or start)

    def open_log(
        self, first_epoch: int, total_clips: int, done_clips: int, *, bar: bool = True
    ) -> None:
        """Starts logging; see `MetricsLog` for the arguments."""
        if multihost.is_first():
            log = MetricsLog(self._workdir, first_epoch, total_clips, done_clips, bar=bar)
            self._log = self._exit_stack.enter_context(log)

    def step(self, clips: int, sums: metrics.Sums) -> None:
        """Updates the progress bar with a call's clips and the epoch's sums so far."""
        if self._log is not None:
            self._log.step(clips, sums)

    def save(self, progress: Progress) -> None:
        """Saves a checkpoint; only the first process may call this."""
        self._checkpoints.save(int(progress.state.step), progress)

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
        """

        def write() -> None:
            log = self._log
            assert log is not None, "end_epoch needs open_log first"
            improved = validated["accuracy"] > best_epoch(log.lines)[1]
            header = {"epoch": trained["epoch"], "split": "validation", "step": trained["step"]}
            log.end_epoch(trained, header | dict(validated))
            if improved:
                save_model(self._workdir / BEST, progress.state.variables, card)
            self.save(progress)

        multihost.from_first(write)
