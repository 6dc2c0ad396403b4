"""Logs a run's metrics: metrics.jsonl and TensorBoard events."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from avjax.errors import InputError
from avjax.runtime.files import append_json_line, naming, write_text
from avjax.runtime.sealed import finite
from avjax.runtime.typed import fits

METRICS_FILE = "metrics.jsonl"
SPLITS = ("train", "validation")


class MetricsLog:
    """Logs one run.

    Attributes:
      lines: all lines of metrics.jsonl, including those from before a resume.
    """

    def __init__(
        self,
        workdir: Path,
        first_epoch: int,
        *,
        lines: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Opens the log and drops the lines of epochs that will be repeated.

        Args:
          workdir: the run's folder.
          first_epoch: the next epoch to train, from 1.
          lines: the lines of the epochs before, from the run's checkpoint, which replace those in
            the file; None takes the file's.

        Raises:
          InputError: without ``lines``, the file lacks an epoch.
        """
        self._path = workdir / METRICS_FILE
        self.lines = _check_complete(workdir, first_epoch) if lines is None else list(lines)
        if self.lines or self._path.exists():
            self._replace_file()
        self._workdir = workdir
        self._events: _EventFile | None = None  # a finished run that is called again gets none

    def _replace_file(self) -> None:
        """Writes the file anew; tells if it did not begin with the lines that it should hold."""
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in self.lines)
        former = self._path.read_bytes() if self._path.exists() else b""
        if not former.startswith(text.encode()):
            print(
                f"note: {self._path} was damaged; written anew from the checkpoint", file=sys.stderr
            )
        write_text(self._path, text)

    def end_epoch(self, *lines: Mapping[str, Any]) -> None:
        """Writes an epoch's lines, with ``epoch``, ``split``, ``step`` and metrics."""
        self._events = self._events or _EventFile(self._workdir)
        for line in lines:
            line = finite(line)
            append_json_line(self._path, line)
            self.lines.append(line)
            for name, value in line.items():
                if isinstance(value, float):
                    self._events.add(f"{line['split']}/{name}", value, line["step"])
        self._events.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Closes the event file."""
        # If an error ends the run, the disk may fail here too, and the first error tells more.
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            if self._events is not None:
                self._events.close()


class _EventFile:
    """Scalars for TensorBoard.

    tensorboardX's `SummaryWriter` writes in a thread, and waits forever once that has met a full
    disk; here each call writes or raises.
    """

    def __init__(self, workdir: Path) -> None:
        with _without_torch():
            from tensorboardX.event_file_writer import EventsWriter
        self._writer, self._workdir = EventsWriter(str(workdir / "events")), workdir

    def add(self, name: str, value: float, step: int) -> None:
        """Adds a scalar."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        event = Event(summary=scalar(name, value), step=step, wall_time=time.time())
        with naming(self._workdir):
            self._writer.write_event(event)

    def flush(self) -> None:
        """Makes the scalars durable."""
        with naming(self._workdir):
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        with naming(self._workdir):
            self._writer.close()


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

    Raises:
      InputError: another line is damaged.
    """
    path = workdir / METRICS_FILE
    if not path.exists():
        return []
    lines = []
    texts = path.read_bytes().splitlines(keepends=True)
    for number, text in enumerate(texts, start=1):
        try:
            line = json.loads(text, parse_constant=lambda _: None)  # NaN of earlier versions
            check_line(line)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            if number == len(texts) and not text.endswith(b"\n"):
                break
            raise InputError(
                f"{path} is damaged in line {number}; restore it from a copy, or remove it (the "
                "run then goes on without its former figures)"
            ) from error
        lines.append(line)
    return lines


def check_line(line: Any) -> None:
    """Checks a line of metrics.jsonl.

    Raises:
      TypeError or ValueError: it is no mapping of names to figures, with split, epoch and step.
    """
    if not fits(line, dict[str, str | float | None]):
        raise TypeError("no mapping of names to figures")
    split, epoch, step, accuracy = (line.get(x) for x in ("split", "epoch", "step", "accuracy"))
    if not (type(split) is str and type(epoch) is type(step) is int and fits(accuracy, float)):
        raise ValueError("no epoch, split, step or accuracy")


def best_epoch(lines: Sequence[Mapping[str, Any]]) -> tuple[int, float]:
    """Returns epoch and accuracy of the best validation: the earliest on ties, else (0, -1)."""
    best = (0, -1.0)
    for line in lines:
        if line["split"] == "validation" and line["accuracy"] > best[1]:
            best = (line["epoch"], line["accuracy"])
    return best


def _check_complete(workdir: Path, first_epoch: int) -> list[dict[str, Any]]:
    """Reads the lines before an epoch, and checks that there are those of all epochs, or none.

    Raises:
      InputError: an epoch is missing.
    """
    lines = [line for line in read_metrics(workdir) if line["epoch"] < first_epoch]
    epochs = {split: [x["epoch"] for x in lines if x["split"] == split] for split in SPLITS}
    if lines and any(found != list(range(1, first_epoch)) for found in epochs.values()):
        raise InputError(
            f"{workdir / METRICS_FILE} lacks lines of epochs before {first_epoch}, which the run's "
            "checkpoint has passed; restore it from a copy, or remove it (the run then goes on "
            "without its former figures)"
        )
    if not lines and first_epoch > 1:
        print(
            f"note: {workdir / METRICS_FILE} is lost; it goes on with epoch {first_epoch}",
            file=sys.stderr,
        )
    return lines
