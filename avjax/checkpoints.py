"""What a run keeps on disk: its state, its best model, its config; Orbax does the writing.

Every write is atomic: a run killed while saving keeps the checkpoint before. A model directory
(``RUN/best``, a converted checkpoint) holds the variables and a card that says what they are.
"""

import dataclasses
import errno
import functools
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import jax
import orbax.checkpoint as ocp

from avjax.errors import InputError

State = TypeVar("State")
Manager: TypeAlias = ocp.CheckpointManager

CONFIG_FILE, CHECKPOINTS, BEST = "config.json", "checkpoints", "best"
BACKBONE_KIND = "efficientface"
_HEADROOM = 1 << 20  # bytes for metadata, beside the arrays
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


# ---------------------------------------------------------------------------------------- models


def save_model(directory: Path, variables: Mapping[str, Any], card: ModelCard) -> None:
    """Writes a model and then removes the one that was there.

    Raises:
      InputError: the disk is full.
    """
    tree = {"params": variables["params"], "batch_stats": variables["batch_stats"]}
    with (
        _model_manager(directory, write=True) as manager,
        _full_disk_is_an_input_error(directory, tree),
    ):
        manager.save(
            _number(manager),
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


# ------------------------------------------------------------------------------------------ runs


class RunCheckpoints:
    """The newest training state of a run, below ``RUN/checkpoints``; opened on first use.

    Of several processes one alone uses it, with a state in host memory.
    """

    def __init__(self, workdir: Path) -> None:
        self._directory = workdir / CHECKPOINTS

    @functools.cached_property
    def _manager(self) -> Manager:
        return _open_manager(self._directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_manager" in self.__dict__:
            self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Writes the state of an update, then removes the one before.

        Raises:
          InputError: the disk is full.
        """
        with _full_disk_is_an_input_error(self._directory, state):
            self._manager.save(_number(self._manager, step), args=ocp.args.StandardSave(state))

    def restore(self, like: State) -> State | None:
        """The newest state, with the structure and types of ``like``; None without one."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))


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
        write_json_atomically(path, stored)
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


# ----------------------------------------------------------------------------------------- files


def write_json_atomically(path: Path, content: Any) -> None:
    """Writes JSON; see `write_text_atomically`."""
    write_text_atomically(path, json.dumps(content, indent=2) + "\n")


def write_text_atomically(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def append_jsonl(path: Path, content: Mapping[str, Any]) -> None:
    """Appends one line of JSON, durable on return."""
    with path.open("a") as file:
        file.write(json.dumps(content) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _number(manager: Manager, wished: int = 0) -> int:
    """A free number after all that are there: the one found last is the newest."""
    latest = manager.latest_step()
    return wished if latest is None else max(wished, latest + 1)


def _open_manager(directory: Path, *, model: bool = False, write: bool = True) -> Manager:
    # Orbax then waits for no other process; it does not create the directory in this mode.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    if write:
        directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,
        cleanup_tmp_directories=write,  # left by a save that was killed
        enable_async_checkpointing=False,
        multiprocessing_options=alone,
    )
    handlers = {
        "variables": ocp.StandardCheckpointHandler(),
        "card": ocp.JsonCheckpointHandler(),
    }
    handler = handlers if model else ocp.StandardCheckpointHandler()
    return Manager(directory.absolute(), options=options, item_handlers=handler)


@contextmanager
def _model_manager(directory: Path, *, write: bool) -> Iterator[Manager]:
    manager = _open_manager(directory, model=True, write=write)
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def _full_disk_is_an_input_error(directory: Path, tree: Any) -> Iterator[None]:
    """Looks for room before a save, and turns a full disk during it into one clear line."""
    needed = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(tree)) + _HEADROOM
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    message = (
        f"no space left for a checkpoint of {needed / 1e6:.0f} MB in {directory}; free space or "
        "choose another --workdir (the last complete checkpoint is kept)"
    )
    if shutil.disk_usage(existing).free < needed:
        raise InputError(message)
    try:
        yield
    except Exception as error:
        # Below Orbax, TensorStore reports a full disk as text in errors of several types.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "ENOSPC" in str(error):
            raise InputError(message) from error
        raise
