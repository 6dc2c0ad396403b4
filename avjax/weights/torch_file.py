"""Loads ``torch.save`` files as NumPy arrays, without torch and without executing code.

A checkpoint is a pickle that refers to flat arrays (storages). `avjax.weights.plain_pickle`
interprets the pickle and allows only the globals that a state_dict needs. Supports the zip format
(PyTorch 1.6 and later) and the legacy format (five pickles followed by the storages); see PyTorch's
``torch/serialization.py``.
"""

import io
import os
import struct
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from avjax.errors import InputError
from avjax.weights.plain_pickle import Function, RefusedPickle, check_key, interpret

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
CHUNK = 1 << 20  # elements
# Raised by zipfile for archives with wrong offsets, flags, names or sizes.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    NotImplementedError,
    RuntimeError,
    EOFError,
    ValueError,
    OSError,
    struct.error,
)


def load_torch_file(path: str | os.PathLike[str]) -> Any:
    """Reads a checkpoint written by ``torch.save``.

    Args:
      path: a file in either format; the device of its tensors is ignored.

    Returns:
      The saved object: dicts (also for OrderedDicts), lists, tuples and scalars, with read-only
      arrays for tensors and parameters. bfloat16 becomes float32. Tensors with a common storage
      share memory. The arrays need about as much memory as the file.

    Raises:
      InputError: the file is missing, truncated or not a checkpoint, or its pickle uses a global
        that a state_dict does not need.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            magic = file.read(len(ZIP_MAGIC))
            file.seek(0)
            return _read_zip(file, size) if magic == ZIP_MAGIC else _read_legacy(file, size)
    except RefusedPickle as error:
        raise InputError(
            f"{path}: {error}; pass a file whose state_dict was saved by torch.save"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; pass a file saved by torch.save") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; pass a file saved by torch.save") from None


# -------------------------------------------------------------------------------------- containers


def _read_zip(file: BinaryIO, size: int) -> Any:
    try:
        with zipfile.ZipFile(file) as archive:
            records = {name.partition("/")[2]: name for name in archive.namelist()}
            if "data.pkl" not in records:
                raise RefusedPickle("it is a zip archive without the record data.pkl")
            if "byteorder" in records:
                with _open_record(archive, records, "byteorder") as record:
                    _check_byte_order(record.read() == b"little")
            storages = _Storages(size)
            with _open_record(archive, records, "data.pkl") as record:
                tree = interpret(io.BytesIO(record.read()), _GLOBALS, storages.load)
            for key, storage in storages.items():
                with _open_record(archive, records, f"data/{key}") as record:
                    storage.fill(record)
            return tree
    except _ZIP_ERRORS as error:
        raise RefusedPickle(f"it is truncated or damaged ({error})") from None


def _check_byte_order(little: bool) -> None:
    if not little:
        raise RefusedPickle("it was saved on a big-endian machine")


def _open_record(archive: zipfile.ZipFile, records: Mapping[str, str], name: str) -> Any:
    if name not in records:
        raise RefusedPickle(f"its record {name} is missing")
    if archive.getinfo(records[name]).compress_type != zipfile.ZIP_STORED:
        raise RefusedPickle(f"its record {name} is compressed, which torch.save never does")
    return archive.open(records[name])


def _read_legacy(file: BinaryIO, size: int) -> Any:
    """Reads five pickles (magic, protocol, machine, object, storage keys), then the storages."""
    stream = _BoundedReader(file, size)
    storages = _Storages(size)
    if interpret(stream, {}) != LEGACY_MAGIC:
        raise RefusedPickle("it was not saved by torch.save")
    if (protocol := interpret(stream, {})) != LEGACY_PROTOCOL:
        raise RefusedPickle(f"its protocol {protocol!r} is unknown")
    machine = interpret(stream, {})
    _check_byte_order(isinstance(machine, dict) and machine.get("little_endian") is True)
    tree = interpret(stream, _GLOBALS, storages.load)
    keys = interpret(stream, {})
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise RefusedPickle("its storages differ from those its tensors refer to")
    for key in keys:
        storage = storages[str(key)]
        header = stream.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.array.size:
            raise RefusedPickle("it is truncated or damaged (length of a storage)")
        storage.fill(stream)
    return tree


class _BoundedReader:
    """A file that never reads past its end, so that a forged length cannot allocate memory."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline()


# ---------------------------------------------------------------------------------------- storages


class _StorageType(NamedTuple):
    """The dtypes in the file and in memory, and their conversion (None if they are equal)."""

    stored: str
    loaded: str
    convert: Callable[[np.ndarray], np.ndarray] | None = None


def _widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


_STORAGE_TYPES = {
    "torch.FloatStorage": _StorageType("<f4", "f4"),
    "torch.DoubleStorage": _StorageType("<f8", "f8"),
    "torch.HalfStorage": _StorageType("<f2", "f2"),
    "torch.BFloat16Storage": _StorageType("<u2", "f4", _widen_bfloat16),
    "torch.LongStorage": _StorageType("<i8", "i8"),
    "torch.IntStorage": _StorageType("<i4", "i4"),
    "torch.ShortStorage": _StorageType("<i2", "i2"),
    "torch.CharStorage": _StorageType("i1", "i1"),
    "torch.ByteStorage": _StorageType("u1", "u1"),
    "torch.BoolStorage": _StorageType("u1", "?", lambda byte: byte != 0),
}


class _Storage:
    """A flat array: allocated when the pickle refers to it, filled afterwards."""

    def __init__(self, kind: _StorageType, size: int):
        self.kind = kind
        self.array = np.empty(size, kind.loaded)

    def fill(self, stream: Any) -> None:
        """Reads the elements from the stream's position in chunks."""
        dtype = np.dtype(self.kind.stored)
        for start in range(0, self.array.size, CHUNK):
            chunk = self.array[start : start + CHUNK]
            data = stream.read(chunk.size * dtype.itemsize)
            if len(data) != chunk.size * dtype.itemsize:
                raise RefusedPickle("it is truncated (a storage ends early)")
            values = np.frombuffer(data, dtype)
            chunk[:] = self.kind.convert(values) if self.kind.convert else values

    def view(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """Returns a tensor's view; offset and strides are in elements."""
        integers = (offset, *shape, *strides)
        if not all(type(n) is int and n >= 0 for n in integers) or len(shape) != len(strides):
            raise RefusedPickle("a tensor has an impossible shape")
        extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if 0 not in shape and offset + extent >= self.array.size:
            raise RefusedPickle("a tensor reaches beyond its storage")
        byte_strides = [stride * self.array.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(
            self.array[offset:], shape, byte_strides, writeable=False
        )


class _Storages(dict[str, _Storage]):
    """Storages by key; their total size may not exceed the file's."""

    def __init__(self, file_size: int):
        super().__init__()
        self._bytes_left = file_size

    def load(self, reference: Any) -> _Storage:
        """Returns the storage of an id ``("storage", type, key, location, size[, view])``."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise RefusedPickle("a persistent id is not a storage")
        kind, key, size = reference[1], str(reference[2]), reference[4]
        if not isinstance(kind, _StorageType) or type(size) is not int or size < 0:
            raise RefusedPickle("a storage has an invalid type or size")
        if len(reference) > 5 and reference[5] is not None:
            raise RefusedPickle("it uses storage views, which PyTorch dropped in 2017")
        if key not in self:
            self._bytes_left -= size * np.dtype(kind.stored).itemsize
            if self._bytes_left < 0:
                raise RefusedPickle("it is truncated or damaged (storages larger than the file)")
            self[key] = _Storage(kind, size)
        if (self[key].kind, self[key].array.size) != (kind, size):
            raise RefusedPickle(f"storage {key} has two types or sizes")
        return self[key]


# --------------------------------------------------------------------------------- allowed globals


def _ordered_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        result[check_key(key)] = value
    return result


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any) -> np.ndarray:
    if not (isinstance(storage, _Storage) and isinstance(shape, tuple)):
        raise RefusedPickle("a tensor is not made from a storage and a shape")
    return storage.view(offset, shape, tuple(strides))


def _parameter(data: Any, *_unused: Any) -> Any:
    return data


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    return tuple(numbers)


def _numpy_dtype(code: Any, *_unused: Any) -> np.dtype:
    if code not in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
        raise RefusedPickle(f"a number has the type {code!r}")
    return np.dtype(code)


def _numpy_scalar(dtype: Any, data: Any) -> Any:
    """Rebuilds a NumPy scalar, such as a learning rate."""
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise RefusedPickle("a number is not made from a type and bytes")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Rebuilds bytes, which Python 3 encodes as latin1 text in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedPickle("it encodes something other than bytes")
    return text.encode("latin1")


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.Size": _size,
    "numpy.dtype": _numpy_dtype,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": _encode,
}
_DTYPES = {
    f"torch.{name}": np.dtype(name)
    for name in (
        "float32",
        "float64",
        "float16",
        "int64",
        "int32",
        "int16",
        "int8",
        "uint8",
        "bool",
    )
}
_GLOBALS: dict[str, Any] = {
    **{name: Function(function) for name, function in _FUNCTIONS.items()},
    **_STORAGE_TYPES,
    **_DTYPES,
}
