"""Where an operation's form is chosen by the platform that it is compiled for."""

from collections.abc import Callable
from typing import Any

from jax import lax


def by_platform(*arguments: Any, cpu: Callable, other: Callable) -> Any:
    """Calls ``cpu`` on a CPU and ``other`` on GPUs and TPUs; both compute the same.

    The choice is made when a program is lowered for a platform, which may be another one than that
    of the machine at hand.
    """
    return lax.platform_dependent(*arguments, cpu=cpu, default=other)
