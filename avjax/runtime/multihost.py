"""Multi-process training: joining the processes, agreement, and broadcasts from the first one.

Only the first process reads and writes the run's folder; it broadcasts results to the others.
Functions marked as collective must be called by all processes in the same order. With a single
process they do almost nothing.
"""

import itertools
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from avjax.errors import InputError
from avjax.runtime.signals import deferred, exiting

T = TypeVar("T")

_STEPS_BETWEEN_AGREEMENTS = 8  # an agreement blocks the host until the devices are done
_PATIENCE_SECONDS = 5  # before a process tells that it waits for the others to join
_SHUTDOWN_SECONDS = 60  # that a finished process waits for the others
_BARRIER_SECONDS = 7200  # that processes wait for the slowest one, which may be saving
_STOP_SECONDS = 120  # that a stopped process waits for the others, which may be compiling
_STOPPED = "avjax/stopped"  # by process that was stopped, the barrier at which it waits

_barriers = itertools.count()


@contextmanager
def joined(
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> Iterator[None]:
    """Initialises JAX's distributed mode within the block, if any argument is given.

    Must be called before the first use of a device. A process that KeyboardInterrupt stops within
    the block stops the others where they next wait for all.

    Args:
      distributed: the processes were started by SLURM, Open MPI, Kubernetes or on a TPU slice.
      coordinator: HOST:PORT of the first process, for processes started manually.
      num_processes: number of processes, with ``coordinator``.
      process_id: index of this process, from 0, with ``coordinator``.

    Raises:
      InputError: the arguments are inconsistent, there is no cluster, or the coordinator cannot be
        reached.
    """
    manual = {
        "coordinator": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    arguments = _arguments(distributed, manual)
    if arguments is None:
        yield
        return
    try:
        _join(arguments)
        yield
    except KeyboardInterrupt:
        _stop_others()
        raise
    # Skipped if the block fails, since other processes may never get here.
    any_process(False)
    jax.distributed.shutdown()


def _join(arguments: dict[str, Any]) -> None:
    """Joins the other processes; raises InputError if they cannot be found or reached."""
    # For collectives between CPUs; accelerators have their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The service would handle SIGTERM, which asks a run to save and stop.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        _initialize(arguments)
    except ValueError as error:
        raise InputError(
            f"--distributed found no cluster ({error}); start the processes by SLURM, Open MPI, "
            "Kubernetes or on a TPU slice, or give --coordinator, --num_processes and --process_id"
        ) from error
    except RuntimeError as error:
        address = arguments.get("coordinator_address", "the cluster's first process")
        raise InputError(
            f"cannot join the other processes at {address} ({error}); start all of them, with the "
            "same --coordinator and --num_processes"
        ) from error


def _initialize(arguments: dict[str, Any]) -> None:
    """Initialises JAX's distributed mode; a signal meanwhile ends the process at once.

    JAX waits for the other processes where no signal is answered, so it does in a thread.
    """
    joined, errors = threading.Event(), []

    def work() -> None:
        try:
            jax.distributed.initialize(**arguments, shutdown_timeout_seconds=_SHUTDOWN_SECONDS)
        except Exception as error:
            errors.append(error)
        finally:
            joined.set()

    threading.Thread(target=work, name="join", daemon=True).start()
    with exiting():
        if not joined.wait(_PATIENCE_SECONDS):
            print("waiting for the other processes", file=sys.stderr)
            joined.wait()
    for error in errors:
        raise error


def _arguments(distributed: bool, manual: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the arguments of `jax.distributed.initialize`, or None for a single process."""
    given = [name for name, value in manual.items() if value is not None]
    if not given:
        return {} if distributed else None
    missing = [name for name in manual if name not in given]
    if missing:
        raise InputError(f"--{given[0]} needs --{' and --'.join(missing)}")
    if distributed:
        raise InputError(
            "--distributed finds a cluster by itself; leave it or --coordinator, --num_processes "
            "and --process_id out"
        )
    host, _, port = manual["coordinator"].rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f"--coordinator={manual['coordinator']} is not HOST:PORT")
    index, count = manual["process_id"], manual["num_processes"]
    if index >= count:
        raise InputError(
            f"--process_id={index} is too high; {count} processes count from 0 to {count - 1}"
        )
    return {"coordinator_address": f"{host}:{port}", "num_processes": count, "process_id": index}


def is_first() -> bool:
    """Whether this is the first process, which reads and writes the run's folder."""
    return jax.process_index() == 0


def any_process(request: bool) -> bool:
    """Whether ``request`` is true in any process. Collective."""
    if jax.process_count() == 1:
        return request
    with deferred():
        _barrier()
        return bool(np.any(multihost_utils.process_allgather(np.array(request))))


def stop_if_any(requested: bool) -> None:
    """Raises KeyboardInterrupt if any process was asked to stop. Collective."""
    if any_process(requested):
        raise KeyboardInterrupt


def agree(step: int, *requests: bool) -> tuple[bool, ...]:
    """Returns which requests, such as to stop, any process makes. Collective.

    All processes must pass the same ``step``. Several processes agree at every eighth step and get
    False at the others.
    """
    if jax.process_count() == 1:
        return requests
    if step % _STEPS_BETWEEN_AGREEMENTS:
        return (False,) * len(requests)
    gathered = multihost_utils.process_allgather(np.array(requests))
    return tuple(bool(request) for request in gathered.any(0))


@contextmanager
def all_or_none() -> Iterator[None]:
    """Raises an InputError in all processes if the block raises one in any. Collective."""
    failure = None
    try:
        yield
    except InputError as error:
        failure = error
    if any_process(failure is not None):
        raise failure or InputError("another process stopped; see its last line for the reason")


def from_first(find: Callable[[], T]) -> T:
    """Calls ``find`` in the first process and broadcasts its result, pickled. Collective.

    The processes trust each other, and nothing that a file holds as a pickle is sent on: only what
    the first process made of it. See SECURITY.md for the connections.

    Args:
      find: called without arguments; its result must be picklable.

    Raises:
      InputError: in all processes, if ``find`` raises one.
    """
    if jax.process_count() == 1:
        return find()
    result: Any = None
    if is_first():
        try:
            result = jax.device_get(find())
        except InputError as error:
            result = error
    data = np.frombuffer(pickle.dumps(result), np.uint8)
    with deferred():
        _barrier()
        size = multihost_utils.broadcast_one_to_all(np.array(data.size, np.int32))
        buffer = data if is_first() else np.zeros(int(size), np.uint8)
        pickled = multihost_utils.broadcast_one_to_all(buffer)
    result = pickle.loads(np.asarray(pickled).tobytes())
    if isinstance(result, InputError):
        raise result
    return result


def _barrier() -> None:
    """Waits for all processes on the host, since collectives on devices time out early.

    Raises:
      KeyboardInterrupt: a process was stopped, see `_stop_others`.
    """
    try:
        _wait(next(_barriers), _BARRIER_SECONDS)
    except RuntimeError:
        if not _stopped():
            raise
    if _stopped():
        raise KeyboardInterrupt


def _stop_others() -> None:
    """Tells the other processes that this one was stopped, and lets them pass the next barrier.

    Without that, they would wait for this one, and JAX would abort them a minute later. Processes
    that are stopped at the same time wait at the same barrier.
    """
    if jax.process_count() == 1:
        return
    number = next(_barriers)
    if any(other < number for other in _stopped()):  # all have passed that barrier, and know
        return
    with suppress(RuntimeError):  # the others have ended, or take too long
        _client().key_value_set(f"{_STOPPED}/{jax.process_index()}", str(number))
        _wait(number, _STOP_SECONDS)


def _stopped() -> list[int]:
    """Returns the barriers at which stopped processes wait."""
    return [int(number) for _, number in _client().key_value_dir_get(_STOPPED)]


def _wait(number: int, seconds: int) -> None:
    """Waits until all processes are at a barrier."""
    from orbax.checkpoint import multihost  # slow to import, and only several processes wait

    multihost.get_barrier_sync_fn()(key=f"avjax {number}", timeout_ms=1000 * seconds)


def _client() -> Any:
    """Returns the client of JAX's coordination service."""
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
