"""Reads and writes a run's ``config.json``, its config as nested keys."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avjax.errors import InputError
from avjax.runtime.files import write_json

CONFIG_FILE = "config.json"


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
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged; restore it, or choose another --workdir")
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens a nested mapping; keys are joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if hasattr(value, "items"):  # ml_collections.ConfigDict is not a Mapping
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
