"""A model on disk (``RUN/best``, a converted checkpoint): its variables, and a card for them."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from avjax.errors import InputError
from avjax.models.networks import BACKBONE_KIND
from avjax.runs.checkpoints import Manager, next_number, open_manager, saving
from avjax.runs.run_config import CONFIG_FILE

BEST = "best"
_NAME_A_MODEL = "name a workdir of training or a converted checkpoint"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """What must be known of a model beside its variables.

    Attributes:
      network: ``kind``, and for "audio_visual" ``fusion``, ``num_heads``, ``num_classes``.
      classes: names of the logits.
      profile: how clips were prepared, `fixed` or `reference`.
      num_frames: frames of a clip.
      image_size: side of a frame in pixels.
      audio_steps: MFCC steps of a clip.
      seconds: of a clip's window.
      epoch: that the variables are of; 0 where unknown.
      metrics: of the validation split at that epoch.
      versions: of the libraries that trained it.
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
    """Writes a model and then removes the one that was there.

    Raises:
      InputError: the disk is full.
    """
    tree = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    with (
        _model_manager(directory, write=True) as manager,
        saving(directory, tree),
    ):
        manager.save(
            next_number(manager),
            args=ocp.args.Composite(
                variables=ocp.args.StandardSave(tree),
                card=ocp.args.JsonSave(dataclasses.asdict(card)),
            ),
        )


def load_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """Variables and card of a workdir's best epoch, or of a model directory.

    Raises:
      InputError: no model there, or the face backbone alone, which predicts no emotion.
    """
    variables, card = read_model(path)
    if card.network.get("kind") == BACKBONE_KIND:
        raise InputError(
            f"{path} holds the EfficientFace backbone alone, which cannot classify clips; "
            "train from it with --config.model.pretrained and load the trained run"
        )
    return variables, card


def read_model(path: str | Path) -> tuple[dict[str, Any], ModelCard]:
    """As `load_model`, for any kind of network.

    Raises:
      InputError: no model at ``path``.
    """
    directory = _model_directory(Path(path))
    try:
        with _model_manager(directory, write=False) as manager:
            restored = _restore_model(manager)
        return restored["variables"], ModelCard(**restored["card"])
    except Exception as error:  # of many types: Orbax's, TensorStore's, JSON's, a card's fields
        raise InputError(
            f"{path} holds no model that this version reads ({type(error).__name__}: {error}); "
            f"{_NAME_A_MODEL}"
        ) from error


def _model_directory(path: Path) -> Path:
    """Where the model of a workdir or of a converted checkpoint lies."""
    if path.is_file():
        raise InputError(f"{path} is a file; {_NAME_A_MODEL}")
    if not path.is_dir():
        raise InputError(f"there is no checkpoint at {path}; {_NAME_A_MODEL}")
    is_run = (path / CONFIG_FILE).exists()
    directory = path / BEST if is_run or (path / BEST).is_dir() else path
    if directory.is_dir() and any(entry.name.isdigit() for entry in directory.iterdir()):
        return directory  # Orbax gives unfinished checkpoints other names
    if is_run:
        raise InputError(f"run {path} has no best epoch yet; train it for at least one epoch")
    raise InputError(f"{path} holds no model that this version reads; {_NAME_A_MODEL}")


def _restore_model(manager: Manager) -> Any:
    """The newest model, on this process's first device whatever it was trained on."""
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
