"""Training states on disk, by Orbax.

Every write is atomic: a run killed while saving keeps the checkpoint before.
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
_HEADROOM = 1 << 20  # bytes for metadata, beside the arrays
_REMEDY = "free space or choose another --workdir (the last complete checkpoint is kept)"


class RunCheckpoints:
    """The newest training state of a run, below ``RUN/checkpoints``; opened on first use.

    Of several processes one alone uses it, with a state in host memory.
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
        """Writes the state of an update, then removes the one before.

        Raises:
          InputError: the disk is full.
        """
        with saving(self._directory, state):
            self._manager.save(next_number(self._manager, step), args=ocp.args.StandardSave(state))

    def restore(self, like: State) -> State | None:
        """The newest state, with the structure and types of ``like``; None without one."""
        step = self._manager.latest_step()
        if step is None:
            return None
        return self._manager.restore(step, args=ocp.args.StandardRestore(like))


def next_number(manager: Manager, at_least: int = 0) -> int:
    """A free number after all that are there: the last one is the newest."""
    latest = manager.latest_step()
    return at_least if latest is None else max(at_least, latest + 1)


def open_manager(directory: Path, handlers: Any, *, write: bool = True) -> Manager:
    """Orbax's manager of a folder that holds one item at a time, for this process alone.

    Args:
      directory: created where ``write``.
      handlers: of the item, or by name of its parts.
      write: also remove what a killed save left behind.
    """
    # Orbax then waits for no other process; it does not create the directory in this mode.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    if write:
        directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=1,
        create=False,
        cleanup_tmp_directories=write,
        enable_async_checkpointing=False,
        multiprocessing_options=alone,
    )
    return Manager(directory.absolute(), options=options, item_handlers=handlers)


@contextmanager
def saving(directory: Path, tree: Any) -> Iterator[None]:
    """Checks for space before a save, and explains a disk that fills up during it."""
    needed = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(tree)) + _HEADROOM
    check_space(directory, needed, _REMEDY)
    with explain_full_disk(directory, _REMEDY):
        yield
