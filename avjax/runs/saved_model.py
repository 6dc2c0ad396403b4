"""Models on disk (``RUN/best`` or a converted checkpoint): variables and a model card."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from avjax.errors import InputError
from avjax.models.networks import BACKBONE_KIND
from avjax.runs.checkpoints import Manager, checked_save, next_step, open_manager
from avjax.runs.run_config import CONFIG_FILE

BEST = "best"
_NAME_A_MODEL = "name a workdir of training or a converted checkpoint"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """A model's metadata.

    Attributes:
      network: ``kind``, and for "audio_visual" ``fusion``, ``num_heads``, ``num_classes``.
      classes: class names, in the order of the logits.
      profile: profile of the clips, `fixed` or `reference`.
      num_frames: frames per clip.
      image_size: side of a frame in pixels.
      audio_steps: MFCC steps per clip.
      seconds: length of a clip's window.
      epoch: epoch of the variables; 0 if unknown.
      metrics: validation metrics of that epoch.
      versions: versions of the libraries that trained the model.
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


def save_model(directory: Path, variables: Mapping[str, Any], card: ModelCard) -> None:
    """Writes a model, then deletes the previous one.

    Raises:
      InputError: the disk is full.
    """
    tree = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    with (
        _model_manager(directory, write=True) as manager,
        checked_save(directory, tree),
    ):
        manager.save(
            next_step(manager),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(tree),
                card=ocp.args.JsonSave(dataclasses.asdict(card)),
            ),
        )


def load_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """Loads the variables and card of a run's best epoch or of a model directory.

    Raises:
      InputError: there is no model, or only the EfficientFace backbone.
    """
    variables, card = read_model(path)
    if card.network.get("kind") == BACKBONE_KIND:
        raise InputError(
            f"{path} holds the EfficientFace backbone alone, which cannot classify clips; "
            "train from it with --config.model.pretrained and load the trained run"
        )
    return variables, card


def read_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """Like `load_model`, but also loads the EfficientFace backbone.

    Raises:
      InputError: there is no model.
    """
    directory = _model_directory(Path(path))
    try:
        with _model_manager(directory, write=False) as manager:
            restored = _restore_model(manager)
        return restored["variables"], ModelCard(**restored["card"])
    except Exception as error:  # from Orbax, TensorStore, JSON or ModelCard
        raise InputError(
            f"{path} holds no model that this version reads ({type(error).__name__}: {error}); "
            f"{_NAME_A_MODEL}"
        ) from error


def _model_directory(path: Path) -> Path:
    """Returns the model directory of a run or of a converted checkpoint."""
    if path.is_file():
        raise InputError(f"{path} is a file; {_NAME_A_MODEL}")
    if not path.is_dir():
        raise InputError(f"there is no checkpoint at {path}; {_NAME_A_MODEL}")
    is_run = (path / CONFIG_FILE).exists()
    directory = path / BEST if is_run or (path / BEST).is_dir() else path
    if directory.is_dir() and any(entry.name.isdigit() for entry in directory.iterdir()):
        return directory  # Orbax gives unfinished checkpoints non-numeric names
    if is_run:
        raise InputError(f"run {path} has no best epoch yet; train it for at least one epoch")
    raise InputError(f"{path} holds no model that this version reads; {_NAME_A_MODEL}")


def _restore_model(manager: Manager) -> Any:
    """Restores the newest model to this process's first device."""
    step = manager.latest_step()
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
        manager.item_metadata(step)["variables"].tree,
    )
    return manager.restore(
        step,
        args=ocp.args.Composite(
            variables=ocp.args.StandardRestore(like), card=ocp.args.JsonRestore()
        ),
    )


@contextmanager
def _model_manager(directory: Path, *, write: bool) -> Iterator[Manager]:
    handlers = {
        "variables": ocp.StandardCheckpointHandler(),
        "card": ocp.JsonCheckpointHandler(),
    }
    manager = open_manager(directory, handlers, write=write)
    try:
        yield manager
    finally:
        manager.close()
