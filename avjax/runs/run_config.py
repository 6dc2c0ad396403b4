"""Reads and writes a run's ``config.json``, its config as nested keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avjax.errors import InputError
from avjax.runtime.files import write_json
from avjax.runtime.sealed import read_json

CONFIG_FILE, REPORT_FILE = "config.json", "report.html"
CHECKPOINTS = "checkpoints"  # folder of the training states
NO_SPACE = "free space or choose another --workdir (the last complete checkpoint is kept)"


def write_config(workdir: Path, tree: Mapping[str, Any]) -> None:
    """Writes the config of a new run."""
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / CONFIG_FILE, tree)


def read_config(workdir: Path) -> dict[str, Any]:
    """Reads the config of a run.

    Raises:
      InputError: ``workdir`` is not a run, or its config is damaged.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{workdir} is not a run (no {CONFIG_FILE}); name a workdir of training")
    return read_json(path, "restore it, or choose another --workdir")


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested mapping; keys are joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if hasattr(value, "items"):  # ml_collections.ConfigDict is not a Mapping
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
