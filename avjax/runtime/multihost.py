"""Several processes that train one model: how they find one another, and what only one does.

The first process reads and writes the run's folder; the others learn from it what it found there.
All processes must come to every function here that says so, in the same order. In a single process
each of them is next to nothing.
"""

import itertools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import flags
from jax.experimental import multihost_utils

from avjax.errors import InputError

T = TypeVar("T")

_BY_HAND = ("coordinator", "num_processes", "process_id")
_STEPS_BETWEEN_AGREEMENTS = 8  # each makes the host wait for the devices
_PATIENCE = 60  # seconds that an ending process waits for the others
_MEETING_HOURS = 2  # that the others wait for the slowest process, such as one that saves

_meetings = itertools.count()


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags that `joined` reads."""
    flags.DEFINE_bool(
        "distributed",
        False,
        "This is one of several processes that SLURM, Open MPI, Kubernetes or a TPU slice started.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first of several processes that were started by hand, with "
        "--num_processes and --process_id.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "num_processes", None, "How many, with --coordinator.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Which one, from 0, with --coordinator.",
        lower_bound=0,
        flag_values=values,
    )


@contextmanager
def joined(values: flags.FlagValues) -> Iterator[None]:
    """Makes this process one of several within the block, where the flags say so.

    Comes before the first use of a device.

    Raises:
      InputError: flags that do not go together, no cluster, or a coordinator out of reach.
    """
    arguments = _arguments(values)
    if arguments is None:
        yield
        return
    # What CPUs of several processes compute together by; accelerators have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would take the termination signal, which means: save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(**arguments, shutdown_timeout_seconds=_PATIENCE)
    except ValueError as error:
        raise InputError(
            f"--distributed found no cluster ({error}); start the processes by SLURM, Open MPI, "
            "Kubernetes or on a TPU slice, or give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        where = arguments.get("coordinator_address", "the cluster's first process")
        raise InputError(
            f"cannot join the other processes at {where} ({error}); start all of them, with the "
            "same --coordinator and --num_processes"
        ) from error
    yield
    # Not where the block fails: the others may never come here.
    any_process(False)
    jax.distributed.shutdown()


def _arguments(values: flags.FlagValues) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` takes; None for a single process."""
    given = [name for name in _BY_HAND if values[name].value is not None]
    if not given:
        return {} if values.distributed else None
    lacking = [name for name in _BY_HAND if name not in given]
    if lacking:
        raise InputError(f"--{given[0]} needs --{' and --'.join(lacking)}")
    if values.distributed:
        raise InputError(
            "--distributed finds a cluster by itself; leave it or --coordinator, --num_processes "
            "and --process_id out"
        )
    host, _, port = values.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator={values.coordinator} is not HOST:PORT")
    if values.process_id >= values.num_processes:
        raise InputError(
            f"--process_id={values.process_id} is too high; {values.num_processes} processes count "
            f"from 0 to {values.num_processes - 1}"
        )
    return {
        "coordinator_address": values.coordinator,
        "num_processes": values.num_processes,
        "process_id": values.process_id,
    }


def is_first() -> bool:
    """Whether this process keeps the run's folder."""
    return jax.process_index() == 0


def any_process(wish: bool) -> bool:
    """Whether any process wishes; all must come here."""
    if jax.process_count() == 1:
        return wish
    _meet()
    return bool(np.any(multihost_utils.process_allgather(np.array(wish))))


def agree(step: int, *wishes: bool) -> tuple[bool, ...]:
    """Which wishes, such as to stop, any process has; all must ask with the same ``step``.

    One process has what it wishes at once, several at every eighth step.
    """
    if jax.process_count() == 1:
        return wishes
    if step % _STEPS_BETWEEN_AGREEMENTS:
        return (False,) * len(wishes)
    everyone = multihost_utils.process_allgather(np.array(wishes))
    return tuple(bool(wish) for wish in everyone.any(0))


@contextmanager
def all_or_none() -> Iterator[None]:
    """Ends the block in an InputError in all processes where one has any; all must come here."""
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    if any_process(failure is not None):
        raise failure or InputError("another process stopped; its last line tells why")


def from_first(find: Callable[[], T]) -> T:
    """What ``find`` returns, or the InputError it raises, in the first process; all must come here.

    Other processes do not call it.

    Args:
      find: without arguments; its result must be picklable.
    """
    if jax.process_count() == 1:
        return find()
    found: Any = None
    if is_first():
        try:
            found = jax.device_get(find())
        except InputError as error:
            found = error
    _meet()
    content = np.frombuffer(pickle.dumps(found), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.array(content.size, np.int32))
    padded = np.zeros(int(size), np.uint8)
    padded[: content.size if is_first() else 0] = content if is_first() else ()
    found = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    if isinstance(found, InputError):
        raise found
    return found


def _meet() -> None:
    """Waits for all processes on the host: devices that wait for one another soon give up."""
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"avjax {next(_meetings)}", timeout_ms=_MEETING_HOURS * 3600 * 1000)
