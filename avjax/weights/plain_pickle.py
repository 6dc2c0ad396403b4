"""A safe interpreter for pickles of plain data.

A pickle is a program for a stack machine, and Python's unpickler lets it import and call anything.
This one supports containers, scalars and the functions that the caller allows. It refuses all other
globals and trusts no length before it has read the bytes.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class RefusedPickle(Exception):
    """The pickle is damaged or uses something that plain data does not need."""


class Function(NamedTuple):
    """A function that pickles may call; no other value is ever called."""

    call: Callable[..., Any]


def interpret(
    stream: Any,
    names: Mapping[str, Any],
    load_reference: Callable[[Any], Any] | None = None,
) -> Any:
    """Interprets one pickle.

    Args:
      stream: has ``read(count)`` and ``readline()``; left at the end of the pickle.
      names: allowed globals by ``module.name``: `Function` or any other value.
      load_reference: resolves persistent ids; None refuses them.

    Returns:
      The pickled object. Ignores object state (BUILD).

    Raises:
      RefusedPickle: the pickle is damaged or uses an unsupported feature.
    """
    machine = _Machine(names, load_reference)
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            machine.step(opcode.name, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise RefusedPickle(f"its pickle is damaged ({error})") from None


_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"}
_BYTES = {"STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"}
_LITERALS = _NUMBERS | _TEXTS | _BYTES


class _Machine:
    """The stack, split into frames by MARK, and the memo."""

    def __init__(self, names: Mapping[str, Any], load_reference: Callable[[Any], Any] | None):
        self._names = names
        self._load_reference = load_reference
        self._stack: list[Any] = []
        self._frames: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode, as decoded by `pickletools`."""
        if opcode in _LITERALS:
            self._stack.append(argument)
            return
        match opcode:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "NONE":
                self._stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self._stack.append(opcode == "NEWTRUE")
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = self._stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = self._stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                self._stack.append(self._memo[argument])
            case "MARK":
                self._frames.append(self._stack)
                self._stack = []
            case "POP":
                self._stack.pop()
            case "POP_MARK":
                self._pop_frame()
            case _:
                self._build(opcode, argument)

    def _build(self, opcode: str, argument: Any) -> None:
        """Executes opcodes that create or fill an object."""
        match opcode:
            case "EMPTY_LIST" | "EMPTY_DICT":
                self._stack.append([] if opcode == "EMPTY_LIST" else {})
            case "EMPTY_TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                self._stack.append(tuple(self._pop(("E", "1", "2", "3").index(opcode[-1]))))
            case "TUPLE" | "LIST":
                values = self._pop_frame()
                self._stack.append(tuple(values) if opcode == "TUPLE" else values)
            case "DICT":
                pairs = self._pop_frame()
                self._stack.append({})
                self._set_items(pairs)
            case "APPEND" | "APPENDS":
                values = self._pop(1) if opcode == "APPEND" else self._pop_frame()
                self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                self._set_items(self._pop(2) if opcode == "SETITEM" else self._pop_frame())
            case "GLOBAL":
                self._push_name(argument.replace(" ", ".", 1))
            case "STACK_GLOBAL":
                self._push_name(".".join(self._pop(2)))
            case "REDUCE":
                function, arguments = self._pop(2)
                if not isinstance(function, Function) or not isinstance(arguments, tuple):
                    raise RefusedPickle("its pickle calls something that is not a function")
                self._stack.append(function.call(*arguments))
            case "BUILD":
                self._pop(1)
            case "BINPERSID" if self._load_reference is not None:
                self._stack.append(self._load_reference(self._stack.pop()))
            case _:
                raise RefusedPickle(f"its pickle uses {opcode}, which plain data does not need")

    def result(self) -> Any:
        """Returns the single value on the stack."""
        (value,) = self._stack
        return value

    def _push_name(self, name: str) -> None:
        if name not in self._names:
            raise RefusedPickle(f"its pickle asks for {name}, which plain data does not need")
        self._stack.append(self._names[name])

    def _pop(self, count: int) -> list[Any]:
        split = len(self._stack) - count
        if split < 0:
            raise IndexError("stack underflow")
        values = self._stack[split:]
        del self._stack[split:]
        return values

    def _pop_frame(self) -> list[Any]:
        values, self._stack = self._stack, self._frames.pop()
        return values

    def _top(self, kind: type) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise TypeError(f"the object to fill is not a {kind.__name__}")
        return self._stack[-1]

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[check_key(key)] = value


def check_key(key: Any) -> Any:
    """Returns a key that is a name or number; hashing nested tuples could overflow the stack."""
    if not isinstance(key, str | int | float | bytes | None):
        raise RefusedPickle("a dictionary key is neither name nor number")
    return key
