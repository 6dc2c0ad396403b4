"""Reads and writes safetensors files as NumPy arrays.

A file is the header's length (8 bytes), a header in JSON (each tensor's dtype, shape and range of
bytes), and the tensors' bytes.
"""

import json
import math
import struct
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np

from avjax.weights.plain_pickle import Foreign, RefusedPickle

_DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "BOOL": "u1"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"},
}

_KINDS = {
    np.dtype(code).str: kind for kind, code in _DTYPES.items() if kind not in ("BF16", "BOOL")
}


def looks_like_safetensors(head: bytes, size: int) -> bool:
    """Whether a file of ``size`` bytes that starts with ``head`` can be a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= size - 8


def read_safetensors(file: BinaryIO, size: int) -> dict[str, np.ndarray | Foreign]:
    """Reads all tensors; see `read_with_metadata`."""
    return read_with_metadata(file, size)[0]


def read_with_metadata(
    file: BinaryIO, size: int
) -> tuple[dict[str, np.ndarray | Foreign], dict[str, Any]]:
    """Reads all tensors and the header's metadata.

    bfloat16 becomes float32, and types that NumPy lacks become foreign.

    Args:
      file: at its start.
      size: bytes of the file.

    Raises:
      RefusedPickle: the file is truncated or damaged.
    """
    (length,) = struct.unpack("<Q", file.read(8))
    if length > (1 << 20) + size // 16:
        raise RefusedPickle("it is damaged (its header is too large)")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", None) or {}
        if sum(_range(entry)[1] - _range(entry)[0] for entry in header.values()) > size:
            raise RefusedPickle("it is damaged (tensors larger than the file)")
        tensors = {name: _tensor(file, 8 + length, entry) for name, entry in header.items()}
        return tensors, metadata
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise RefusedPickle(f"it is truncated or damaged ({str(error)[:100]})") from None


def write_safetensors(
    file: BinaryIO, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes tensors and metadata.

    Args:
      file: empty.
      tensors: arrays of a type that the format has; bfloat16 is not supported.
      metadata: texts by name, for the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, array in tensors.items():
        start, end = end, end + array.nbytes
        kind = _KINDS[array.dtype.newbyteorder("<").str]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(header, allow_nan=False).encode()
    text += b" " * (-len(text) % 8)  # aligns the tensors
    file.write(struct.pack("<Q", len(text)) + text)
    for array in tensors.values():
        file.write(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())


def _range(entry: Any) -> tuple[int, int]:
    start, end = entry["data_offsets"]
    if not (type(start) is type(end) is int and 0 <= start <= end):
        raise RefusedPickle("it is damaged (a tensor has an impossible place)")
    return start, end


def _tensor(file: BinaryIO, data_start: int, entry: Any) -> np.ndarray | Foreign:
    kind, shape, (start, end) = entry["dtype"], entry["shape"], _range(entry)
    if kind not in _DTYPES:
        return Foreign(f"safetensors {str(kind)[:20]}")
    dtype = np.dtype(_DTYPES[kind])
    if not all(type(n) is int and n >= 0 for n in shape):
        raise RefusedPickle("a tensor has an impossible shape")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise RefusedPickle("it is damaged (a tensor's shape and bytes differ)")
    file.seek(data_start + start)
    array = np.frombuffer(file.read(end - start), dtype).reshape(shape)
    if kind == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array != 0 if kind == "BOOL" else array
