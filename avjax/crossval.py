"""Cross-validation: one run per fold and seed, and statistics over the runs."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("crossval"))

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avjax.config import RunConfig, check_resumable
from avjax.data.folds import list_folds
from avjax.errors import InputError
from avjax.evaluate import EVALUATION_FILE
from avjax.runs.run_config import REPORT_FILE
from avjax.runs.run_folder import run_lock
from avjax.runtime.files import write_json
from avjax.runtime.sealed import read_json
from avjax.train import train
from avjax.train_vmapped import train_vmapped

SUMMARY_FILE = "crossval.json"


def cross_validate(
    config: RunConfig,
    workdir: str | Path,
    folds: str,
    seeds: Sequence[int] | None = None,
    *,
    together: bool = False,
) -> dict[str, Any]:
    """Trains and evaluates every fold with every seed; finished runs are only read.

    Args:
      config: see `configs/common.py`; its fold and seed are replaced.
      workdir: gets one run folder per fold and seed, and ``crossval.json``, updated after every
        run.
      folds: `msaf6`, `five`, or one named fold such as `published`, or `config`: the
        folds in ``config.data.folds``.
      seeds: by default the config's seed.
      together: train all runs as one vmapped program; see `avjax.train_vmapped`.

    Returns:
      The content of ``crossval.json``; see `summarise`.

    Raises:
      InputError: as `avjax.train.train`.
    """
    workdir = Path(workdir)
    seeds = [config.loop.seed] if seeds is None else list(seeds)
    specs = _specs(config, folds)
    planned = [(fold, seed) for fold in specs for seed in seeds]
    with run_lock(workdir):
        if together:
            configs = {
                workdir / _folder(fold, seed): config.with_fold(specs[fold], seed)
                for fold, seed in planned
            }
            train_vmapped(
                {path: c for path, c in configs.items() if not (path / EVALUATION_FILE).exists()}
            )
        runs: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for number, (fold, seed) in enumerate(planned, start=1):
            print(f"run {number} of {len(planned)}: fold {fold}, seed {seed}", flush=True)
            folder = workdir / _folder(fold, seed)
            evaluation = _run(config.with_fold(specs[fold], seed), folder)
            figures = _run_summary(evaluation, folder)
            runs.append({"fold": fold, "seed": seed, "folder": folder.name, **figures})
            summary = {"config": config.name, "folds": folds, "planned_runs": len(planned)}
            summary |= summarise(runs)
            write_json(workdir / SUMMARY_FILE, summary)
    return summary


def _specs(config: RunConfig, folds: str) -> dict[str, str]:
    """The folds of a cross-validation by name, each as ``config.data.fold`` takes it."""
    if folds != "config":
        return {name: name for name in list_folds(folds)}
    if not config.data.folds:
        raise InputError("the config lists no folds; set config.data.folds, or name --folds=msaf6")
    return {f"config/{k}": fold for k, fold in enumerate(config.data.folds)}


def _folder(fold: str, seed: int) -> str:
    return f"{fold.replace('/', '-')}-seed{seed}"


def _run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Returns the evaluation of one run; trains it if not done yet."""
    path = workdir / EVALUATION_FILE
    if not path.exists():
        return train(config, workdir)
    check_resumable(config, workdir)
    evaluation = read_json(path, "remove it to evaluate the run again")
    if not (workdir / REPORT_FILE).exists():  # a process was killed before it wrote that
        from avjax.runs.report import write_report

        write_report(workdir)
    return evaluation


def _run_summary(evaluation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a run's part of the summary."""
    try:
        conditions = evaluation["conditions"].items()
        return {
            "epoch": evaluation["epoch"],
            "num_clips": evaluation["num_clips"],
            "accuracy": {name: scores["accuracy"] for name, scores in conditions},
            "actors": evaluation["actors"],
        }
    except (KeyError, TypeError, AttributeError) as error:  # of earlier versions, without digest
        raise InputError(
            f"{folder / EVALUATION_FILE} is damaged; remove it to evaluate the run again"
        ) from error


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Computes statistics over runs.

    Args:
      runs: with ``accuracy`` by condition, and ``actors`` from `avjax.evaluate`.

    Returns:
      ``conditions``: by name ``mean``, ``std`` (of the sample), ``stderr`` (of the mean; both None
      for a single run) and ``num_runs``. ``actors``: number of clips and accuracy by test actor,
      over all runs that tested the actor. ``runs``: the argument.
    """
    names = dict.fromkeys(name for run in runs for name in run["accuracy"])
    conditions = {
        name: _spread([run["accuracy"][name] for run in runs if name in run["accuracy"]])
        for name in names
    }
    actors: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        for actor, scores in run["actors"].items():
            actors.setdefault(actor, []).append(scores)
    by_actor = {}
    for actor in sorted(actors, key=lambda name: (len(name), name)):
        clips = sum(scores["num_clips"] for scores in actors[actor])
        hits = sum(scores["num_clips"] * scores["accuracy"] for scores in actors[actor])
        by_actor[actor] = {"num_clips": clips, "accuracy": hits / clips}
    return {"conditions": conditions, "actors": by_actor, "runs": list(runs)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    std = statistics.stdev(values) if len(values) > 1 else None
    stderr = std / math.sqrt(len(values)) if std is not None else None
    return {
        "mean": statistics.fmean(values),
        "std": std,
        "stderr": stderr,
        "num_runs": len(values),
    }


def table(summary: Mapping[str, Any]) -> str:
    """Formats a summary as text, with accuracies in percent."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{value:.2%}"

    headline = next(iter(summary["conditions"]))
    lines = [f"{'fold':12}{'seed':>5}{'epoch':>7}{'clips':>7}{headline:>20}"]
    for run in summary["runs"]:
        accuracy = percent(run["accuracy"].get(headline))
        counts = f"{run['seed']:5}{run['epoch']:7}{run['num_clips']:7}"
        lines.append(f"{run['fold']:12}{counts}{accuracy:>20}")
    lines.append(f"\n{'condition':22}{'mean':>9}{'std':>9}{'stderr':>9}{'runs':>6}")
    for name, values in summary["conditions"].items():
        spread = "".join(f"{percent(values[key]):>9}" for key in ("mean", "std", "stderr"))
        lines.append(f"{name:22}{spread}{values['num_runs']:6}")
    lines.append(f"\n{'test actor':12}{'clips':>7}{headline:>20}")
    for actor, values in summary["actors"].items():
        lines.append(f"{actor:12}{values['num_clips']:7}{percent(values['accuracy']):>20}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.crossval`."""
    return commands.run("crossval", argv)
