"""A safe interpreter for pickles of plain data.

A pickle is a program for a stack machine, and Python's unpickler lets it import and call anything.
This one supports containers, scalars and the functions that the caller allows. All other globals,
and whatever the pickle makes of them, become inert `Foreign` objects. It trusts no length before it
has read the bytes, and what it builds is bounded by the caller.
"""

import pickletools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

MOST_KEY_LENGTH = 4096  # of a dictionary's keys: comparing them takes time
MOST_NAME_LENGTH = 256  # of a global's module and of its name
_OPCODE_COST = 96  # bytes; no opcode without a payload builds more
_CALL_COST = 512  # bytes, such as those of an array's view


class RefusedPickle(Exception):
    """The pickle is damaged or builds more than plain data needs."""


class Function(NamedTuple):
    """A function that pickles may call; no other value is ever called."""

    call: Callable[..., Any]


class Foreign:
    """Stands for a global that is not allowed, or for an object made from one.

    Attributes:
      name: the global's qualified name, such as "argparse.Namespace".
    """

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"


def interpret(
    stream: Any,
    names: Mapping[str, Any],
    load_reference: Callable[[Any], Any] | None = None,
    *,
    memory: int,
    foreign: dict[str, Foreign] | None = None,
) -> Any:
    """Interprets one pickle.

    Args:
      stream: has ``read(count)`` and ``readline()``; left at the end of the pickle.
      names: allowed globals by ``module.name``: `Function` or any other value.
      load_reference: resolves persistent ids; None makes them foreign.
      memory: bytes that the objects may take, roughly.
      foreign: receives the globals that are not allowed, by name.

    Returns:
      The pickled object. Objects may be shared and contain themselves: do not walk, compare or
      print it blindly. Ignores object state (BUILD) and all that is put into foreign objects.

    Raises:
      RefusedPickle: the pickle is damaged or builds too much.
    """
    machine = _Machine(names, load_reference, memory, {} if foreign is None else foreign)
    try:
        for opcode, argument in _opcodes(stream):
            machine.step(opcode, argument)
        return machine.result()
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, AttributeError) as error:
        raise RefusedPickle(f"its pickle is damaged ({str(error)[:100]})") from None


_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"}
_TEXTS = {"UNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINUNICODE"}
_BYTES = {
    *("BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    "BYTEARRAY8",
}
_LITERALS = _NUMBERS | _TEXTS | _BYTES
_LINES = {"GLOBAL": 2, "INST": 2, "PERSID": 1}  # arguments of lines of text
# Integers of more than 255 bytes, text of protocol 0, and data outside of the pickle.
_REFUSED = {"LONG4", "STRING", "NEXT_BUFFER", "READONLY_BUFFER"}


def _opcodes(stream: Any) -> Iterator[tuple[str, Any]]:
    """Yields the opcodes with their arguments."""
    name = ""
    while name != "STOP":
        opcode = _OPCODES.get(stream.read(1))
        if opcode is None:
            raise RefusedPickle("its pickle is truncated or damaged")
        name = opcode.name
        if name in _REFUSED:
            raise RefusedPickle(f"its pickle uses {name}, which plain data does not need")
        if name in _LINES:  # pickletools would interpret escapes, and warn
            yield name, [_read_line(stream) for _ in range(_LINES[name])]
        else:
            yield name, opcode.arg.reader(stream) if opcode.arg else None


def _read_line(stream: Any) -> str:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise RefusedPickle("its pickle is truncated or damaged")
    return line[:-1].decode()


class _Machine:
    """The stack, split into frames by MARK, and the memo."""

    def __init__(
        self,
        names: Mapping[str, Any],
        load_reference: Callable[[Any], Any] | None,
        memory: int,
        foreign: dict[str, Foreign],
    ):
        self._names = names
        self._load_reference = load_reference
        self._memory_left = memory
        self._foreign = foreign
        self._stack: list[Any] = []
        self._frames: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Executes one opcode."""
        self._spend(_OPCODE_COST)
        if opcode in _LITERALS:
            self._spend(sys.getsizeof(argument))
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
            case "DUP":
                self._stack.append(self._stack[-1])
            case _:
                self._fill(opcode, argument)

    def _fill(self, opcode: str, argument: Any) -> None:
        """Executes opcodes that create or fill a container."""
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
                if not isinstance(self._stack[-1], Foreign):
                    self._top(list).extend(values)
            case "SETITEM" | "SETITEMS":
                self._set_items(self._pop(2) if opcode == "SETITEM" else self._pop_frame())
            case "ADDITEMS":  # into a set, which is foreign: hashing its items could take forever
                self._pop_frame()
                self._top(Foreign)
            case _:
                self._create(opcode, argument)

    def _create(self, opcode: str, argument: Any) -> None:
        """Executes opcodes that Python's unpickler would import or call something for."""
        match opcode:
            case "GLOBAL":
                self._push_name(*argument)
            case "STACK_GLOBAL":
                self._push_name(*self._pop(2))
            case "REDUCE" | "NEWOBJ":
                self._stack.append(self._call(*self._pop(2)))
            case "NEWOBJ_EX":
                self._stack.append(self._call(*self._pop(3)[:2]))
            case "OBJ":
                function, *arguments = self._pop_frame()
                self._stack.append(self._call(function, tuple(arguments)))
            case "INST":
                arguments = self._pop_frame()
                self._push_name(*argument)
                self._stack.append(self._call(self._stack.pop(), tuple(arguments)))
            case "BUILD":
                self._pop(1)
                self._stack[-1]  # which must be there
            case "BINPERSID" if self._load_reference is not None:
                self._spend(_CALL_COST)
                self._stack.append(self._load_reference(self._stack.pop()))
            case "BINPERSID":
                self._stack[-1] = self._foreign_object("persistent id")
            case "PERSID":
                self._stack.append(self._foreign_object("persistent id"))
            case "EMPTY_SET":
                self._stack.append(Foreign("builtins.set"))
            case "FROZENSET":
                self._pop_frame()
                self._stack.append(Foreign("builtins.frozenset"))
            case "EXT1" | "EXT2" | "EXT4":
                self._stack.append(self._foreign_object("copyreg extension"))
            case _:
                raise RefusedPickle(f"its pickle uses {opcode}, which plain data does not need")

    def result(self) -> Any:
        """Returns the single value on the stack."""
        (value,) = self._stack
        return value

    def _spend(self, nbytes: int) -> None:
        self._memory_left -= nbytes
        if self._memory_left < 0:
            raise RefusedPickle("its pickle would fill the memory")

    def _call(self, function: Any, arguments: Any) -> Any:
        """Calls a `Function`; any other value gives a foreign object."""
        if not isinstance(arguments, tuple):
            raise TypeError("a call without arguments")
        if isinstance(function, Function):
            sizes = (sys.getsizeof(x) if isinstance(x, str) else _OPCODE_COST * len(x)
                     for x in arguments if isinstance(x, str | list | dict | tuple))  # fmt: skip
            self._spend(_CALL_COST + sum(sizes))
            return function.call(*arguments)
        if isinstance(function, Foreign):
            return function
        return self._foreign_object(f"a call of {type(function).__name__}")

    def _foreign_object(self, name: str) -> Foreign:
        return self._foreign.setdefault(name, Foreign(name))

    def _push_name(self, module: str, name: str) -> None:
        if max(len(module), len(name)) > MOST_NAME_LENGTH:
            raise RefusedPickle("its pickle asks for a name that is too long")
        # Protocol 2 has the names of Python 2.
        module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
        qualified = f"{module}.{name}"
        if not qualified.isprintable():
            raise RefusedPickle("its pickle asks for a name that cannot be printed")
        value = self._names.get(qualified)
        self._stack.append(self._foreign_object(qualified) if value is None else value)

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
        if isinstance(self._stack[-1], Foreign):
            return
        target = self._top(dict)
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[plain_key(key)] = value


def plain_key(key: Any) -> Any:
    """Returns a key that is a name or number, and a foreign object for any other.

    Hashing nested tuples could overflow the stack or take forever; comparing long texts or huge
    integers of equal hash takes long.
    """
    if isinstance(key, str | bytes):
        plain = len(key) <= MOST_KEY_LENGTH
    elif isinstance(key, int):
        plain = key.bit_length() <= 64
    else:
        plain = key is None or isinstance(key, float)
    return key if plain else Foreign(f"a key of type {type(key).__name__}")
