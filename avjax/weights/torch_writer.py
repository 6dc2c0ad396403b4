"""Writes a PyTorch state_dict without PyTorch: the zip format of ``torch.save``.

``torch.load(path, weights_only=True)`` reads it, and so does `avjax.weights.torch_file`.
"""

import math
import pickle
import struct
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

_KINDS = {"float32": "Float", "float64": "Double", "float16": "Half", "int64": "Long"}
_EMPTY_DICT = b"ccollections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE


def write_state_dict(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as tensors on the CPU, by name.

    Args:
      file: a binary file, open for writing.
      arrays: float32, float64, float16 or int64 arrays of any shape.

    Raises:
      ValueError: an array of another type.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", _pickled(arrays))
        archive.writestr("archive/byteorder", "little")
        for number, array in enumerate(arrays.values()):
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            archive.writestr(f"archive/data/{number}", little.tobytes())
        archive.writestr("archive/version", "3\n")


def _pickled(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pickles an OrderedDict of tensors that refer to the archive's members ``data/<number>``.

    By hand: the pickle module names only globals that it can import.
    """
    parts = [pickle.PROTO, b"\x02", _EMPTY_DICT, pickle.MARK]
    for number, (name, array) in enumerate(arrays.items()):
        if array.dtype.name not in _KINDS:
            raise ValueError(f"{name} is {array.dtype}; give one of {', '.join(_KINDS)}")
        storage = (
            _text("storage"),
            f"ctorch\n{_KINDS[array.dtype.name]}Storage\n".encode(),
            _text(str(number)),
            _text("cpu"),
            _integer(array.size),
        )
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        tensor = (
            _tuple(*storage) + pickle.BINPERSID,
            _integer(0),  # the first value's place in the storage
            _tuple(*map(_integer, array.shape)),
            _tuple(*map(_integer, strides)),
            pickle.NEWFALSE,  # requires_grad
            _EMPTY_DICT,  # hooks
        )
        rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n"
        parts += [_text(name), rebuild, _tuple(*tensor), pickle.REDUCE]
    return b"".join([*parts, pickle.SETITEMS, pickle.STOP])


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def _text(text: str) -> bytes:
    encoded = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded


def _integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)
