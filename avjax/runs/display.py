"""Shows a training on standard error: a banner, a line an epoch and, on a terminal, a bar."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any, Self

import jax

from avjax.data.pipeline import Clips, PreparedDataset
from avjax.runtime import multihost
from avjax.runtime.devices import Parallel
from avjax.runtime.progress import duration, is_live, progress_bar, say
from avjax.training import metrics
from avjax.training.step import Sums

Figures = Mapping[str, Any]  # a line of metrics.jsonl
_LONGEST_FOLD = 60  # characters


class Display:
    """Shows the progress of one run, or of several trained together; in the first process only."""

    def __init__(
        self, text: str, num_epochs: int, first_epoch: int, total_clips: int, done_clips: int
    ) -> None:
        """Prints ``text``; of a finished run nothing is shown.

        Args:
          text: the banner.
          num_epochs: epochs of the training.
          first_epoch: the next epoch to train, from 1.
          total_clips: number of clips over all epochs and runs.
          done_clips: number of clips already trained on.
        """
        self._num_epochs, self._epoch = num_epochs, first_epoch
        self._start: float | None = None  # the first call's end; later the first epoch's
        self._ended = 0  # epochs
        self._runs: list[tuple[Figures, Figures, bool]] = []
        self._is_shown = multihost.is_first() and first_epoch <= num_epochs
        self._say(text)
        has_bar = self._is_shown and is_live()
        self._bar = progress_bar(
            total=total_clips, initial=done_clips, unit="clip", leave=False, disable=not has_bar
        )

    def _say(self, text: str) -> None:
        if self._is_shown:
            say(text)

    def step(self, clips: int, sums: Sums) -> None:
        """Advances the bar by ``clips``; ``sums`` are the epoch's so far."""
        if self._start is None:  # the first call has compiled
            self._start = time.monotonic()
        self._bar.set_description(f"epoch {self._epoch}/{self._num_epochs}", refresh=False)
        if sums.count:
            summary = metrics.summarise(sums)
            postfix = {"loss": f"{summary['loss']:.3f}", "accuracy": f"{summary['accuracy']:.1%}"}
            self._bar.set_postfix(postfix, refresh=False)
        self._bar.update(clips)

    def validated(self, trained: Figures, validated: Figures, *, best: bool) -> None:
        """Takes a run's figures of the current epoch.

        Args:
          trained: of training, with ``seconds``.
          validated: of validation.
          best: whether no validation of the run before was as accurate.
        """
        self._runs.append((trained, validated, best))

    def end_epoch(self) -> None:
        """Prints the current epoch's line: its figures or, of several runs, their means."""
        if not self._runs:  # not the first process
            return
        left = self._seconds_left()
        trained, validated, best = zip(*self._runs, strict=True)
        text = f"epoch {self._epoch:{len(str(self._num_epochs))}}/{self._num_epochs}: "
        text += f"means of {len(best)} runs: " if len(best) > 1 else ""
        text += f"train {_scores(trained)}; validation {_scores(validated)}"
        text += " (best so far)" if best == (True,) else ""
        text += f"; {duration(trained[0]['seconds'])}"
        text += f", {duration(left)} left" if self._epoch < self._num_epochs else ""
        self._say(text)
        self._runs.clear()
        self._epoch += 1

    def _seconds_left(self) -> float:
        """Judges by the epochs after the first one, which compiled; if there are none, by that."""
        now = time.monotonic()
        self._ended += 1
        seconds = (now - (self._start or now)) / max(1, self._ended - 1)
        if self._ended == 1:
            self._start = now
        return seconds * (self._num_epochs - self._epoch)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Removes the bar."""
        self._bar.close()


def banner(
    title: str,
    tree: Mapping[str, Any],
    dataset: PreparedDataset,
    clips: Mapping[str, Clips],
    params: Any,
    parallel: Parallel,
) -> str:
    """Describes a training that is about to start, a line a topic.

    Args:
      title: the first line.
      tree: the config as nested keys.
      dataset: the prepared dataset.
      clips: the selected clips by split.
      params: the network's parameters.
      parallel: the devices.
    """
    network = {k: v for k, v in tree["model"].items() if v != ""}
    kind = network.pop("kind")
    settings = "".join(f", {k} {_plain(v)}" for k, v in network.items())
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    mask = tree["mask"]
    if mask != "nodropout":
        mask += "; training loss and accuracy are those of the enlarged batch"
    data, fold = dataset.metadata, tree["data"]["fold"]
    fold = fold if len(fold) <= _LONGEST_FOLD else fold[: _LONGEST_FOLD - 3] + "..."
    steps = clips["train"].num_batches(tree["batch_size"])
    topics = {
        "network": f"{kind}{settings}; {size:,} parameters",
        "dropout": mask,
        "data": f"{dataset.directory}, profile {data.profile}, {len(data.classes)} classes",
        "fold": fold,
        **{split: _size(selected) for split, selected in clips.items()},
        "epochs": f"{tree['num_epochs']}, each of {steps} steps of {tree['batch_size']} clips; "
        f"{tree['optimizer']['name']}, {tree['dtype']}, seed {tree['seed']}",
        "devices": _devices(parallel, tree["parallel"]),
    }
    lines = [f"  {topic:11} {text}" for topic, text in topics.items()]
    return "\n".join([title, *lines, "compiling the training step, within the first epoch"])


def _scores(runs: Sequence[Figures]) -> str:
    loss, accuracy = (statistics.fmean(r[name] for r in runs) for name in ("loss", "accuracy"))
    return f"loss {loss:.3f}, accuracy {accuracy:.1%}"


def _plain(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _size(clips: Clips) -> str:
    """Returns a split's numbers of clips and of actors or groups."""
    records = clips.records
    number = len({record.speaker for record in records})
    noun = "actor" if all(record.actor > 0 for record in records) else "group"
    return f"{len(records)} clips of {number} {noun}{'s' if number > 1 else ''}"


def _devices(parallel: Parallel, mode: str) -> str:
    devices = list(parallel.mesh.devices.flat)
    kinds = " and ".join(sorted({device.device_kind for device in devices}))
    processes = len({device.process_index for device in devices})
    return f"{len(devices)} {kinds} ({mode})" + (
        f" in {processes} processes" if processes > 1 else ""
    )
