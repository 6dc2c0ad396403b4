"""What a run shows while it trains: a progress bar, metrics.jsonl and TensorBoard events."""

import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from avjax.runtime.files import append_json_line, write_text
from avjax.training import metrics

METRICS_FILE = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 30.0  # where the bar is not on a terminal but in a log file


class MetricsLog:
    """One run's live view.

    Attributes:
      lines: every line of metrics.jsonl, of earlier starts of the same run too.
    """

    def __init__(
        self, workdir: Path, first_epoch: int, total_clips: int, done_clips: int, *, bar: bool
    ) -> None:
        """Opens the view; lines of epochs that will be trained again are dropped.

        Args:
          workdir: the run's folder.
          first_epoch: the epoch about to be trained (they count from 1).
          total_clips: clips over all epochs.
          done_clips: clips trained on before this start.
          bar: show progress; one of several models that train together shows that of all.
        """
        self._path, self._epoch = workdir / METRICS_FILE, first_epoch
        self.lines = [line for line in read_metrics(workdir) if line["epoch"] < first_epoch]
        if self._path.exists():
            write_text(self._path, "".join(json.dumps(line) + "\n" for line in self.lines))
        with _without_torch():
            from tensorboardX import SummaryWriter
        self._events = SummaryWriter(str(workdir))
        on_terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total_clips,
            initial=done_clips,
            unit="clip",
            disable=not bar,
            dynamic_ncols=on_terminal,
            mininterval=0.1 if on_terminal else _SECONDS_BETWEEN_LINES,
        )

    def step(self, clips: int, sums: metrics.Sums) -> None:
        """Moves the bar on by ``clips``; ``sums`` are the epoch's so far."""
        self._bar.set_description(f"epoch {self._epoch}", refresh=False)
        if sums.count:
            figures = metrics.summarise(sums)
            shown = {"loss": f"{figures['loss']:.3f}", "accuracy": f"{figures['accuracy']:.1%}"}
            self._bar.set_postfix(shown, refresh=False)
        self._bar.update(clips)

    def end_epoch(self, *lines: Mapping[str, Any]) -> None:
        """Writes an epoch's lines: ``epoch``, ``split``, ``step`` and figures."""
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
        """Leaves the bar as it stands and closes the event file."""
        self._bar.close()
        self._events.close()


@contextlib.contextmanager
def _without_torch() -> Iterator[None]:
    """Hides torch, which tensorboardX would import wherever it is installed, for no use here."""
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if hidden:
            del sys.modules["torch"]


def read_metrics(workdir: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl; none where it does not exist.

    A last line cut short by a crash is left out.
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
    """Epoch and accuracy of the best validation; the earliest on ties, (0, -1) without any."""
    best = (0, -1.0)
    for line in lines:
        if line["split"] == "validation" and line["accuracy"] > best[1]:
            best = (line["epoch"], line["accuracy"])
    return best
