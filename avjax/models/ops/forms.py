"""Which form of each operation a kind of device computes.

The forms of an operation compute the same, up to the order of sums. `FORMS` holds the choice for
each kind of device, from the runs that docs/performance.md (CPU) and docs/gpu.md (GPU) describe.
TPUs, which were not measured, take the forms of GPUs.

A form is chosen while a program is traced. A program for another device than JAX's default one has
to be traced within `forms`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

# Every operation's forms; the docstring of the module that calls `choose` describes them.
ALTERNATIVES: dict[str, tuple[str, ...]] = {
    "conv2d": ("by_image", "patches", "nhwc", "nchw"),
    "depthwise": ("padded", "fused", "nhwc", "nchw"),
    "depthwise_input": ("padded", "fused", "nhwc", "nchw"),
    "depthwise_kernel": ("by_image", "reductions", "one_pass", "nhwc", "nchw"),
    "kernel_gradient": ("upcast", "accumulate"),
    "max_pool": ("by_image", "padded", "fused"),
    "statistics": ("two_passes", "one_pass"),
    "sums": ("grouped", "at_once"),
    "inference": ("few_images", "at_once"),
    "stem": ("by_image", "at_once"),
}

FORMS: dict[str, dict[str, str]] = {
    "cpu": {
        "conv2d": "by_image",
        "depthwise": "padded",
        "depthwise_input": "padded",
        "depthwise_kernel": "by_image",
        "kernel_gradient": "upcast",
        "max_pool": "by_image",
        "statistics": "two_passes",
        "sums": "grouped",
        "inference": "few_images",
        "stem": "by_image",
    },
    "gpu": {
        "conv2d": "patches",
        "depthwise": "fused",
        "depthwise_input": "fused",
        "depthwise_kernel": "reductions",
        "kernel_gradient": "accumulate",
        "max_pool": "fused",
        "statistics": "one_pass",
        "sums": "at_once",
        "inference": "at_once",
        "stem": "at_once",
    },
}

_Selection = tuple[tuple[str, str], ...]
_SELECTED: contextvars.ContextVar[_Selection | None] = contextvars.ContextVar("form", default=None)


def choose(operation: str, **alternatives: Callable) -> Callable:
    """Returns the form of an operation for the device that JAX computes on by default.

    Args:
      operation: one of `ALTERNATIVES`.
      alternatives: the operation's forms.
    """
    return alternatives[dict(_selected())[operation]]


def _selected() -> _Selection:
    selected = _SELECTED.get()
    if selected is not None:
        return selected
    device: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    platform = getattr(device, "platform", device) or jax.default_backend()
    return _SELECTIONS["cpu" if platform == "cpu" else "gpu"]


_SELECTIONS = {kind: tuple(sorted(chosen.items())) for kind, chosen in FORMS.items()}


@contextlib.contextmanager
def forms(kind: str, **others: str) -> Iterator[None]:
    """Context in which programs are traced with the forms of one kind of device.

    For programs that run on another device than the default one, such as exported ones.

    Args:
      kind: "cpu" or "gpu".
      others: forms of single operations instead.

    Raises:
      ValueError: an unknown form.
    """
    for operation, form in others.items():
        if form not in ALTERNATIVES.get(operation, ()):
            raise ValueError(f"{operation} has no form {form}")
    token = _SELECTED.set(tuple(sorted({**FORMS[kind], **others}.items())))
    try:
        yield
    finally:
        _SELECTED.reset(token)


def jit(static_argnums: Sequence[int] = ()) -> Callable[[Callable], Callable]:
    """`jax.jit` for functions that `choose`: they are traced anew for other forms."""

    def decorate(function: Callable) -> Callable:
        def keyed(selected: _Selection, *arguments: Any) -> Any:
            del selected
            return function(*arguments)

        keyed.__name__ = function.__name__  # in profiles
        compiled = jax.jit(keyed, static_argnums=(0, *(n + 1 for n in static_argnums)))

        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            return compiled(_selected(), *arguments)

        return call

    return decorate
