"""Scores a model under every condition: ``python -m avjax.evaluate --workdir RUN``."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Int

from avjax import cli
from avjax.config import run_config
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, open_dataset
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.runs.saved_model import ModelCard, load_model
from avjax.runtime import compilation, multihost
from avjax.runtime.devices import spread
from avjax.runtime.files import write_json
from avjax.training import conditions
from avjax.training.evaluator import Evaluator

EVALUATION_FILE = "evaluation.json"


def evaluate_checkpoint(
    path: str | Path,
    data_dir: str | Path,
    fold: str = "published",
    split: str = "test",
    *,
    video_only: bool = False,
    parallel: str = "jit",
) -> dict[str, Any]:
    """Scores a checkpoint on one split of a fold; all processes must call it.

    Args:
      path: a workdir (its best epoch) or a converted checkpoint.
      data_dir: a prepared dataset.
      fold: as ``config.data.fold``.
      split: `train`, `validation` or `test`.
      video_only: as ``config.data.video_only``.
      parallel: as ``config.parallel``.

    Returns:
      ``{"split", "num_clips", "conditions": {name: {"num_clips", "accuracy", "macro_f1", "loss",
      "confusion"}}}``, with the class names, the checkpoint's epoch, and of undisturbed clips the
      accuracy by actor and every clip's predicted class. Accuracies lie in 0..1, losses are in
      nats, ``confusion[i][j]`` counts clips of class i that were called j.

    Raises:
      InputError: the dataset's profile or classes are not the checkpoint's, an unknown split, no
        clips, no checkpoint.
    """
    variables, card = multihost.from_first(lambda: load_model(path))
    dataset = open_dataset(data_dir)
    check_compatible(card, dataset.metadata, path, data_dir)
    filters = resolve_fold(fold)
    if split not in filters:
        raise InputError(f"unknown split {split!r}; choose one of {', '.join(filters)}")
    net = build_network(card.network)
    clips = dataset.select(
        filters[split],
        net.inputs,
        video_only=video_only,
        num_frames=card.num_frames,
    )
    devices = spread(parallel, conditions.BATCH_SIZE * jax.device_count())
    evaluator = Evaluator(net, card.profile, devices)
    scores, predicted = evaluator.all_conditions(devices.replicate(variables), clips)
    return {
        "split": split,
        "num_clips": len(clips),
        "classes": list(card.classes),
        "epoch": card.epoch,
        "conditions": scores,
        "actors": _by_actor(clips, predicted),
        "predictions": {
            clip_id: card.classes[label]
            for clip_id, label in zip(clips.clip_ids, predicted, strict=True)
        },
    }


def _by_actor(clips: Clips, predicted: Int[np.ndarray, "n"]) -> dict[str, dict[str, float]]:
    """Number of clips and accuracy by RAVDESS actor, by group for other clips."""
    right: dict[str, list[bool]] = {}
    for record, hit in zip(clips.records, predicted == clips.labels, strict=True):
        who = str(record.actor) if record.actor > 0 else record.group
        right.setdefault(who, []).append(bool(hit))
    return {
        actor: {"num_clips": len(hits), "accuracy": sum(hits) / len(hits)}
        for actor, hits in right.items()
    }


def check_compatible(card: ModelCard, metadata: Any, path: Any, data_dir: Any) -> None:
    """Raises InputError where a dataset was prepared otherwise than a checkpoint expects."""
    for name in ("profile", "classes"):
        ours, theirs = getattr(card, name), getattr(metadata, name)
        ours, theirs = (tuple(x) if name == "classes" else x for x in (ours, theirs))
        if ours != theirs:
            raise InputError(
                f"{name} {theirs!r} of dataset {data_dir} is not {ours!r}, which checkpoint {path} "
                "was trained on; prepare the clips accordingly or choose another checkpoint"
            )


def evaluate_run(workdir: str | Path, split: str = "test") -> dict[str, Any]:
    """Scores a run's best epoch and writes the result, for `test` with the report.

    All processes must call it; the first one reads and writes the run's folder. The test split's
    figures are ``evaluation.json``; another split's are ``evaluation_<split>.json``.

    Args:
      workdir: of the run, whose config names dataset and fold.
      split: `train`, `validation` or `test`.

    Returns:
      As `evaluate_checkpoint`.

    Raises:
      InputError: as `evaluate_checkpoint`, or ``workdir`` is no run.
    """
    workdir = Path(workdir)
    config = multihost.from_first(lambda: run_config(workdir))
    evaluation = evaluate_checkpoint(
        workdir,
        config.data.dir,
        config.data.fold,
        split,
        video_only=config.data.video_only,
        parallel=config.parallel,
    )
    name = EVALUATION_FILE if split == "test" else f"evaluation_{split}.json"
    if multihost.is_first():
        write_json(workdir / name, evaluation)
        if split == "test":
            from avjax.runs.report import write_report

            write_report(workdir)
    return evaluation


def table(evaluation: Mapping[str, Any]) -> str:
    """The evaluation as lines of text."""
    lines = [f"{evaluation['split']} split, {evaluation['num_clips']} clips"]
    lines.append(f"{'condition':22}{'accuracy':>9}{'macro F1':>10}{'loss':>9}")
    for name, figures in evaluation["conditions"].items():
        lines.append(
            f"{name:22}{figures['accuracy']:9.1%}{figures['macro_f1']:10.3f}{figures['loss']:9.3f}"
        )
    return "\n".join(lines)


def _define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("workdir", None, "A run: its best epoch.", flag_values=values)
    flags.DEFINE_string("checkpoint", None, "A converted checkpoint.", flag_values=values)
    flags.DEFINE_string("data", None, "Prepared dataset, with --checkpoint.", flag_values=values)
    flags.DEFINE_string("fold", "published", "Fold, with --checkpoint.", flag_values=values)
    flags.DEFINE_bool(
        "video_only", False, "Take clips without sound too, with --checkpoint.", flag_values=values
    )
    flags.DEFINE_string("split", "test", "train, validation or test.", flag_values=values)


def _job(values: flags.FlagValues, positional: list[str]) -> None:
    if positional:
        raise InputError(f"unexpected argument {positional[0]!r}; see --help")
    if bool(values.workdir) == bool(values.checkpoint):
        raise InputError("give either --workdir RUN, or --checkpoint PATH with --data DATA")
    if values.checkpoint and not values.data:
        raise InputError("--checkpoint needs --data DATA, the prepared clips to score it on")
    compilation.keep_compiled_programs()
    if values.workdir:
        evaluation = evaluate_run(Path(values.workdir), values.split)
    else:
        evaluation = evaluate_checkpoint(
            Path(values.checkpoint),
            values.data,
            values.fold,
            values.split,
            video_only=values.video_only,
        )
    print(table(evaluation))


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(argv, _define_flags, _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
