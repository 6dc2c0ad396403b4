"""Choice of an operation's form by platform."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

from jax import lax

_FORM: contextvars.ContextVar[str | None] = contextvars.ContextVar("form", default=None)


def by_platform(*arguments: Any, cpu: Callable, other: Callable) -> Any:
    """Calls the form for the platform that the program is lowered for.

    Both forms compute the same, up to the order of sums.
    """
    form = _FORM.get()
    if form is not None:
        return {"cpu": cpu, "other": other}[form](*arguments)
    return lax.platform_dependent(*arguments, cpu=cpu, default=other)


@contextlib.contextmanager
def forms(name: str) -> Iterator[None]:
    """Context in which programs are traced with the forms of "cpu" or "other" only."""
    token = _FORM.set(name)
    try:
        yield
    finally:
        _FORM.reset(token)
