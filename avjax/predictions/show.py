"""Shows predictions: on screen, as JSON lines, and in files."""

import contextlib
import json
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path

from avjax import cli
from avjax.errors import InputError
from avjax.predictions.prediction import Prediction
from avjax.predictions.table import open_table
from avjax.runtime.progress import progress_bar
from avjax.runtime.sealed import finite


def show(
    results: Iterable[tuple[Path, Prediction | InputError]],
    files: Sequence[Path],
    *,
    as_json: bool = False,
    csv: Path | None = None,
    plot: Path | None = None,
    video: Path | None = None,
    debug: bool = False,
) -> int:
    """Prints each prediction, or an error line for a file that failed, and writes what is asked.

    Args:
      results: each file's prediction or error.
      files: their paths; several have a progress bar.
      as_json: print one line of JSON per file.
      csv: table to write, one row per window; replaced once all files are done.
      plot: figure of the timeline to write; for several files see `beside`.
      video: video with the prediction drawn in to write; likewise.
      debug: print the traceback of every file that fails.

    Returns:
      Exit status: 0, or 1 if a file failed.

    Raises:
      InputError: the table cannot be written, a plot's suffix names no format, or what is written
        would replace one of the files.
    """
    status, total = 0, len(files)
    if plot is not None:
        from avjax.predictions.plot import check_format  # loads matplotlib

        check_format(plot)
    plots, videos = beside(plot, files), beside(video, files)
    read = {file.resolve() for file in files}
    for out in (*([csv] if csv else []), *plots.values(), *videos.values()):
        if out.resolve() in read:
            raise InputError(f"{out} would replace the clip itself; name another file")
    with contextlib.ExitStack() as stack:
        table = None if csv is None else stack.enter_context(open_table(csv))
        bar = stack.enter_context(progress_bar(total=total, unit="file", disable=total < 2))
        for path, result in results:
            if isinstance(result, Prediction):
                result = _written(path, result, plots.get(path), videos.get(path))
            with bar.external_write_mode(file=sys.stdout):
                if isinstance(result, InputError):
                    status = cli.INPUT_STATUS
                    if debug:
                        traceback.print_exception(result)
                    print(f"error: {result}", file=sys.stderr)
                elif as_json:
                    line = finite({"clip": str(path), **result.to_json()})
                    print(json.dumps(line, allow_nan=False))
                else:
                    print(f"{path}: {result.label}\n{result}")
            if table is not None and isinstance(result, Prediction):
                table.add(str(path), result)
            bar.update()
    return status


def _written(
    path: Path, prediction: Prediction, plot: Path | None, video: Path | None
) -> Prediction | InputError:
    """Writes a file's plot and video; returns the prediction, or the error that prevented it."""
    try:
        if plot is not None:
            from avjax.predictions.plot import write_plot

            write_plot(plot, path.name, prediction)
        if video is not None:
            from avjax.predictions.annotate import annotate

            annotate(path, video, prediction)
    except InputError as error:
        return error
    return prediction


def beside(out: Path | None, files: Sequence[Path]) -> dict[Path, Path]:
    """Returns an output file for each of several files.

    One file has ``out`` itself. Each of several has its own beside it, whose name begins with that
    of ``out`` and ends with the file's: ``timeline.png`` becomes ``timeline-clip.png``, and where
    two files have one name ``timeline-clip-2.png``.
    """
    if out is None:
        return {}
    if len(files) == 1:
        return {files[0]: out}
    taken: set[str] = set()
    names: dict[Path, Path] = {}
    for file in files:
        name, number = f"{out.stem}-{file.stem}", 1
        while name in taken:
            number += 1
            name = f"{out.stem}-{file.stem}-{number}"
        taken.add(name)
        names[file] = out.with_name(name + out.suffix)
    return names
