"""A run's ``config.json``: written once, compared when the run is resumed."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from avjax.errors import InputError
from avjax.runtime.files import write_json

CONFIG_FILE = "config.json"

# Keys that configs did not always have, and what a run without them goes on with: no figure depends
# on them but by rounding.
_LATER_KEYS = {"data.cache": "auto", "steps_per_call": 0}


def check_config(workdir: Path, config: Mapping[str, Any]) -> None:
    """Writes ``config.json``, or compares the run's config with the one that is there.

    Raises:
      InputError: names the keys that differ.
    """
    stored = json.loads(json.dumps(config))
    path = workdir / CONFIG_FILE
    if not path.exists():
        workdir.mkdir(parents=True, exist_ok=True)
        write_json(path, stored)
        return
    former, current = (
        {key: repr(value) for key, value in (_LATER_KEYS | flatten(tree)).items()}
        for tree in (read_config(workdir), stored)
    )
    differing = [
        f"{key} was {former.get(key, 'absent')} and is {current.get(key, 'absent')}"
        for key in sorted(former.keys() | current.keys())
        if former.get(key) != current.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run with another config: {'; '.join(differing)}; "
            "choose another --workdir, or the same config to resume"
        )


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of a run.

    Raises:
      InputError: ``workdir`` is no run.
    """
    path = workdir / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{workdir} is not a run (no {CONFIG_FILE}); name a workdir of training")
    try:
        config = json.loads(path.read_text())
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InputError(f"{path} is damaged; restore it, or choose another --workdir")
    return config


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of a nested mapping: keys joined by dots."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
