"""Orbax checkpoints of training states.

Writes are atomic: a run killed while saving keeps the previous checkpoint.
"""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import jax
import orbax.checkpoint as ocp

from avjax.runtime.files import check_space, explain_full_disk

State = TypeVar("State")
Manager: TypeAlias = ocp.CheckpointManager

CHECKPOINTS = "checkpoints"
_HEADROOM = 1 << 20  # bytes for metadata
_REMEDY = "free space or choose another --workdir (the last complete checkpoint is kept)"


class RunCheckpoints:
    """The newest checkpoint of a run, in ``RUN/checkpoints``; opened on first use.

    Used by a single process, with states in host memory.
    """

    def __init__(self, workdir: Path) -> None:
        self._directory = workdir / CHECKPOINTS

    @functools.cached_property
    def _manager(self) -> Manager:
        return open_manager(self._directory, ocp.StandardCheckpointHandler())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_manager" in self.__dict__:
            self._manager.close()

    def save(self, step: int, state: Any) -> None:
        """Writes a checkpoint, then deletes the previous one.

        Raises:
          InputError: the disk is full.
        """
        with checked_save(self._directory, state):
            self._manager.save(next_step(self._manager, step), args=ocp.args.StandardSave(state))

    def restore(self, like: State) -> State | None:
        """Restores the newest state with the structure and dtypes of ``like``, or returns None."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))


def next_step(manager: Manager, at_least: int = 0) -> int:
    """Returns a number greater than all existing ones, so that the newest is the highest."""
    latest = manager.latest_step()
    return at_least if latest is None else max(at_least, latest + 1)


def open_manager(directory: Path, handlers: Any, *, write: bool = True) -> Manager:
    """Opens an Orbax manager that keeps one item and is used by this process only.

    Args:
      directory: the item's directory; created if ``write``.
      handlers: the item's handler, or handlers by name of its parts.
      write: whether to save; also deletes the remains of a killed save.
    """
    # Orbax then waits for no other process, but does not create the directory.
    single_process = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    if write:
        directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,
        cleanup_tmp_directories=write,
        enable_async_checkpointing=False,
        multiprocessing_options=single_process,
    )
    return Manager(directory.absolute(), options=options, item_handlers=handlers)


@contextmanager
def checked_save(directory: Path, tree: Any) -> Iterator[None]:
    """Checks for free space before a save, and reports a disk that fills up during it."""
    needed = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(tree)) + _HEADROOM
    check_space(directory, needed, _REMEDY)
    with explain_full_disk(directory, _REMEDY):
        yield
