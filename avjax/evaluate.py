"""Evaluates a model under every condition."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("evaluate"))

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from avjax.config import run_config
from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, open_dataset
from avjax.data.records import DatasetMetadata
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.runs.evaluation_file import (
    differing_counts,
    evaluation_name,
    striking_clips,
    write_evaluation,
)
from avjax.runs.saved_model import BEST, ModelCard, load_model, save_model
from avjax.runtime import multihost
from avjax.runtime.devices import make_parallel
from avjax.runtime.files import locked
from avjax.runtime.progress import say
from avjax.training import conditions
from avjax.training.evaluator import Evaluator
from avjax.training.outcomes import Outcome, alone_conditions, fit_temperatures, outcomes

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
    evaluator: Evaluator | None = None,
) -> dict[str, Any]:
    """Evaluates a checkpoint on one split of a fold; all processes must call it.

    Args:
      path: a run (its best epoch), a converted checkpoint, or the name of a carried model.
      data_dir: a prepared dataset.
      fold: as ``config.data.fold``.
      split: `train`, `validation` or `test`.
      video_only: as ``config.data.video_only``.
      parallel: as ``config.parallel``.
      evaluator: a compiled one, of this network, profile and devices; by default a new one.

    Returns:
      ``{"split", "num_clips", "conditions": {name: {"num_clips", "accuracy", "macro_f1", "loss",
      "confusion", "calibration_error", "calibrated"}}}``, with the class names and the checkpoint's
      epoch and temperatures. For undisturbed clips also the accuracy by actor and each clip's
      predicted class. ``clips`` holds by clip its ``speaker`` (actor or group), its ``truth``, by
      condition the class ``predicted``, and its ``probabilities`` in the order of the classes, by
      condition: undisturbed, and one stream alone. ``calibrated``, of a clip and of a condition, is
      the same at the card's temperatures; absent without them. ``attention`` holds, for the few
      clips that the report shows, the attention over time that `audio` and `video` receive from
      each other, see `avjax.training.attention.fuse`. Accuracies and calibration errors lie in
      0..1, losses are in nats, ``confusion[i][j]`` counts clips of class i predicted as j.

    Raises:
      InputError: a dataset that does not suit the checkpoint, see `check_compatible`; an unknown
        split; no clips; no checkpoint.
    """
    variables, card = multihost.from_first(lambda: load_model(path))
    if card.about and multihost.is_first():  # it may have been trained on the very clips
        print(card.statement, file=sys.stderr)
    dataset = open_dataset(data_dir)
    check_compatible(card, dataset.metadata, path, data_dir)
    filters = resolve_fold(fold)
    if split not in filters:
        raise InputError(f"unknown split {split!r}; choose one of {', '.join(filters)}")
    net = build_network(card.network)
    clips = dataset.select(
        filters[split],
        net.inputs,
        split=split,
        video_only=video_only,
        num_frames=card.num_frames,
        image_size=card.image_size,
    )
    if evaluator is None:
        devices = make_parallel(parallel, conditions.BATCH_SIZE * jax.device_count())
        evaluator = Evaluator(net, card.profile, devices)
    scores, logits, attention = evaluator.all_conditions(variables, clips)
    results = outcomes(net, logits, _presence(clips), card.temperatures)
    predicted = logits[net.conditions[0]].argmax(1)
    evaluation: dict[str, Any] = {
        "split": split,
        "num_clips": len(clips),
        "classes": list(card.classes),
        "epoch": card.epoch,
        "temperatures": card.temperatures,
        "conditions": {
            name: figures | results[name].figures(clips.labels) for name, figures in scores.items()
        },
        "actors": _by_actor(clips, predicted),
        "predictions": {
            clip_id: card.classes[label]
            for clip_id, label in zip(clips.clip_ids, predicted, strict=True)
        },
        "clips": _by_clip(clips, card.classes, results, alone_conditions(net)),
    }
    return evaluation | {"attention": _of_striking(evaluation, attention)}


def _presence(clips: Clips) -> dict[str, Bool[np.ndarray, "n"]]:
    """Returns whether the clips have each stream."""
    return {
        stream: np.array([getattr(record, f"has_{stream}") for record in clips.records])
        for stream in ("audio", "video")
    }


def _by_clip(
    clips: Clips,
    classes: Sequence[str],
    results: Mapping[str, Outcome],
    alone: Sequence[str],
) -> dict[str, dict[str, Any]]:
    """Returns each clip's speaker, true and predicted classes, and probabilities to six digits.

    Probabilities are kept only for the conditions ``alone``, which keeps the file small.
    """

    def rounded(row: Float[np.ndarray, "k"]) -> list[float]:
        return [float(f"{value:.6g}") for value in np.exp(row)]

    by_clip = {}
    for number, record in enumerate(clips.records):
        counted = {name: result for name, result in results.items() if result.counts[number]}
        entry: dict[str, Any] = {"speaker": record.speaker, "truth": classes[record.label]}
        entry["predicted"] = {name: classes[x.raw[number].argmax()] for name, x in counted.items()}
        counted = {name: counted[name] for name in alone if name in counted}
        entry["probabilities"] = {name: rounded(x.raw[number]) for name, x in counted.items()}
        calibrated = {
            name: rounded(x.calibrated[number])
            for name, x in counted.items()
            if np.isfinite(x.calibrated[number]).all()
        }
        by_clip[record.clip_id] = entry | ({"calibrated": calibrated} if calibrated else {})
    return by_clip


def _of_striking(
    evaluation: Mapping[str, Any], attention: Mapping[str, Float[np.ndarray, "n t"]]
) -> dict[str, dict[str, list[float]]]:
    """Returns the attention in the clips that the report shows, to three digits."""
    positions = {clip_id: number for number, clip_id in enumerate(evaluation["clips"])}
    return {
        clip_id: {
            stream: [float(f"{value:.3g}") for value in rows[positions[clip_id]]]
            for stream, rows in attention.items()
        }
        for clip_id in (name for names in striking_clips(evaluation) for name in names)
        if attention
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
        # The number of audio steps follows from the seconds.
        cured = {*_PREPARE_FLAGS, *(["audio_steps"] if "seconds" in differing else [])}
        remedy = f"prepare the clips with {' '.join(settings)}, or choose another checkpoint"
        if not cured.issuperset(differing):
            remedy = "choose another dataset or checkpoint"
        raise InputError(f"dataset {data_dir} does not suit checkpoint {path}: {values}; {remedy}")


def calibrate_run(workdir: Path, clips: Clips, evaluator: Evaluator) -> None:
    """Fits the temperatures of a trained run's best model, unless it has some. Collective.

    The model is replaced atomically. A run that was killed before is calibrated when it resumes.

    Args:
      workdir: the run's folder.
      clips: its validation clips.
      evaluator: of its network.
    """
    variables, card = multihost.from_first(lambda: load_model(workdir))
    if card.temperatures:
        return
    if multihost.is_first():
        say(f"calibrating epoch {card.epoch}, the best of {workdir}, on its validation split")
    _, logits, _ = evaluator.all_conditions(variables, clips)
    temperatures = fit_temperatures(evaluator.net, logits, _presence(clips), clips.labels)
    card = dataclasses.replace(card, temperatures=temperatures)
    multihost.from_first(lambda: save_model(workdir / BEST, variables, card))


def evaluate_run(
    workdir: str | Path, split: str = "test", *, evaluator: Evaluator | None = None
) -> dict[str, Any]:
    """Evaluates a run's best epoch and writes the result; for `test` also the report.

    All processes must call it; the first reads and writes the run's folder. Results of the test
    split go to ``evaluation.json`` and ``evaluation.csv``, of another split to
    ``evaluation_<split>.json`` and ``.csv``.

    Args:
      workdir: the run's folder; its config names dataset and fold.
      split: `train`, `validation` or `test`.
      evaluator: see `evaluate_checkpoint`.

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
        evaluator=evaluator,
    )
    if multihost.is_first():
        busy = f"another process writes evaluations into {workdir}; run the command again"
        with locked(workdir / _LOCK, busy, wait=_LOCK_SECONDS):
            write_evaluation(workdir / evaluation_name(split), evaluation)
            if split == "test":
                from avjax.report import report_run

                report_run(workdir)
    return evaluation


def table(evaluation: Mapping[str, Any]) -> str:
    """Formats an evaluation as text; tells the clips of each condition where they differ."""
    counts = differing_counts(evaluation)
    lines = [f"{evaluation['split']} split, {evaluation['num_clips']} clips"]
    clips = f"{'clips':>7}" if counts else ""
    lines.append(f"{'condition':22}{clips}{'accuracy':>9}{'macro F1':>10}{'loss':>9}")
    for name, scores in evaluation["conditions"].items():
        clips = f"{counts[name]:7}" if counts else ""
        figures = f"{scores['accuracy']:9.1%}{scores['macro_f1']:10.3f}{scores['loss']:9.3f}"
        lines.append(f"{name:22}{clips}{figures}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.evaluate`."""
    return commands.run("evaluate", argv)
