"""Models on disk (``RUN/best`` or a converted checkpoint): variables and a model card."""

import dataclasses
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.core import unfreeze
from flax.traverse_util import flatten_dict, unflatten_dict

from avjax.data.checks import check_sizes
from avjax.errors import InputError, short
from avjax.models.networks import BACKBONE_KIND, build_network
from avjax.runs.run_config import CHECKPOINTS, CONFIG_FILE, NO_SPACE
from avjax.runtime.files import atomic_file, checked_write
from avjax.runtime.sealed import digest_arrays, refuse_bad_numbers, seal, unseal
from avjax.runtime.typed import check_fields
from avjax.weights.safetensors_file import read_with_metadata, write_safetensors

BEST = "best"
MODEL_FILE = "model.safetensors"
CARRIED = Path(__file__).parents[1] / "pretrained"  # models that avjax carries, by name
_COLLECTIONS = ("params", "batch_stats")
_CARD = "card"
_ARRAYS = "arrays"  # in the stored card: the digest of the arrays
_NAME_A_MODEL = "name a workdir of training, a converted checkpoint, or voice"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A model's metadata.

    Attributes:
      network: ``kind``, ``num_classes``, and the kind's fields in `networks.NETWORKS`.
      classes: class names, in the order of the logits.
      profile: profile of the clips, `fixed` or `reference`.
      num_frames: frames per clip.
      image_size: side of a frame in pixels.
      audio_steps: MFCC steps per clip.
      seconds: length of a clip's window.
      epoch: epoch of the variables; 0 if unknown.
      metrics: validation metrics of that epoch.
      versions: versions of the libraries that trained the model.
      temperatures: of calibrated probabilities, by the streams that a clip has: `both`, `audio`,
        `video`; empty if not calibrated.
      about: what its makers say of it, by ``name``, ``data``, ``licence``, ``accuracy``,
        ``limits``; empty for a model of one's own.
    """

    network: dict[str, Any]
    classes: list[str]
    profile: str
    num_frames: int
    image_size: int
    audio_steps: int
    seconds: float = 3.6
    epoch: int = 0
    metrics: dict[str, float] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    temperatures: dict[str, float] = dataclasses.field(default_factory=dict)
    about: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def statement(self) -> str:
        """What to say of the model beside its answers; empty for a model of one's own."""
        if not self.about:
            return ""
        names = ("data", "accuracy", "limits", "licence")
        lines = [f"  {name}: {self.about[name]}" for name in names if name in self.about]
        return "\n".join([f"model {self.about.get('name', 'without a name')}", *lines])


def save_model(directory: Path, variables: Mapping[str, Any], card: ModelCard) -> None:
    """Writes a model with a digest, in place of the one before.

    Raises:
      InputError: the disk is full, or a value is not finite.
    """
    tree = {name: variables[name] for name in _COLLECTIONS}
    arrays = {name: np.asarray(x) for name, x in flatten_dict(unfreeze(tree), sep="/").items()}
    refuse_bad_numbers(arrays, f"the model for {directory}", "it is not saved")
    sealed = seal(dataclasses.asdict(card) | {_ARRAYS: digest_arrays(arrays)})
    directory.mkdir(parents=True, exist_ok=True)
    nbytes = sum(x.nbytes for x in arrays.values())
    with (
        checked_write(directory, nbytes, NO_SPACE),
        atomic_file(directory / MODEL_FILE) as file,
    ):
        write_safetensors(file, arrays, {_CARD: json.dumps(sealed)})
    for former in _orbax_models(directory):
        shutil.rmtree(directory / str(former))


def load_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """Loads the variables and card of a run's best epoch, a model directory or a carried model.

    Args:
      path: a workdir of training, a model's directory, or, as a string, a name of
        `carried_models`, which goes before a directory of that name; ``./voice`` is the directory.

    Raises:
      InputError: there is no model, only the EfficientFace backbone, or an unknown network.
    """
    variables, card = read_model(path)
    if card.network.get("kind") == BACKBONE_KIND:
        raise InputError(
            f"{path} holds the EfficientFace backbone alone, which cannot classify clips; "
            "train from it with --config.model.pretrained and load the trained run"
        )
    try:
        net = build_network(card.network)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    if net.num_classes != len(card.classes):
        raise InputError(
            f"{path} names {len(card.classes)} classes for a network of {net.num_classes}; "
            f"{_NAME_A_MODEL}"
        )
    return variables, card


def read_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """Like `load_model`, but also loads the EfficientFace backbone.

    Raises:
      InputError: there is no model, it is damaged, or a value is not finite.
    """
    file = _model_file(CARRIED / path if path in carried_models() else Path(path))
    try:
        variables, content = _read_former(file) if file.is_dir() else _read_safetensors(file)
        digest = content.pop(_ARRAYS, None)
        card = _card(content)
    except Exception as error:  # Orbax and TensorStore raise many types
        raise InputError(
            f"{file} is damaged or holds no model that this version reads ({short(error)}); "
            f"{_alternatives(file.parent)}"
        ) from error
    if digest is not None and digest_arrays(variables) != digest:
        raise InputError(
            f"{file} is damaged (its arrays do not match their digest); "
            f"{_alternatives(file.parent)}"
        )
    refuse_bad_numbers(variables, str(file), _NAME_A_MODEL)
    device = jax.local_devices()[0]
    nested = unflatten_dict(jax.device_put(variables, device), sep="/")
    return {name: nested.get(name, {}) for name in _COLLECTIONS}, card


def carried_models() -> list[str]:
    """Returns the names of the models that avjax carries."""
    return sorted(path.parent.name for path in CARRIED.glob(f"*/{MODEL_FILE}"))


def best_card(workdir: Path) -> ModelCard | None:
    """Checks a run's best model and returns its card; None if there is no model.

    Raises:
      InputError: the model is damaged.
    """
    return read_model(workdir / BEST)[1] if has_model(workdir) else None


def has_model(workdir: Path) -> bool:
    """Whether a run has a best model, damaged or not."""
    return _find_model(workdir / BEST) is not None


def _find_model(directory: Path) -> Path | None:
    """Returns the model's file; of earlier versions, Orbax's folder; or None."""
    if (directory / MODEL_FILE).is_file():
        return directory / MODEL_FILE
    former = _orbax_models(directory)
    return directory / str(max(former)) if former else None


def _orbax_models(directory: Path) -> list[int]:
    """Returns the numbers of complete models of earlier versions."""
    return [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]


def _alternatives(directory: Path) -> str:
    """Says what to do about a damaged model, and what else its run holds."""
    states = sorted((directory.parent / CHECKPOINTS).glob("[0-9]*"))
    if directory.name != BEST or not states:
        return "restore it from a copy, or " + _NAME_A_MODEL
    others = " and ".join(str(path) for path in states)
    return (
        "restore it from a copy, or train again in another --workdir (the run's last training "
        f"states are in {others}, but not the best epoch's)"
    )


def _card(content: dict[str, Any]) -> ModelCard:
    """Builds a card from JSON, where None stands for metrics that are not finite.

    Raises:
      TypeError or ValueError: fields or values that no card has.
    """
    card = ModelCard(**content)
    metrics = {name: math.nan if x is None else x for name, x in dict(card.metrics).items()}
    card = dataclasses.replace(card, metrics=metrics)
    check_fields(card)
    check_sizes(card.classes, card.num_frames, card.image_size, card.audio_steps, card.seconds)
    return card


def _read_safetensors(file: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads arrays by path and the content of the card."""
    with file.open("rb") as opened:
        tensors, metadata = read_with_metadata(opened, file.stat().st_size)
    arrays = {name: x for name, x in tensors.items() if isinstance(x, np.ndarray)}
    if len(arrays) < len(tensors):
        raise InputError("it holds tensors of an unknown type")
    if _CARD not in metadata:
        raise InputError("it has no card")
    return arrays, unseal(json.loads(metadata[_CARD]), file, "restore it from a copy")


def _read_former(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads a model of an earlier version, as `_read_safetensors`."""
    from avjax.runs.orbax_model import read_orbax_model  # Orbax takes a tenth of a second to import

    variables, card = read_orbax_model(directory)
    return variables, unseal(card, directory, "restore it from a copy")


def _model_file(path: Path) -> Path:
    """Returns the model of a run or of a model directory, as `_find_model`."""
    if path.is_file():
        raise InputError(f"{path} is a file; {_NAME_A_MODEL}")
    if not path.is_dir():
        raise InputError(f"there is no checkpoint at {path}; {_NAME_A_MODEL}")
    is_run = (path / CONFIG_FILE).exists()
    file = _find_model(path / BEST if is_run or (path / BEST).is_dir() else path)
    if file is not None:
        return file
    if is_run:
        raise InputError(f"run {path} has no best epoch yet; train it for at least one epoch")
    raise InputError(f"{path} holds no model that this version reads; {_NAME_A_MODEL}")
