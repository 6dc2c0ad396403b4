"""A device's time in one training step, kernel by kernel."""

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Kernel(NamedTuple):
    """All runs of one instruction's kernels within a step.

    Attributes:
      name: the compiled program's instruction.
      seconds: in one step.
      share: of all kernels' time.
      source: the operation in the network that it came from, with its result's type.
    """

    name: str
    seconds: float
    share: float
    source: str


def kernels(
    run: Callable[[], Any], steps: int, program: str = ""
) -> tuple[list[Kernel], dict[str, Any]]:
    """Traces calls and returns all kernels, longest first.

    Args:
      run: a compiled call.
      steps: number of calls to trace.
      program: text of the compiled program, to name the kernels' sources.

    Returns:
      The kernels, and totals: seconds and number of all runs in a step, number of instructions.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                jax.block_until_ready(run())
        [path] = Path(folder).rglob("*.xplane.pb")
        seconds: Counter[str] = Counter()
        count = 0
        for name, duration in _events(jax.profiler.ProfileData.from_file(str(path))):
            seconds[name] += duration / steps
            count += 1
    total = sum(seconds.values())
    sources = instruction_sources(program)
    found = [
        Kernel(name, duration, duration / total, sources.get(name, ""))
        for name, duration in seconds.most_common()
    ]
    return found, {"seconds": total, "runs": count / steps, "instructions": len(seconds)}


def _events(profile: Any) -> Iterator[tuple[str, float]]:
    """Yields instruction and seconds of every kernel: of a GPU's streams, else of the threads."""
    planes = {plane.name: plane for plane in profile.planes}
    devices = [plane for name, plane in planes.items() if name.startswith("/device:GPU")]
    lines = [line for plane in devices for line in plane.lines if line.name.startswith("Stream")]
    for line in lines or [line for plane in planes.values() for line in plane.lines]:
        for event in line.events:
            name = dict(event.stats).get("hlo_op")
            if name or lines:
                yield str(name or event.name), event.duration_ns / 1e9


_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?([\w.-]+) = (\S+) .*?(?:op_name=\"([^\"]*)\"|$)", re.M)


def instruction_sources(program: str) -> dict[str, str]:
    """Returns the operation and result type of each instruction of a compiled program."""
    return {
        name: f"{_short(source)} -> {kind.split('{')[0]}"
        for name, kind, source in _INSTRUCTION.findall(program)
        if source
    }


def _short(source: str) -> str:
    """Drops the wrappers that JAX adds to a name, such as ``jit(f)`` and ``transpose(jvp(g))``."""
    backward = "transpose(" in source
    parts = [part for part in source.split("/") if not re.fullmatch(r"(jit|pjit)\(.*\)", part)]
    text = "/".join(parts[-5:])
    return f"backward of {text}" if backward else text
