"""Shows predictions: on screen, as JSON lines, and in files."""

import contextlib
import json
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path

from avjax import cli
from avjax.errors import InputError
from avjax.predictions.prediction import Prediction
from avjax.predictions.table import open_table
from avjax.runtime.progress import progress_bar
from avjax.runtime.sealed import finite


def show(
    results: Iterable[tuple[Path, Prediction | InputError]],
    total: int,
    *,
    as_json: bool = False,
    csv: Path | None = None,
    debug: bool = False,
) -> int:
    """Prints each prediction, or an error line for a file that failed, and writes what is asked.

    Args:
      results: each file's prediction or error.
      total: number of files; several have a progress bar.
      as_json: print one line of JSON per file.
      csv: table to write, one row per window; replaced once all files are done.
      debug: print the traceback of every file that fails.

    Returns:
      Exit status: 0, or 1 if a file failed.

    Raises:
      InputError: an output cannot be written.
    """
    status = 0
    with contextlib.ExitStack() as stack:
        table = None if csv is None else stack.enter_context(open_table(csv))
        bar = stack.enter_context(progress_bar(total=total, unit="file", disable=total < 2))
        for path, result in results:
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
