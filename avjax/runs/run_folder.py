"""A run's folder: its training states, best model and figures, kept by the first process."""

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
    """Keeps a run; an `Observer` of its training.

    All processes call the methods alike; the first one alone reads and writes.
    """

    def __init__(self, workdir: Path) -> None:
        """Opens nothing before it is needed."""
        self._workdir = workdir
        self._opened = contextlib.ExitStack()
        self._log: MetricsLog | None = None

    @functools.cached_property
    def _checkpoints(self) -> RunCheckpoints:
        return self._opened.enter_context(RunCheckpoints(self._workdir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def restore(self, start: Progress) -> Progress:
        """The newest state of the run; ``start``, in host memory, where there is none."""
        return multihost.from_first(lambda: self._checkpoints.restore(start) or start)

    def open_log(
        self, first_epoch: int, total_clips: int, done_clips: int, *, bar: bool = True
    ) -> None:
        """Shows progress from here on; arguments as of `MetricsLog`."""
        if multihost.is_first():
            log = MetricsLog(self._workdir, first_epoch, total_clips, done_clips, bar=bar)
            self._log = self._opened.enter_context(log)

    def step(self, clips: int, sums: metrics.Sums) -> None:
        """Shows a call's clips and the epoch's sums so far."""
        if self._log is not None:
            self._log.step(clips, sums)

    def save(self, progress: Progress) -> None:
        """Keeps a state within an epoch; called in the first process alone."""
        self._checkpoints.save(int(progress.state.step), progress)

    def end_epoch(
        self,
        progress: Progress,
        trained: Mapping[str, Any],
        validated: Mapping[str, float],
        card: ModelCard,
    ) -> None:
        """Writes an epoch: its figures, its state, its model where it is the best so far.

        Args:
          progress: the epoch's end, in host memory, with the sums of the next one: none.
          trained: the line of training in metrics.jsonl.
          validated: figures of the validation split.
          card: of the model.
        """

        def write() -> None:
            log = self._log
            assert log is not None, "end_epoch needs open_log first"
            improved = validated["accuracy"] > best_epoch(log.lines)[1]
            place = {"epoch": trained["epoch"], "split": "validation", "step": trained["step"]}
            log.end_epoch(trained, place | dict(validated))
            if improved:
                save_model(self._workdir / BEST, progress.state.variables, card)
            self.save(progress)

        multihost.from_first(write)
