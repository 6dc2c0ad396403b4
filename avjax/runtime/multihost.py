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
from jax.experimental import multihost_utils

from avjax.errors import InputError

T = TypeVar("T")

_STEPS_BETWEEN_AGREEMENTS = 8  # each makes the host wait for the devices
_PATIENCE = 60  # seconds that an ending process waits for the others
_MEETING_HOURS = 2  # that the others wait for the slowest process, such as one that saves

_meetings = itertools.count()


@contextmanager
def joined(
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Makes this process one of several within the block, where any argument says so.

    Comes before the first use of a device.

    Args:
      distributed: SLURM, Open MPI, Kubernetes or a TPU slice started the processes.
      coordinator: HOST:PORT of the first of processes that were started by hand.
      num_processes: how many, with ``coordinator``.
      process_id: which one, from 0, with ``coordinator``.

    Raises:
      InputError: arguments that do not go together, no cluster, or a coordinator out of reach.
    """
    by_hand = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    arguments = _arguments(distributed, by_hand)
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


def _arguments(distributed: bool, by_hand: dict[str, Any]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` takes; None for a single process."""
    given = [name for name, value in by_hand.items() if value is not None]
    if not given:
        return {} if distributed else None
    lacking = [name for name in by_hand if name not in given]
    if lacking:
        raise InputError(f"--{given[0]} needs --{' and --'.join(lacking)}")
    if distributed:
        raise InputError(
            "--distributed finds a cluster by itself; leave it or --coordinator, --num_processes "
            "and --process_id out"
        )
    host, _, port = by_hand["coordinator"].rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator={by_hand['coordinator']} is not HOST:PORT")
    number, count = by_hand["process_id"], by_hand["num_processes"]
    if number >= count:
        raise InputError(
            f"--process_id={number} is too high; {count} processes count from 0 to {count - 1}"
        )
    return {"coordinator_address": f"{host}:{port}", "num_processes": count, "process_id": number}


def is_first() -> bool:
    """Whether this process keeps the run's folder."""
    return jax.process_index() == 0


def any_process(request: bool) -> bool:
    """Whether any process requests something; all must come here."""
    if jax.process_count() == 1:
        return request
    _meet()
    return bool(np.any(multihost_utils.process_allgather(np.array(request))))


def stop_if_any(requested: bool) -> None:
    """Raises KeyboardInterrupt where any process was asked to stop; all must come here."""
    if any_process(requested):
        raise KeyboardInterrupt


def agree(step: int, *requests: bool) -> tuple[bool, ...]:
    """Which requests, such as to stop, any process has; all must ask with the same ``step``.

    A single process is answered at once, several at every eighth step.
    """
    if jax.process_count() == 1:
        return requests
    if step % _STEPS_BETWEEN_AGREEMENTS:
        return (False,) * len(requests)
    everyone = multihost_utils.process_allgather(np.array(requests))
    return tuple(bool(request) for request in everyone.any(0))


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
    result: Any = None
    if is_first():
        try:
            result = jax.device_get(find())
        except InputError as error:
            result = error
    _meet()
    content = np.frombuffer(pickle.dumps(result), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.array(content.size, np.int32))
    padded = np.zeros(int(size), np.uint8)
    padded[: content.size if is_first() else 0] = content if is_first() else ()
    result = pickle.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded)).tobytes())
    if isinstance(result, InputError):
        raise result
    return result


def _meet() -> None:
    """Waits for all processes on the host: devices that wait for one another soon give up."""
    wait = ocp.multihost.get_barrier_sync_fn()
    wait(key=f"avjax {next(_meetings)}", timeout_ms=_MEETING_HOURS * 3600 * 1000)
