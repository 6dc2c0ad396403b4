"""Scores a model under every condition: ``python -m avjax.evaluate --workdir RUN``."""

import functools
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import flags
from jaxtyping import Int

from avjax import cli
from avjax.checkpoints import ModelCard, load_model, read_config, write_json_atomically
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.data.ravdess import resolve_fold
from avjax.errors import InputError
from avjax.models.networks import Network, build_network
from avjax.report import write_report
from avjax.training import conditions, metrics

EVALUATION_FILE = "evaluation.json"
NOISE_SEED = 0  # noise is keyed by clip below this, so figures are the same on every run


class Evaluator:
    """Compiled evaluation of one network; compiles once for any number of epochs."""

    def __init__(self, net: Network, profile: str) -> None:
        """Evaluates ``net`` on frames of ``profile``."""
        self._net = net
        settings: dict[str, Any] = {"net": net, "profile": profile}
        self._clean = jax.jit(functools.partial(conditions.eval_step, **settings))
        self._all = jax.jit(functools.partial(conditions.eval_conditions_step, **settings))

    def clean(self, variables: Mapping[str, Any], batches: Iterable[Any]) -> dict[str, float]:
        """Loss, accuracy and macro F1 of undisturbed clips."""
        total = metrics.zeros(self._net.num_classes)
        for batch in batches:
            total = metrics.add(total, self._clean(variables, batch))
        return metrics.summarise(total)

    def conditions(
        self, variables: Mapping[str, Any], clips: Clips
    ) -> tuple[dict[str, Any], Int[np.ndarray, "n"]]:
        """Scores of every condition that makes sense for the network.

        Returns:
          Clips that count, loss, accuracy, macro F1 and confusion matrix by condition, without
          those in which no clip counts; and the class called for each undisturbed clip.
        """
        key = jax.random.key(NOISE_SEED)
        totals = dict.fromkeys(
            conditions.conditions_of(self._net), metrics.zeros(self._net.num_classes)
        )
        called = []
        for batch in clips.batches(conditions.BATCH_SIZE):
            scored = self._all(variables, batch, key)
            totals = {name: metrics.add(sums, scored[name].sums) for name, sums in totals.items()}
            undisturbed = scored[next(iter(totals))]
            called.append(np.asarray(undisturbed.called)[batch["weight"] > 0])
        found = {
            name: {
                "num_clips": int(sums.count),
                **metrics.summarise(sums),
                "confusion": np.asarray(sums.confusion, int).tolist(),
            }
            for name, sums in totals.items()
            if sums.count
        }
        return found, np.concatenate(called)


def evaluate_checkpoint(
    path: Path,
    data_dir: str | Path,
    fold: str,
    split: str = "test",
    *,
    video_only: bool = False,
) -> dict[str, Any]:
    """Scores a checkpoint on one split of a fold.

    Args:
      path: a workdir (its best epoch) or a converted checkpoint.
      data_dir: a prepared dataset.
      fold: as ``config.data.fold``.
      split: `train`, `validation` or `test`.
      video_only: as ``config.data.video_only``.

    Returns:
      ``{"split", "num_clips", "conditions": {name: {"num_clips", "accuracy", "macro_f1", "loss",
      "confusion"}}}``, with the class names, the checkpoint's epoch, and of undisturbed clips the
      accuracy by actor and every clip's predicted class.

    Raises:
      InputError: the dataset's profile or classes are not the checkpoint's, an unknown split, no
        clips, no checkpoint.
    """
    variables, card = load_model(path)
    dataset = open_dataset(data_dir)
    check_compatible(card, dataset.metadata, path, data_dir)
    filters = resolve_fold(fold)
    if split not in filters:
        raise InputError(f"unknown split {split!r}; choose one of {', '.join(filters)}")
    net = build_network(card.network)
    clips = dataset.select(
        filters[split],
        video_only=video_only,
        streams=net.streams,
        num_frames=card.num_frames,
        sound=net.sound,
    )
    check_bands(net, dataset)
    scores, called = Evaluator(net, card.profile).conditions(variables, clips)
    return {
        "split": split,
        "num_clips": len(clips),
        "classes": list(card.classes),
        "epoch": card.epoch,
        "conditions": scores,
        "actors": _by_actor(clips, called),
        "predictions": dict(zip(clips.clip_ids, (card.classes[i] for i in called), strict=True)),
    }


def _by_actor(clips: Clips, called: Int[np.ndarray, "n"]) -> dict[str, dict[str, float]]:
    """Number of clips and accuracy by RAVDESS actor, by group for other clips."""
    right: dict[str, list[bool]] = {}
    for record, hit in zip(clips.records, called == clips.labels, strict=True):
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


def check_bands(net: Network, dataset: PreparedDataset) -> None:
    """Raises InputError where log-mel spectra have other bands than the network reads."""
    stored = dataset.metadata.log_mels
    if net.sound == "log_mel" and net.sound_width != stored:
        raise InputError(
            f"{dataset.directory} holds {stored} mel bands and the network reads "
            f"{net.sound_width}; set config.model.num_mels={stored}, or prepare the clips with "
            f"--log_mels={net.sound_width}"
        )


def evaluate_run(workdir: Path, split: str = "test") -> dict[str, Any]:
    """Scores a run's best epoch and writes the result, for `test` with the report.

    The test split's figures are ``evaluation.json``; another split's are
    ``evaluation_<split>.json``.
    """
    config = read_config(workdir)
    data = config["data"]
    evaluation = evaluate_checkpoint(
        workdir, data["dir"], data["fold"], split, video_only=data.get("video_only", False)
    )
    name = EVALUATION_FILE if split == "test" else f"evaluation_{split}.json"
    write_json_atomically(workdir / name, evaluation)
    if split == "test":
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
    if values.workdir:
        evaluation = evaluate_run(Path(values.workdir), values.split)
    elif values.data:
        evaluation = evaluate_checkpoint(
            Path(values.checkpoint),
            values.data,
            values.fold,
            values.split,
            video_only=values.video_only,
        )
    else:
        raise InputError("--checkpoint needs --data DATA, the prepared clips to score it on")
    print(table(evaluation))


def main(argv: list[str] | None = None) -> int:
    """The command line."""
    return cli.run(argv, _define_flags, _job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
