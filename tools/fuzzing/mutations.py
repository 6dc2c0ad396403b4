"""Damaged and senseless contents, made from valid ones.

Half of the changes know the format, as far as its beginning tells it, and renew its checksums and
digests, so that the readers behind them see the change.
"""

import io
import json
import struct
import zipfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from avjax.runtime.sealed import seal

Rng = np.random.Generator

_LONGEST = 64  # bytes that one change concerns, apart from cuts and splices
_NUMBERS = (0, 1, -1, 127, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, -(2**31), 2**40, 2**62)
_VALUES = (None, True, 0, -1, 7, 2**31, 2**70, 0.5, 1e308, "", "x", "x" * 300, "nan", "../x", "1")
_CELLS = ("", "nan", "-1", "1e999", "inf", '"', "a\rb", "é", "0,0", "1;2", "../../x", "x" * 5000)
_NAMES = ("", "/", "../x.mp4", "/tmp/x.mp4", "C:\\x", "a/b/c", "x" * 300, "\x00", "é")


def mutate(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """Changes a file's content, in one to three places.

    Args:
      content: a valid file.
      others: contents of other files, to splice in.
      rng: decides everything.
    """
    change = _by_format(content) if rng.random() < 0.5 else None
    if change is not None:
        return change(rng)
    for _ in range(rng.integers(1, 4)):
        content = _bytes(content, others, rng)
    return content


def _bytes(content: bytes, others: Sequence[bytes], rng: Rng) -> bytes:
    """One change that knows no format."""
    start = int(rng.integers(len(content) + 1))
    stop = start + int(rng.integers(1, _LONGEST))
    head, part, tail = content[:start], content[start:stop], content[stop:]
    match rng.integers(9):
        case 0 if part:
            return head + bytes([part[0] ^ 1 << int(rng.integers(8))]) + part[1:] + tail
        case 1:
            return head + rng.bytes(len(part)) + tail
        case 2:
            return head + bytes([int(rng.choice((0, 255)))]) * len(part) + tail
        case 3:
            return head + _number(rng) + content[start + 8 :]
        case 4:
            return head + part * int(rng.integers(2, 50)) + tail
        case 5:
            return head + tail
        case 6:
            return head + rng.bytes(stop - start) + part + tail
        case 7:
            other = others[int(rng.integers(len(others)))]
            return head + other[int(rng.integers(len(other) + 1)) :]
    return head


def _number(rng: Rng) -> bytes:
    """A number at the edge of what a field holds, in eight bytes."""
    value = int(rng.choice(np.array(_NUMBERS)))
    order, size = str(rng.choice(("<", ">"))), int(rng.choice((2, 4, 8)))
    kind = {2: "H", 4: "I", 8: "Q"}[size]
    return (struct.pack(order + kind, value % (1 << 8 * size)) * 4)[:8]


# --------------------------------------------------------------------------------------- formats


def _by_format(content: bytes) -> Callable[[Rng], bytes] | None:
    """Returns a change that keeps the format and its checksums; None for other formats."""
    if content.startswith(b"PK"):
        return lambda rng: _archive(content, rng)
    if content[8:9] == b"{" and content[:1] != b"{":
        return lambda rng: _safetensors(content, rng)
    lines = content.splitlines()
    if content.startswith(b"{"):
        is_one = len(lines) == 1 or not lines[0].endswith(b"}")
        return (lambda rng: _json(content, rng)) if is_one else (lambda rng: _lines(lines, rng))
    if b"label" in content[:100]:
        return lambda rng: _table(content.decode(errors="replace"), rng)
    return None


def _json(content: bytes, rng: Rng) -> bytes:
    """Changes values of a JSON object, and its digest with them."""
    tree = json.loads(content)
    sealed = isinstance(tree, dict) and "digest" in tree
    for _ in range(rng.integers(1, 3)):
        tree = _changed(tree, rng)
    if sealed and isinstance(tree, dict):
        tree.pop("digest", None)
        tree = seal(tree) if rng.random() < 0.9 else tree
    return json.dumps(tree).encode()


def _changed(node: Any, rng: Rng) -> Any:
    """Replaces, removes or repeats one value somewhere in a tree."""
    if isinstance(node, (dict, list)) and node and rng.random() < 0.85:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        key = keys[int(rng.integers(len(keys)))]
        copy: Any = node.copy()
        chance = rng.random()
        if chance < 0.1:
            del copy[key]
        elif chance < 0.2 and isinstance(copy, dict):
            copy[_value(rng)] = copy[key]
        elif chance < 0.2:
            copy.append(copy[key])
        else:
            copy[key] = _changed(node[key], rng)
        return {str(k): v for k, v in copy.items()} if isinstance(copy, dict) else copy
    if isinstance(node, str) and "{" in node and rng.random() < 0.8:  # JSON within JSON
        try:
            return _json(node.encode(), rng).decode()
        except ValueError:
            return ""
    value = _value(rng)
    return [value] if rng.random() < 0.1 else {"x": value} if rng.random() < 0.1 else value


def _value(rng: Rng) -> Any:
    return _VALUES[int(rng.integers(len(_VALUES)))]


def _lines(lines: list[bytes], rng: Rng) -> bytes:
    """Changes one line of JSON, or repeats or moves one."""
    place, other = (int(rng.integers(len(lines))) for _ in range(2))
    line = _json(lines[place], rng) if rng.random() < 0.8 else lines[other]
    return b"\n".join([*lines[:place], line, *lines[place + 1 :]]) + b"\n"


def _safetensors(content: bytes, rng: Rng) -> bytes:
    """Changes the header: tensors, or the card of a model."""
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    metadata = header.get("__metadata__", {})
    if "card" in metadata and rng.random() < 0.7:
        metadata["card"] = _json(metadata["card"].encode(), rng).decode()
    else:
        header = _changed(header, rng)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[end:]


def _table(text: str, rng: Rng) -> bytes:
    """Changes cells of a table."""
    delimiter = next(mark for mark in ";\t," if mark in text)
    rows = [line.split(delimiter) for line in text.splitlines()]
    for _ in range(rng.integers(1, 4)):
        row = rows[int(rng.integers(len(rows)))]
        row[int(rng.integers(len(row)))] = str(rng.choice(np.array(_CELLS)))
    text = "\n".join(delimiter.join(row) for row in rows)
    encoding = str(rng.choice(("utf-8", "utf-8-sig", "utf-16", "cp1252")))
    return text.encode(encoding, "replace")


def _archive(content: bytes, rng: Rng) -> bytes:
    """Changes a member, its name or its compression, with a valid checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = int(rng.integers(len(members)))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (former, data) in enumerate(members):
            name, method, mode = former.filename, former.compress_type, former.external_attr
            if number == chosen:
                match rng.integers(6):
                    case 0:
                        name = str(rng.choice(np.array(_NAMES)))
                    case 1:
                        method = int(rng.choice((8, 12, 14)))
                    case 2:
                        mode = 0o120777 << 16  # a link
                    case 3:
                        data = bytes(int(rng.choice((1 << 12, 1 << 22))))
                        method = zipfile.ZIP_DEFLATED
                    case _:
                        data = _member(data, rng)
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode
            archive.writestr(info, data)
    return buffer.getvalue()


def _member(data: bytes, rng: Rng) -> bytes:
    change = _by_format(data) if rng.random() < 0.3 else None
    return _bytes(data, [data], rng) if change is None else change(rng)
