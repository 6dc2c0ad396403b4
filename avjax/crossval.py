"""Cross-validation: a run for each fold and seed, and statistics over them."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the imports below, which take seconds
    sys.exit(commands.run("crossval"))

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avjax.config import RunConfig, check_resumable
from avjax.data.folds import list_folds
from avjax.errors import InputError
from avjax.evaluate import EVALUATION_FILE
from avjax.runtime.files import write_json
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
    """Runs every fold with every seed; finished runs are only read.

    Args:
      config: see `configs/common.py`; its fold and seed are replaced.
      workdir: gets a run's folder for each fold and seed, and ``crossval.json``, which is brought
        up to date after every run.
      folds: `msaf6`, `five`, one named fold such as `published`, or `config`: those that the config
        lists as ``data.folds``.
      seeds: by default the config's own.
      together: train all runs at once, as one vmapped program, instead of one after the other; see
        `avjax.train_vmapped`.

    Returns:
      The content of ``crossval.json``; see `summarise`.

    Raises:
      InputError: as `avjax.train.train`.
    """
    workdir = Path(workdir)
    seeds = [config.loop.seed] if seeds is None else list(seeds)
    specs = _specs(config, folds)
    planned = [(fold, seed) for fold in specs for seed in seeds]
    if together:
        folders = {
            workdir / _folder(fold, seed): config.with_fold(specs[fold], seed)
            for fold, seed in planned
        }
        train_vmapped(
            {path: run for path, run in folders.items() if not (path / EVALUATION_FILE).exists()}
        )
    runs: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    for number, (fold, seed) in enumerate(planned, start=1):
        print(f"run {number} of {len(planned)}: fold {fold}, seed {seed}", flush=True)
        folder = _folder(fold, seed)
        evaluation = _run(config.with_fold(specs[fold], seed), workdir / folder)
        runs.append({"fold": fold, "seed": seed, "folder": folder, **_kept(evaluation)})
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
    """The evaluation of one run, trained where that is not done yet."""
    path = workdir / EVALUATION_FILE
    if not path.exists():
        return train(config, workdir)
    check_resumable(config, workdir)
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged; remove it to score the run again") from error


def _kept(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """What the summary holds of a run."""
    accuracies = {name: scores["accuracy"] for name, scores in evaluation["conditions"].items()}
    return {
        "epoch": evaluation["epoch"],
        "num_clips": evaluation["num_clips"],
        "accuracy": accuracies,
        "actors": evaluation["actors"],
    }


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics over runs.

    Args:
      runs: with ``accuracy`` by condition and ``actors``, as `avjax.evaluate` finds them.

    Returns:
      ``conditions``: by name ``mean``, ``std`` (of the sample), ``stderr`` (of the mean; both None
      for a single run) and ``num_runs``; ``actors``: number of clips and accuracy by test actor,
      over all runs that tested the actor; and ``runs`` themselves.
    """
    names = dict.fromkeys(name for run in runs for name in run["accuracy"])
    conditions = {
        name: _spread([run["accuracy"][name] for run in runs if name in run["accuracy"]])
        for name in names
    }
    actors: dict[str, list[Mapping[str, float]]] = {}
    for run in runs:
        for actor, figures in run["actors"].items():
            actors.setdefault(actor, []).append(figures)
    by_actor = {}
    for actor in sorted(actors, key=lambda name: (len(name), name)):
        clips = sum(part["num_clips"] for part in actors[actor])
        hits = sum(part["num_clips"] * part["accuracy"] for part in actors[actor])
        by_actor[actor] = {"num_clips": clips, "accuracy": hits / clips}
    return {"conditions": conditions, "actors": by_actor, "runs": list(runs)}


def _spread(values: Sequence[float]) -> dict[str, Any]:
    several = len(values) > 1
    deviation = statistics.stdev(values) if several else None
    error = deviation / math.sqrt(len(values)) if deviation is not None else None
    return {
        "mean": statistics.fmean(values),
        "std": deviation,
        "stderr": error,
        "num_runs": len(values),
    }


def table(summary: Mapping[str, Any]) -> str:
    """The summary as lines of text, accuracies in percent."""

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
    """The command line, see `avjax.commands.crossval`."""
    return commands.run("crossval", argv)
