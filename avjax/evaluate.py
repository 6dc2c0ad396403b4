"""Evaluates a model under every condition."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("evaluate"))

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from avjax.config import run_config
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, open_dataset
from avjax.data.records import DatasetMetadata
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.runs.saved_model import ModelCard, load_model
from avjax.runtime import multihost
from avjax.runtime.devices import make_parallel
from avjax.runtime.files import locked, write_json
from avjax.training import conditions
from avjax.training.evaluator import Evaluator

EVALUATION_FILE = "evaluation.json"
_LOCK = "evaluation.lock"  # not the run's: a run may be evaluated while it trains
_LOCK_SECONDS = 60.0  # writing takes a second
_PREPARE_FLAGS = ("profile", "seconds", "num_frames", "image_size")


def evaluate_checkpoint(
    path: str | Path,
    data_dir: str | Path,
    fold: str = "published",
    split: str = "test",
    *,
    video_only: bool = False,
    parallel: str = "jit",
) -> dict[str, Any]:
    """Evaluates a checkpoint on one split of a fold; all processes must call it.

    Args:
      path: a workdir (its best epoch) or a converted checkpoint.
      data_dir: a prepared dataset.
      fold: as ``config.data.fold``.
      split: `train`, `validation` or `test`.
      video_only: as ``config.data.video_only``.
      parallel: as ``config.parallel``.

    Returns:
      ``{"split", "num_clips", "conditions": {name: {"num_clips", "accuracy", "macro_f1", "loss",
      "confusion"}}}``, with the class names and the checkpoint's epoch. For undisturbed clips also
      the accuracy by actor and each clip's predicted class. Accuracies lie in 0..1, losses are in
      nats, ``confusion[i][j]`` counts clips of class i predicted as j.

    Raises:
      InputError: a dataset that does not suit the checkpoint, see `check_compatible`; an unknown
        split; no clips; no checkpoint.
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
        image_size=card.image_size,
    )
    devices = make_parallel(parallel, conditions.BATCH_SIZE * jax.device_count())
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
    """Returns number of clips and accuracy by RAVDESS actor, or by group for other clips."""
    hits_by_actor: dict[str, list[bool]] = {}
    for record, hit in zip(clips.records, predicted == clips.labels, strict=True):
        hits_by_actor.setdefault(record.speaker, []).append(bool(hit))
    return {
        actor: {"num_clips": len(hits), "accuracy": sum(hits) / len(hits)}
        for actor, hits in hits_by_actor.items()
    }


def check_compatible(card: ModelCard, metadata: DatasetMetadata, path: Any, data_dir: Any) -> None:
    """Checks that a dataset was prepared like a checkpoint's training clips.

    Only compares the streams that the network reads. A sound-only dataset suits audio-visual
    networks.

    Raises:
      InputError: names every value that differs, and the remedy.
    """
    streams = build_network(card.network).inputs.streams
    names = ["profile", "classes", "seconds"]
    if "video" in streams and card.num_frames and metadata.num_frames:
        names += ["num_frames", "image_size"]
    if "audio" in streams:
        names.append("audio_steps")
    expected = {name: getattr(card, name) for name in names}
    actual = {name: getattr(metadata, name) for name in names}
    actual["classes"] = list(metadata.classes)
    differing = [name for name in names if actual[name] != expected[name]]
    if differing:
        values = " and ".join(f"{x} {actual[x]!r} instead of {expected[x]!r}" for x in differing)
        settings = [f"--{x}={expected[x]}" for x in differing if x in _PREPARE_FLAGS]
        remedy = f"with {' '.join(settings)}" if settings else "accordingly"
        raise InputError(
            f"dataset {data_dir} does not suit checkpoint {path}: {values}; prepare the clips "
            f"{remedy}, or choose another checkpoint"
        )


def evaluate_run(workdir: str | Path, split: str = "test") -> dict[str, Any]:
    """Evaluates a run's best epoch and writes the result; for `test` also the report.

    All processes must call it; the first reads and writes the run's folder. Results of the test
    split go to ``evaluation.json``, of another split to ``evaluation_<split>.json``.

    Args:
      workdir: the run's folder; its config names dataset and fold.
      split: `train`, `validation` or `test`.

    Returns:
      See `evaluate_checkpoint`.

    Raises:
      InputError: as `evaluate_checkpoint`, or ``workdir`` is not a run.
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
        busy = f"another process writes evaluations into {workdir}; run the command again"
        with locked(workdir / _LOCK, busy, wait=_LOCK_SECONDS):
            write_json(workdir / name, evaluation)
            if split == "test":
                from avjax.runs.report import write_report

                write_report(workdir)
    return evaluation


def table(evaluation: Mapping[str, Any]) -> str:
    """Formats an evaluation as text."""
    lines = [f"{evaluation['split']} split, {evaluation['num_clips']} clips"]
    lines.append(f"{'condition':22}{'accuracy':>9}{'macro F1':>10}{'loss':>9}")
    for name, scores in evaluation["conditions"].items():
        lines.append(
            f"{name:22}{scores['accuracy']:9.1%}{scores['macro_f1']:10.3f}{scores['loss']:9.3f}"
        )
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.evaluate`."""
    return commands.run("evaluate", argv)
