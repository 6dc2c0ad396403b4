"""The report's sections on the run itself: key figures, settings, data, versions."""

import datetime
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from avjax.data.folds import resolve_fold
from avjax.data.pipeline import Clips, PreparedDataset, open_dataset
from avjax.errors import InputError
from avjax.models.networks import build_network
from avjax.runs.report.curves import Lines, best_line, of_split
from avjax.runs.report.page import note, percent, table, tiles
from avjax.runs.run_config import flatten
from avjax.runs.saved_model import ModelCard
from avjax.runtime.progress import duration
from avjax.runtime.versions import versions

_GROUPS = {  # of settings, by the first part of the key
    "model": "Network",
    "mask": "Network",
    "dtype": "Network",
    "data": "Data",
    "augment": "Data",
    "sound_augment": "Data",
    "optimizer": "Optimisation",
    "num_epochs": "Optimisation",
    "batch_size": "Optimisation",
    "seed": "Optimisation",
}
_OTHERS = "Running"


def summary(config: Mapping[str, Any], lines: Lines, evaluation: Mapping[str, Any] | None) -> str:
    """Renders the key figures."""
    train = of_split(lines, "train")
    values = [("epochs", f"{len(train)} of {config.get('num_epochs', '?')}")]
    best = best_line(lines)
    if best:
        values.append(("best epoch", str(best["epoch"])))
        values.append(("validation accuracy", percent(best["accuracy"])))
    if evaluation:
        name = f"{evaluation['split']} accuracy ({evaluation['num_clips']} clips)"
        undisturbed = next(iter(evaluation["conditions"].values()))
        values.append((name, percent(undisturbed["accuracy"])))
    if train and "seconds" in train[-1]:
        values.append(("training", duration(sum(line["seconds"] for line in train))))
        values.append(("clips per second, last epoch", f"{train[-1]['clips_per_second']:.1f}"))
    return tiles(values)


def settings_section(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Renders the settings: first those that differ from the defaults, then all by topic."""
    settings, usual = plain_settings(config), plain_settings(defaults)
    changed = [
        (key, value, usual.get(key, ""))
        for key, value in settings.items()
        if usual and value != usual.get(key) and (key, value) != ("name", _default_name(settings))
    ]
    parts = []
    if changed:
        parts.append("<h3>Changed from the defaults</h3>")
        parts.append(table(("setting", "value", "default"), changed, "settings"))
    groups: dict[str, list[tuple[str, str]]] = {
        name: [] for name in (*dict.fromkeys(_GROUPS.values()), _OTHERS)
    }
    for key, value in settings.items():
        groups[_GROUPS.get(key.split(".")[0], _OTHERS)].append((key, value))
    tables = (
        f"<div><h3>{name}</h3>{table((), rows, 'settings')}</div>"
        for name, rows in groups.items()
        if rows
    )
    return "".join(parts) + f'<div class="pair">{"".join(tables)}</div>'


def _default_name(settings: Mapping[str, str]) -> str:
    """Returns the name of a run that was given none, as in `configs/common.py`."""
    kind = settings.get("model.kind", "")
    if kind != "audio_visual":
        return kind
    return f"{settings.get('model.fusion')}_{settings.get('mask')}"


def plain_settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Formats a config's values by dotted key; strings have no quotes."""
    settings = flatten(config)
    for key in ("format", "digest"):  # of config.json
        settings.pop(key, None)
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in settings.items()
    }


def open_prepared(config: Mapping[str, Any]) -> PreparedDataset | None:
    """Opens the dataset that a run was trained on; None if it is gone or cannot be read."""
    directory = config.get("data", {}).get("dir", "")
    if not directory or not Path(directory).is_dir():
        return None
    try:
        return open_dataset(directory)
    except InputError:
        return None


def data_section(
    config: Mapping[str, Any], card: ModelCard | None, dataset: PreparedDataset | None
) -> str:
    """Renders each split's clips, speakers and classes, and how the clips were prepared."""
    data = config.get("data", {})
    if card is None or dataset is None:
        place = data.get("dir", "")
        return note(f"The prepared clips are not at {place}.") if place else ""
    try:
        splits = _splits(data, card, dataset)
    except InputError as error:  # of another dataset at the same place
        return note(str(error))
    facts = dataset.metadata
    rows = [
        ("dataset", str(dataset.directory)),
        ("fold", str(data.get("fold", ""))),
        ("profile", facts.profile),
        ("a clip", f"{facts.seconds:g} s, {facts.num_frames} frames of {facts.image_size} pixels"),
    ]
    counts = {split: Counter(clips.labels.tolist()) for split, clips in splits.items()}
    sizes = [
        ("clips", *(str(len(clips)) for clips in splits.values())),
        ("actors or groups", *(str(_speakers(clips)) for clips in splits.values())),
        *(
            (name, *(str(counts[split][label]) for split in splits))
            for label, name in enumerate(facts.classes)
        ),
    ]
    return table((), rows, "settings") + table(("split", *splits), sizes)


def _splits(data: Mapping[str, Any], card: ModelCard, dataset: PreparedDataset) -> dict[str, Clips]:
    """Selects the clips of each split as the training did."""
    inputs = build_network(card.network).inputs
    video_only = data.get("video_only", False)
    return {
        split: dataset.select(chosen, inputs, split=split, video_only=video_only)
        for split, chosen in resolve_fold(data["fold"]).items()
    }


def _speakers(clips: Clips) -> int:
    return len({record.speaker for record in clips.records})


def made_section(model: tuple[Mapping[str, Any], ModelCard] | None, paths: Sequence[Path]) -> str:
    """Renders parameters, versions and dates.

    Args:
      model: variables and card of the best epoch, if there is one.
      paths: the run's files of which to tell the date.
    """
    rows = []
    if model:
        variables, card = model
        size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        rows.append(("parameters", f"{size:,}"))
        rows += sorted(card.versions.items())
    for path in paths:
        if path.exists():
            rows.append((path.name, _date(path.stat().st_mtime)))
    rows.append(("this page", f"{_date()}, avjax {versions().get('avjax', 'uninstalled')}"))
    return table((), rows, "settings")


def _date(seconds: float | None = None) -> str:
    """Formats a time, by default now, in UTC."""
    zone = datetime.UTC
    moment = datetime.datetime.now(zone)
    if seconds is not None:
        moment = datetime.datetime.fromtimestamp(seconds, zone)
    return f"{moment:%Y-%m-%d %H:%M} UTC"
