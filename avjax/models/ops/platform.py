"""Which form of an operation a program takes."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_FORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("form", default=None)


def by_platform(*arguments: Any, cpu: Callable, other: Callable) -> Any:
    """Calls the form that suits the platform for which a program is lowered.

    Both compute the same, up to the order of sums.
    """
    form = _FORM.get()
    if form is not None:
        return {"cpu": cpu, "other": other}[form](*arguments)
    return lax.platform_dependent(*arguments, cpu=cpu, default=other)


@contextlib.contextmanager
def forms(name: str) -> Iterator[None]:
    """Within the block programs are traced with the forms of "cpu" or "other" alone."""
    token = _FORM.set(name)
    try:
        yield
    finally:
        _FORM.reset(token)
