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
from avjax.data.folds import LEAVE_ONE_OUT, group_folds, list_folds, split_folds
from avjax.data.pipeline import open_dataset
from avjax.data.records import ClipRecord
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.report import report_run
from avjax.runs.evaluation_file import EVALUATION_FILE, REMEDY, read_evaluation
from avjax.runs.run_config import REPORT_FILE
from avjax.runs.run_folder import run_lock
from avjax.runtime.files import write_json
from avjax.runtime.typed import fits
from avjax.train import build, select_clips, train
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
      folds: `msaf6`, `five`, or one named fold such as `published`; `leave_one_out`, or a number
        of folds such as `5`, over the dataset's actors or groups; folds in words, with ``|``
        between them; or `config`: the folds in ``config.data.folds``.
      seeds: by default the config's seed.
      together: train all runs as one vmapped program; see `avjax.train_vmapped`.

    Returns:
      The content of ``crossval.json``; see `summarise`.

    Raises:
      InputError: as `avjax.train.train`, or unknown or impossible folds.
    """
    workdir = Path(workdir)
    seeds = [config.loop.seed] if seeds is None else list(seeds)
    specs = _specs(config, folds)
    planned = [(fold, seed) for fold in specs for seed in seeds]
    configs = {
        workdir / _folder(fold, seed): config.with_fold(specs[fold], seed) for fold, seed in planned
    }
    to_train = {path: c for path, c in configs.items() if not (path / EVALUATION_FILE).exists()}
    _check(list(to_train.values()))
    with run_lock(workdir):
        if together:
            train_vmapped(to_train)
        runs: list[dict[str, Any]] = []
        summary: dict[str, Any] = {}
        for number, (fold, seed) in enumerate(planned, start=1):
            print(f"run {number} of {len(planned)}: fold {fold}, seed {seed}", flush=True)
            folder = workdir / _folder(fold, seed)
            evaluation = _run(configs[folder], folder)
            figures = _run_summary(evaluation, folder)
            runs.append({"fold": fold, "seed": seed, "folder": folder.name, **figures})
            summary = {"config": config.name, "folds": folds, "planned_runs": len(planned)}
            summary |= summarise(runs)
            write_json(workdir / SUMMARY_FILE, summary)
    return summary


def _check(configs: Sequence[RunConfig]) -> None:
    """Checks configs, which differ in fold and seed, against data and devices.

    Raises:
      InputError: as `avjax.train.build`.
    """
    if configs:
        setup = build(configs[0])
        for config in configs[1:]:
            select_clips(config, setup.dataset, setup.net)


def _specs(config: RunConfig, folds: str) -> dict[str, str]:
    """The folds of a cross-validation by name, each as ``config.data.fold`` takes it."""
    name, specs = folds, list(config.data.folds)
    if folds == "config" and not specs:
        raise InputError("the config lists no folds; set config.data.folds, or name --folds=msaf6")
    if folds == LEAVE_ONE_OUT:
        specs = group_folds(_records(config))
    elif folds.isdecimal():
        name, specs = f"{folds}_folds", group_folds(_records(config), int(folds))
    elif ":" in folds:
        name, specs = "words", split_folds(folds)
    elif folds != "config":
        return {fold: fold for fold in list_folds(folds)}
    return {f"{name}/{k}": fold for k, fold in enumerate(specs)}


def _records(config: RunConfig) -> list[ClipRecord]:
    """The clips of the config's dataset that its network can use."""
    dataset = open_dataset(config.data.dir)
    net = build_network(config.model.describe(len(dataset.metadata.classes)))
    return dataset.select("", net.inputs, video_only=config.data.video_only).records


def _folder(fold: str, seed: int) -> str:
    return f"{fold.replace('/', '-')}-seed{seed}"


def _run(config: RunConfig, workdir: Path) -> dict[str, Any]:
    """Returns the evaluation of one run; trains it if not done yet."""
    if not (workdir / EVALUATION_FILE).exists():
        return train(config, workdir)
    check_resumable(config, workdir)
    evaluation = read_evaluation(workdir) or {}
    if not (workdir / REPORT_FILE).exists():  # a process was killed before it wrote that
        report_run(workdir)
    return evaluation


_SCORE: Any = tuple[int, float]  # number of clips and accuracy


def _run_summary(evaluation: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Returns a run's part of the summary.

    Raises:
      InputError: the evaluation is not one that `avjax.evaluate` writes.
    """
    try:
        figures = {
            "epoch": evaluation["epoch"],
            "num_clips": evaluation["num_clips"],
            "accuracy": {name: x["accuracy"] for name, x in evaluation["conditions"].items()},
            "actors": evaluation["actors"],
        }
        actors = [(x["num_clips"], x["accuracy"]) for x in figures["actors"].values()]
        tested = [(figures["num_clips"], x) for x in figures["accuracy"].values()]
        known = fits(figures["epoch"], int) and fits(tested + actors, list[_SCORE])
        if not known or not all(n > 0 and 0 <= x <= 1 for n, x in tested + actors) or not tested:
            raise ValueError("figures that no evaluation has")
        return figures
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / EVALUATION_FILE} is damaged ({error}); {REMEDY}") from error


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
    names = [*(run["fold"] for run in summary["runs"]), *summary["actors"]]
    width = max(11, *map(len, names)) + 1
    lines = [f"{'fold':{width}}{'seed':>5}{'epoch':>7}{'clips':>7}{headline:>20}"]
    for run in summary["runs"]:
        accuracy = percent(run["accuracy"].get(headline))
        counts = f"{run['seed']:5}{run['epoch']:7}{run['num_clips']:7}"
        lines.append(f"{run['fold']:{width}}{counts}{accuracy:>20}")
    lines.append(f"\n{'condition':22}{'mean':>9}{'std':>9}{'stderr':>9}{'runs':>6}")
    for name, values in summary["conditions"].items():
        spread = "".join(f"{percent(values[key]):>9}" for key in ("mean", "std", "stderr"))
        lines.append(f"{name:22}{spread}{values['num_runs']:6}")
    noun = "actor" if all(name.isdecimal() for name in summary["actors"]) else "group"
    lines.append(f"\n{f'test {noun}':{width}}{'clips':>7}{headline:>20}")
    for actor, values in summary["actors"].items():
        lines.append(f"{actor:{width}}{values['num_clips']:7}{percent(values['accuracy']):>20}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.crossval`."""
    return commands.run("crossval", argv)
