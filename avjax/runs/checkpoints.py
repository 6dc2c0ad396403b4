"""Orbax checkpoints of training states, with digests.

Writes are atomic: a run killed while saving keeps the previous checkpoint.
"""

import functools
import gc
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import jax
import orbax.checkpoint as ocp

from avjax.errors import InputError, short
from avjax.runs.metrics_log import check_line
from avjax.runs.run_config import CHECKPOINTS, NO_SPACE
from avjax.runtime.files import checked_write
from avjax.runtime.sealed import digest_arrays, read_json, refuse_bad_numbers, seal, tell_unverified

State = TypeVar("State")
Manager: TypeAlias = ocp.CheckpointManager

CARD = "card"
_STATE = "default"  # the name that Orbax gave states without a card
_OTHER_READS = 0.2  # seconds; of a damaged state, reads fail almost at once
_LOWER_RATE = (
    "what was saved before is kept: train in another --workdir with a lower "
    "config.optimizer.learning_rate"
)


class RunCheckpoints:
    """The two newest checkpoints of a run, in ``RUN/checkpoints``; opened on first use.

    Used by a single process, with states in host memory. Each checkpoint has a card with the digest
    of its state and the run's metrics so far.

    Attributes:
      lines: the restored checkpoint's lines of metrics.jsonl; None from earlier versions.
    """

    def __init__(self, workdir: Path) -> None:
        self._directory = workdir / CHECKPOINTS
        self._damaged: list[int] = []
        self.lines: list[dict[str, Any]] | None = None

    @functools.cached_property
    def _manager(self) -> Manager:
        handlers = {_STATE: ocp.StandardCheckpointHandler(), CARD: ocp.JsonCheckpointHandler()}
        return open_manager(self._directory, handlers, keep=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if "_manager" in self.__dict__:
            self._manager.close()

    def save(self, step: int, state: Any, lines: Sequence[Mapping[str, Any]] = ()) -> None:
        """Writes a checkpoint, then deletes all but the previous one.

        Args:
          step: the state's step.
          state: a tree of arrays.
          lines: the lines of metrics.jsonl so far.

        Raises:
          InputError: the disk is full, or a value is not finite.
        """
        check_finite(state)
        card = seal({"arrays": digest_arrays(named_arrays(state)), "metrics": lines})
        nbytes = sum(getattr(leaf, "nbytes", 8) for leaf in jax.tree.leaves(state))
        with checked_write(self._directory, nbytes, NO_SPACE), _quiet():
            while self._damaged:
                self._manager.delete(self._damaged.pop())
            args = {_STATE: ocp.args.StandardSave(state), CARD: ocp.args.JsonSave(card)}
            step = next_step(self._manager, step)
            self._manager.save(step, args=ocp.args.Composite(**args))

    def restore(self, like: State) -> State | None:
        """Restores the newest undamaged state with the structure and dtypes of ``like``.

        Tells which newer ones are damaged; the next `save` deletes them.

        Returns:
          The state, or None if there is none.

        Raises:
          InputError: all states are damaged.
        """
        faults = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            with _quiet():
                try:
                    state = self._restore(step, like)
                except Exception as error:  # from Orbax, TensorStore, JSON or the digests
                    faults.append(f"{self._directory / str(step)} is damaged ({short(error)})")
                else:
                    for fault in faults:
                        print(f"note: {fault}; resuming from step {step}", file=sys.stderr)
                    return state
                time.sleep(_OTHER_READS)
                gc.collect()  # reports their errors now
            self._damaged.append(step)
        if faults:
            raise InputError(
                f"{'; '.join(faults)}; restore a state from a copy, or train again in another "
                "--workdir"
            )
        return None

    def _restore(self, step: int, like: State) -> State:
        """Restores one state and checks its digest; sets `lines`."""
        card = read_card(self._directory / str(step))
        args = {_STATE: ocp.args.StandardRestore(like)}
        state = self._manager.restore(step, args=ocp.args.Composite(**args))[_STATE]
        if card is None:
            tell_unverified(self._directory / str(step))
        elif digest_arrays(named_arrays(state)) != card["arrays"]:
            raise InputError("its arrays do not match their digest")
        self.lines = None if card is None else card["metrics"]
        return state


def check_finite(state: Any) -> None:
    """Raises InputError if a training state holds a number that is not finite."""
    refuse_bad_numbers(named_arrays(state), "the training state", _LOWER_RATE)


def read_history(workdir: Path) -> list[dict[str, Any]] | None:
    """Reads the lines of metrics.jsonl from a run's newest undamaged checkpoint, or returns None.

    Tells which newer ones are damaged.
    """
    folder = workdir / CHECKPOINTS
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        try:
            card = read_card(folder / str(step))
        except InputError as error:
            print(f"note: {error}", file=sys.stderr)
        else:
            return None if card is None else card["metrics"]
    return None


def read_card(checkpoint: Path) -> dict[str, Any] | None:
    """Reads the card of a checkpoint; returns None if there is none, as in earlier versions.

    Raises:
      InputError: the card is damaged.
    """
    path = checkpoint / CARD / "metadata"  # as Orbax's handler names it
    if not path.exists():
        return None
    card = read_json(path, "restore it from a copy")
    try:
        for line in card["metrics"]:
            check_line(line)
        str(card["arrays"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); restore it from a copy") from error
    return card


def named_arrays(tree: Any) -> dict[str, Any]:
    """Returns a tree's arrays by their path."""
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def next_step(manager: Manager, at_least: int = 0) -> int:
    """Returns a number greater than all existing ones, so that the newest is the highest."""
    latest = manager.latest_step()
    return at_least if latest is None else max(at_least, latest + 1)


def open_manager(directory: Path, handlers: Any, *, keep: int = 1, write: bool = True) -> Manager:
    """Opens an Orbax manager that is used by this process only.

    Args:
      directory: the item's directory; created if ``write``.
      handlers: handlers by name of the item's parts.
      keep: number of items to keep.
      write: whether to save; also deletes the remains of a killed save.
    """
    # Orbax then waits for no other process, but does not create the directory.
    single_process = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(), active_processes={jax.process_index()}
    )
    if write:
        directory.mkdir(parents=True, exist_ok=True)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep,
        create=False,
        lightweight_initialize=True,  # each step's own files tell of damage when it is restored
        cleanup_tmp_directories=write,
        enable_async_checkpointing=False,
        multiprocessing_options=single_process,
    )
    return Manager(directory.absolute(), options=options, item_handlers=handlers)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Orbax beside the error that it raises: its log, and reads that fail after that."""
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]
    levels = [logger.level for logger in loggers]
    previous = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not isinstance(unraisable.exc_value, RuntimeError):  # of an event loop that is closed
            previous(unraisable)

    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = previous
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
