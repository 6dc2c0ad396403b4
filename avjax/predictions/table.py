"""A CSV file of predictions, one row per window."""

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from avjax.predictions.prediction import Prediction
from avjax.runtime.files import atomic_file, explain_unwritable


class Table:
    """Writes rows; the header comes with the first, whose prediction names the classes.

    Columns: ``file``, ``start``, ``end`` in seconds, ``label`` (empty where nothing could be
    judged), each class's probability, ``calibrated_`` and the class's name if the model is
    calibrated, and ``missing`` streams, joined by blanks.
    """

    def __init__(self, file: BinaryIO, delimiter: str = ",") -> None:
        """Writes to a binary file, in UTF-8."""
        self._file, self._delimiter = file, delimiter
        self._classes: list[str] = []

    def add(self, path: str, prediction: Prediction) -> None:
        """Writes the windows of one file."""
        is_calibrated = prediction.calibrated is not None
        if not self._classes:
            self._classes = list(prediction.probabilities)
            calibrated = [f"calibrated_{name}" for name in self._classes] if is_calibrated else []
            self._write("file", "start", "end", "label", *self._classes, *calibrated, "missing")
        for window in prediction.timeline:
            groups = [window.probabilities, *([window.calibrated or {}] if is_calibrated else [])]
            numbers = [group.get(name, "") for group in groups for name in self._classes]
            times = round(window.start, 4), round(window.end, 4)
            self._write(path, *times, window.label or "", *numbers, " ".join(window.missing))

    def _write(self, *row: object) -> None:
        text = io.StringIO()
        csv.writer(text, delimiter=self._delimiter, lineterminator="\n").writerow(row)
        self._file.write(text.getvalue().encode("utf-8", errors="surrogateescape"))


@contextlib.contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Opens a table that replaces ``path`` after the block; an error leaves the old file.

    Commas separate its columns, tabs if the suffix is ``.tsv``.

    Raises:
      InputError: it cannot be written.
    """
    with (
        explain_unwritable(path, "choose another --csv"),
        atomic_file(path) as file,
    ):
        yield Table(file, "\t" if path.suffix.lower() == ".tsv" else ",")
