"""A run's config as checked, frozen dataclasses.

Each package defines and checks its own part; this module composes them. Config files and
``config.json`` hold a tree of keys, with the parts `loop` and `step` at the root.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar, get_args

from avjax.data.config import DataConfig
from avjax.errors import InputError, shortened
from avjax.models.networks import ModelConfig, build_network
from avjax.runs.run_config import CHECKPOINTS, CONFIG_FILE, flatten, read_config, write_config
from avjax.runs.saved_model import BEST
from avjax.runtime.devices import check_mode
from avjax.runtime.files import is_occupied
from avjax.training.augment import SoundAugmentation
from avjax.training.loop import LoopConfig
from avjax.training.optimizer import OptimizerConfig
from avjax.training.step import StepConfig

Part = TypeVar("Part")

_NOUNS = {
    bool: "a boolean",
    str: "a string",
    int: "an integer",
    float: "a number",
    tuple[int, ...]: "a tuple of integers",
    tuple[str, ...]: "a tuple of strings",
}

# Removed keys, and the only values that still mean the same run.
_REMOVED = {
    "label_smoothing": 0.0,
    "model.dropout": 0.0,
    "sound_augment.stretch": 0.0,
    "sound_augment.gain": 0.0,
    "sound_augment.time_mask": 0.0,
    "sound_augment.band_mask": 0.0,
    "sound_augment.mixup": 0.0,
}


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """The config of a run; ``repr`` shows the keys that differ from the defaults.

    Attributes:
      name: name of the run; the default workdir is ``runs/<name>``.
      model: the network.
      data: dataset and fold.
      step: mask, augmentation, dtype.
      optimizer: the optimizer and its learning rate.
      loop: epochs, batch size, seed.
      parallel: how steps are compiled for several devices, `jit` or `pmap`.
    """

    name: str = "run"
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    step: StepConfig = StepConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loop: LoopConfig = LoopConfig()
    parallel: str = "jit"

    def __post_init__(self) -> None:
        check_mode(self.parallel)
        inputs = build_network(self.model.describe(num_classes=1)).inputs
        if self.step.sound_augment.changes_spectra and inputs.audio != "log_mel":
            raise InputError(
                f"config.sound_augment changes log-mel spectra, and a network of kind "
                f"{self.model.kind!r} reads none; set its values to 0"
            )
        if len(inputs.streams) == 1 and self.step.mask != "nodropout":
            raise InputError(
                f"mask {self.step.mask!r} takes away the only stream of a network of kind "
                f"{self.model.kind!r}; set config.mask='nodropout'"
            )

    @classmethod
    def from_tree(cls, tree: Mapping[str, Any]) -> Self:
        """Builds a config from a tree of keys; absent keys take defaults.

        Args:
          tree: a ``ConfigDict`` or a mapping, such as the content of ``config.json``; nested, or
            with dotted keys as on the command line: ``{"model.kind": "audio", "num_epochs": 20}``.

        Raises:
          InputError: unknown keys or invalid values.
        """
        leaves = flatten(tree)
        for name in ("format", "digest"):  # of config.json
            leaves.pop(name, None)
        if isinstance(leaves.get("augment"), bool):  # before augmentations had names
            leaves["augment"] = StepConfig.augment if leaves["augment"] else ""
        for key, neutral in _REMOVED.items():
            if leaves.pop(key, neutral) != neutral:
                raise InputError(
                    f"config.{key} is no longer supported; set it to {neutral} or leave it out"
                )
        parts: dict[str, Any] = {name: _build(kind, name, leaves) for name, kind in _PARTS.items()}
        parts["step"] = _build(StepConfig, "", leaves, sound_augment=parts.pop("sound_augment"))
        parts["loop"] = _build(LoopConfig, "", leaves)
        config = _build(cls, "", leaves, **parts)
        if leaves:
            known = ", ".join(sorted(flatten(config.to_tree())))
            unknown = " and ".join(shortened(sorted(leaves)))
            raise InputError(f"unknown config key {unknown}; the keys are {known}")
        return config

    def __repr__(self) -> str:
        defaults = flatten(RunConfig().to_tree())
        changed = {
            key: value
            for key, value in flatten(self.to_tree()).items()
            if key not in defaults or value != defaults[key]
        }
        return f"{type(self).__name__}.from_tree({changed!r})"

    def to_tree(self) -> dict[str, Any]:
        """Returns the tree of keys, as in ``config.json``."""
        tree = {"name": self.name, "parallel": self.parallel, "model": self.model.to_tree()}
        for part in (self.loop, self.step):
            tree |= dataclasses.asdict(part)
        for name in ("optimizer", "data"):
            tree[name] = dataclasses.asdict(getattr(self, name))
        return tree

    def with_fold(self, fold: str, seed: int) -> Self:
        """Returns the same config with another fold and seed."""
        data = dataclasses.replace(self.data, fold=fold)
        return dataclasses.replace(self, data=data, loop=dataclasses.replace(self.loop, seed=seed))


_PARTS = {
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "sound_augment": SoundAugmentation,
}


def check_resumable(config: RunConfig, workdir: Path) -> None:
    """Writes a new run's ``config.json``, or compares the config with an existing run's.

    Raises:
      InputError: names the keys that differ, or the config of an existing run is lost or damaged.
    """
    if not (workdir / CONFIG_FILE).exists():
        if is_occupied(workdir / CHECKPOINTS) or is_occupied(workdir / BEST):
            raise InputError(
                f"{workdir / CONFIG_FILE} is lost, though the folder holds a run; restore it from "
                "a copy, or choose another --workdir"
            )
        write_config(workdir, config.to_tree())
        return
    former, current = (flatten(c.to_tree()) for c in (run_config(workdir), config))
    current["name"] = former["name"]  # a label, which changes nothing
    differing = [
        f"{key} was {former.get(key, 'absent')!r} and is {current.get(key, 'absent')!r}"
        for key in sorted(former.keys() | current.keys())
        if former.get(key) != current.get(key)
    ]
    if differing:
        raise InputError(
            f"{workdir} holds a run with another config: {'; '.join(differing)}; "
            "choose another --workdir, or the same config to resume (to go on with other settings, "
            f"start a new run from it: --config.model.pretrained={workdir})"
        )


def run_config(workdir: Path) -> RunConfig:
    """Reads the config of a run.

    Raises:
      InputError: ``workdir`` is not a run, or this version cannot use its config.
    """
    tree = read_config(workdir)  # whose errors name the file
    try:
        return RunConfig.from_tree(tree)
    except InputError as error:
        raise InputError(f"{workdir / CONFIG_FILE}: {error}") from error


def _build(kind: type[Part], prefix: str, leaves: dict[str, Any], **parts: Any) -> Part:
    """Builds a dataclass from ``parts`` and the leaves below a prefix, removing those leaves."""
    values = dict(parts)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        key = f"{prefix}.{field.name}" if prefix else field.name
        if field.name not in parts and key in leaves:
            values[field.name] = _typed(key, leaves.pop(key), field.type)
    return kind(**values)


def _typed(key: str, value: Any, kind: Any) -> Any:
    """Converts a value to its field's type: JSON has lists for tuples, users write 1 for 1.0.

    Raises:
      InputError: a value of another type.
    """
    if kind is bool or kind is str:
        fits = isinstance(value, kind)
    elif kind is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        value = float(value) if fits else value
    else:  # a tuple
        (item, _) = get_args(kind)
        fits = isinstance(value, (list, tuple)) and all(type(x) is item for x in value)
        value = tuple(value) if fits else value
    if not fits:
        raise InputError(f"config.{key}={value!r} is not {_NOUNS[kind]}; correct it")
    return value
