"""Damages the files that commands read, and counts what happens.

python tools/damage.py --tries 2000

Trains a small run, then flips a bit of a file, cuts it or removes it, reads it as a command does,
and puts it back. Prints a Markdown table: "same" is the undisturbed result; "told" the same, or
that of the training state before, with a line about it; "refused" an InputError that names the
file's folder. Anything else is a fault, which is printed and sets the exit status: "silent" another
result, "unnamed" an InputError that does not tell the place, "traceback" an error of a library.
"""

import contextlib
import functools
import io
import re
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    import jax
    import numpy as np
    import soundfile
    from fault_jobs import write_sounds

    from avjax.config import RunConfig, check_resumable
    from avjax.crossval import cross_validate
    from avjax.data.pipeline import open_dataset
    from avjax.evaluate import evaluate_run
    from avjax.preparation.settings import PreparationSettings
    from avjax.preparation.shards import Shard, merge
    from avjax.prepare import prepare
    from avjax.runs.checkpoints import named_arrays
    from avjax.runs.run_folder import RunFolder
    from avjax.runs.saved_model import load_model
    from avjax.runtime.sealed import digest_arrays, tell_unverified
    from avjax.train import build
    from avjax.training.loop import Progress

COLUMNS = ("same", "told", "refused", "silent", "unnamed", "traceback")
FAULTS = COLUMNS[3:]
WAYS = ("flip", "flip", "flip", "cut", "cut", "remove")


class Reader(NamedTuple):
    """A command's way to read files.

    Attributes:
      name: the command and what it reads.
      folder: holds the files.
      files: patterns below the folder.
      read: reads the files and returns the result, comparable.
      others: results that are right too if a line tells the reason.
      weight: share of the tries; reading some takes seconds.
    """

    name: str
    folder: Path
    files: tuple[str, ...]
    read: Callable[[], Any]
    others: tuple[Any, ...] = ()
    weight: int = 4


def main(argv: list[str] | None = None) -> int:
    """Runs the command."""
    return cli.run(argv, define_flags, job, __doc__ or "")


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_integer("tries", 2000, "Damages over all files.", 1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed of the damages.", 0, flag_values=values)


def job(values: flags.FlagValues, positional: list[str]) -> int:
    """Prints the table; returns 1 if a damage was not noticed or not explained."""
    cli.no_arguments(positional)
    rng = np.random.default_rng(values.seed)
    totals: Counter[str] = Counter()
    print(f"| read by | tries | {' | '.join(COLUMNS)} |\n|{' --- |' * (len(COLUMNS) + 2)}")
    with tempfile.TemporaryDirectory(prefix="avjax-damage-") as folder:
        readers = _readers(Path(folder))
        for reader in readers:
            tries = -(-values.tries * reader.weight // sum(r.weight for r in readers))
            counts = _damage(reader, tries, rng)
            totals += counts
            print(_row(reader.name, counts), flush=True)
    print(_row("all", totals))
    return int(any(totals[name] for name in FAULTS))


def _row(name: str, counts: Counter[str]) -> str:
    cells = [name, str(counts.total()), *(str(counts[column]) for column in COLUMNS)]
    return f"| {' | '.join(cells)} |"


def _damage(reader: Reader, tries: int, rng: np.random.Generator) -> Counter[str]:
    """Damages a reader's files, in turn, and counts the outcomes."""
    files = sorted({path for name in reader.files for path in reader.folder.glob(name)})
    files = [path for path in files if path.is_file()]
    with contextlib.redirect_stdout(io.StringIO()):
        expected = reader.read()
    counts: Counter[str] = Counter()
    for number in range(tries):
        path = files[number % len(files)]
        way = str(rng.choice(WAYS))
        whole = path.read_bytes()
        place = int(rng.integers(0, max(1, len(whole))))
        if way == "remove":
            path.unlink()
        elif way == "cut":
            path.write_bytes(whole[:place])
        elif whole:
            flipped = bytes([whole[place] ^ 1 << int(rng.integers(8))])
            path.write_bytes(whole[:place] + flipped + whole[place + 1 :])
        outcome, message = _outcome(reader, expected)
        path.write_bytes(whole)
        counts[outcome] += 1
        if outcome in FAULTS:
            name = path.relative_to(reader.folder)
            print(f"{outcome}: {reader.name}, {way} {name} at {place}: {message}", file=sys.stderr)
    return counts


def _outcome(reader: Reader, expected: Any) -> tuple[str, str]:
    """Reads damaged files; returns the outcome, and the error if any."""
    tell_unverified.cache_clear()
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            result = reader.read()
    except InputError as error:
        return ("refused" if str(reader.folder) in str(error) else "unnamed"), str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"[:300]
    is_told = str(reader.folder) in told.getvalue()
    if result == expected:
        return ("told" if is_told else "same"), ""
    return ("told" if is_told and result in reader.others else "silent"), told.getvalue()


# --------------------------------------------------------------------------------------- readers


def _readers(folder: Path) -> list[Reader]:
    """Makes all files in a folder; returns how commands read them."""
    data = write_sounds(folder / "data", dict.fromkeys((1, 2, 3), 6))
    config = RunConfig.from_tree(
        {
            "model.kind": "audio",
            "mask": "nodropout",
            "data.dir": str(data),
            "data.folds": ("train: actor=1; validation: actor=2; test: actor=3",),
            "num_epochs": 3,
            "batch_size": 4,
        }
    )
    runs = folder / "runs"
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        cross_validate(config, runs, "config")
    run = runs / "config-0-seed1"
    config = config.with_fold(config.data.folds[0], config.loop.seed)
    start = build(config).start
    return [
        Reader("`predict`: the model", run, ("best/*",), lambda: _model(run)),
        _state_reader(run, config, start),
        Reader(
            "`crossval`: evaluation.json",
            runs,
            ("*/evaluation.json",),
            functools.partial(cross_validate, config, runs, "config"),
            weight=1,
        ),
        Reader("`train`: config.json", run, ("config.json",), lambda: check_resumable(config, run)),
        Reader(
            "`evaluate`: report",
            run,
            ("*.json", "metrics.jsonl", "best/*", "checkpoints/*/card/*"),
            lambda: _report(run),
            (_without_newest_state(run, lambda: _report(run)),),
            weight=1,
        ),
        Reader(
            "`train`: metadata of the dataset",
            data,
            ("*.json", "*.txt", "*.sha256"),
            lambda: _dataset(data),
        ),
        Reader(
            "`train`: records of the dataset", data, ("*.array_record*",), lambda: _dataset(data)
        ),
        *_preparation_readers(folder / "preparation"),
    ]


def _state_reader(run: Path, config: RunConfig, start: Progress) -> Reader:
    """Reads the training state, and the best model with it, as resuming does."""

    def read() -> str:
        with RunFolder(run) as opened:
            progress = opened.restore(start)
            return digest_arrays(named_arrays(jax.device_get(progress)))

    before = _without_newest_state(run, read)
    return Reader("`train`: the training state", run, ("checkpoints/*/**/*",), read, (before,))


def _without_newest_state(run: Path, read: Callable[[], Any]) -> Any:
    """Returns what is read if the newest training state does not count."""
    newest = max((run / "checkpoints").iterdir(), key=lambda path: int(path.name))
    hidden = newest.rename(run / "hidden")
    try:
        return read()
    finally:
        hidden.rename(newest)


def _model(run: Path) -> Any:
    variables, card = load_model(run)
    return digest_arrays(named_arrays(jax.device_get(variables))), card


def _report(run: Path) -> str:
    evaluate_run(run)
    page = (run / "report.html").read_text()
    page = re.sub(r"<tr>(<t[hd][^>]*>[^<]*</t[hd]>){2}</tr>", _without_date, page)
    return re.sub(r"-[a-z]+[0-9a-f]{8,}", "", page)  # Matplotlib's random ids


def _without_date(row: re.Match[str]) -> str:
    """Returns a row of a table, or nothing for the date of a file."""
    return "" if " UTC" in row[0] else row[0]


def _dataset(directory: Path) -> Any:
    opened = open_dataset(directory)
    return opened.metadata, opened.records, digest_arrays(opened.select("").columns)


def _preparation_readers(folder: Path) -> Iterator[Reader]:
    """Prepares sounds: clips in hand, a complete dataset, and a shard."""
    source = folder / "source" / "Actor_01"
    source.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for emotion in ("01", "02", "03"):
        sound = rng.normal(0, 0.1, 22050)
        soundfile.write(source / f"03-01-{emotion}-01-01-01-01.wav", sound, 22050)
    settings = PreparationSettings("fixed", 2, 64, False, 1.0)
    quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    with quiet[0], quiet[1]:
        done = folder / "done"
        prepare(source.parent, done, settings)
        prepare(source.parent, folder / "merged", settings, shard=Shard(1, 1))
    kept = shutil.copytree(folder / "merged.shard-1-of-1", folder / "kept")
    (kept / "shard.json").unlink()

    def resumed() -> Any:
        out = folder / "resumed"
        shutil.rmtree(out, ignore_errors=True)
        shutil.rmtree(out.with_name("resumed.partial"), ignore_errors=True)
        shutil.copytree(kept, out.with_name("resumed.partial"))
        try:
            prepare(source.parent, out, settings)
        except InputError as error:  # names the copy
            raise InputError(str(error).replace("resumed.partial", "kept")) from error
        return _dataset(out)

    def merged() -> Any:
        shutil.rmtree(folder / "merged", ignore_errors=True)
        merge(folder / "merged")
        return _dataset(folder / "merged")

    yield Reader("`prepare`: clips in hand", kept, ("clips/*", "settings.json"), resumed, weight=1)
    yield Reader(
        "`prepare`: a complete dataset",
        done,
        ("prepare.json",),
        lambda: prepare(source.parent, done, settings),
    )
    shard = folder / "merged.shard-1-of-1"
    yield Reader("`prepare --merge`: a shard", shard, ("*.json", "clips/*"), merged, weight=1)


if __name__ == "__main__":
    sys.exit(main())
