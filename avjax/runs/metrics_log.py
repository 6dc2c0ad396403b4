"""Logs a run's progress: progress bar, metrics.jsonl and TensorBoard events."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from avjax.runtime.files import append_json_line, write_text
from avjax.runtime.progress import progress_bar
from avjax.training import metrics

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Logs one run.

    Attributes:
      lines: all lines of metrics.jsonl, including those from before a resume.
    """

    def __init__(
        self, workdir: Path, first_epoch: int, total_clips: int, done_clips: int, *, bar: bool
    ) -> None:
        """Opens the log and drops the lines of epochs that will be repeated.

        Args:
          workdir: the run's folder.
          first_epoch: the next epoch to train, from 1.
          total_clips: number of clips over all epochs.
          done_clips: number of clips already trained on.
          bar: whether to show the progress bar; of several runs trained together, one does.
        """
        self._path, self._epoch = workdir / METRICS_FILE, first_epoch
        self.lines = [line for line in read_metrics(workdir) if line["epoch"] < first_epoch]
        if self._path.exists():
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))
        with _without_torch():
            from tensorboardX import SummaryWriter
        self._events = SummaryWriter(str(workdir))
        self._bar = progress_bar(
            total=total_clips, initial=done_clips, unit="clip", disable=not bar
        )

    def step(self, clips: int, sums: metrics.Sums) -> None:
        """Advances the bar by ``clips``; ``sums`` are the epoch's so far."""
        self._bar.set_description(f"epoch {self._epoch}", refresh=False)
        if sums.count:
            summary = metrics.summarise(sums)
            postfix = {"loss": f"{summary['loss']:.3f}", "accuracy": f"{summary['accuracy']:.1%}"}
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(clips)

    def end_epoch(self, *lines: Mapping[str, Any]) -> None:
        """Writes an epoch's lines, with ``epoch``, ``split``, ``step`` and metrics."""
        for line in lines:
            append_json_line(self._path, line)
            self.lines.append(dict(line))
            for name, value in line.items():
                if isinstance(value, float):
                    self._events.add_scalar(f"{line['split']}/{name}", value, line["step"])
        self._events.flush()
        self._epoch += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the bar and the event file."""
        self._bar.close()
        self._events.close()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides torch from tensorboardX, which would import it needlessly."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """Reads a run's metrics.jsonl; returns no lines if it does not exist.

    Skips a last line that was truncated by a crash.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def best_epoch(lines: Sequence[dict[str, Any]]) -> tuple[int, float]:
    """Returns epoch and accuracy of the best validation: the earliest on ties, else (0, -1)."""
    best = (0, -1.0)
    for line in lines:
        if line["split"] == "validation" and line["accuracy"] > best[1]:
            best = (line["epoch"], line["accuracy"])
    return best
