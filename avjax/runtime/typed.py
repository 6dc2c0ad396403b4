"""Checks that values read from JSON have the types that their class declares."""

import functools
import types
from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin, get_type_hints


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def check_fields(record: Any) -> None:
    """Checks the fields of a dataclass or NamedTuple against their annotations.

    Raises:
      TypeError: names a field whose value has another type.
    """
    for name, hint in _hints(type(record)).items():  # type: ignore[arg-type]
        value = getattr(record, name)
        if not fits(value, hint):
            expected = getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint)
            raise TypeError(f"{name} is {repr(value)[:60]}, not {expected}")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has a type, as JSON has it: an integer is a float too, a boolean neither.

    Args:
      value: anything.
      hint: a class, a NamedTuple, a union, or a list, tuple or mapping of these.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is not None and issubclass(origin, Mapping):
        keys, values = parts
        return isinstance(value, Mapping) and all(
            fits(key, keys) and fits(item, values) for key, item in value.items()
        )
    if origin is tuple and parts[-1] is not Ellipsis:
        return (
            isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
        )
    if origin in (list, tuple):  # of any length
        return isinstance(value, origin) and all(fits(item, parts[0]) for item in value)
    if hasattr(hint, "_fields") and isinstance(value, hint):
        return all(map(fits, value, _hints(hint).values()))
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
