"""Reads the files of ``torch.save`` into NumPy arrays, without torch and without running anything.

A checkpoint is a pickle that refers to blocks of numbers (storages). The pickle is interpreted by
`avjax.weights.plain_pickle`, which admits the few names that a state_dict is made of and refuses
all others. Formats: zip (PyTorch 1.6 and later), and before it five pickles followed by the
storages; both as in PyTorch's ``torch/serialization.py``.
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
# What zipfile raises for archives whose directory lies (offsets, flags, names, sizes).
_DAMAGE = (
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
      path: a file in either format; where its tensors lived (CPU or GPU) is ignored.

    Returns:
      The saved object: dicts (an OrderedDict becomes a dict), lists, tuples and scalars, with a
      read-only array for each tensor or parameter. bfloat16 becomes float32. Tensors that shared a
      storage share memory. The arrays take about as much memory as the file.

    Raises:
      InputError: the file is absent, truncated or no checkpoint, or its pickle names something
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
                tree = interpret(io.BytesIO(record.read()), _NAMES, storages.load)
            for key, storage in storages.items():
                with _open_record(archive, records, f"data/{key}") as record:
                    storage.fill(record)
            return tree
    except _DAMAGE as error:
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
    """Five pickles (magic, protocol, machine, object, storage keys), then each storage's bytes."""
    stream = _BoundedReader(file, size)
    storages = _Storages(size)
    if interpret(stream, {}) != LEGACY_MAGIC:
        raise RefusedPickle("it was not saved by torch.save")
    if (protocol := interpret(stream, {})) != LEGACY_PROTOCOL:
        raise RefusedPickle(f"its protocol {protocol!r} is unknown")
    machine = interpret(stream, {})
    _check_byte_order(isinstance(machine, dict) and machine.get("little_endian") is True)
    tree = interpret(stream, _NAMES, storages.load)
    keys = interpret(stream, {})
    if not isinstance(keys, list) or set(map(str, keys)) != set(storages):
        raise RefusedPickle("its storages are not the ones its tensors name")
    for key in keys:
        storage = storages[str(key)]
        header = stream.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.array.size:
            raise RefusedPickle("it is truncated or damaged (length of a storage)")
        storage.fill(stream)
    return tree


class _BoundedReader:
    """A file that never tries to read past its end: a forged length must not allocate memory."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline()


# ---------------------------------------------------------------------------------------- storages


class _StorageType(NamedTuple):
    """Element type in the file, in memory, and the step between them (None where equal)."""

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
    """One flat block of numbers: allocated when the pickle names it, filled afterwards."""

    def __init__(self, kind: _StorageType, count: int):
        self.kind = kind
        self.array = np.empty(count, kind.loaded)

    def fill(self, stream: Any) -> None:
        """Reads the block's elements from the stream's position, piece by piece."""
        stored = np.dtype(self.kind.stored)
        for start in range(0, self.array.size, CHUNK):
            part = self.array[start : start + CHUNK]
            data = stream.read(part.size * stored.itemsize)
            if len(data) != part.size * stored.itemsize:
                raise RefusedPickle("it is truncated (a storage ends early)")
            values = np.frombuffer(data, stored)
            part[:] = self.kind.convert(values) if self.kind.convert else values

    def view(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """A tensor's window on the block; offset and strides count elements."""
        numbers = (offset, *shape, *strides)
        if not all(type(n) is int and n >= 0 for n in numbers) or len(shape) != len(strides):
            raise RefusedPickle("a tensor has an impossible shape")
        reach = sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
        if 0 not in shape and offset + reach >= self.array.size:
            raise RefusedPickle("a tensor reaches beyond its storage")
        steps = [step * self.array.itemsize for step in strides]
        window = self.array[offset:]
        return np.lib.stride_tricks.as_strided(window, shape, steps, writeable=False)


class _Storages(dict[str, _Storage]):
    """Storages by key; together they may not hold more bytes than the file."""

    def __init__(self, file_size: int):
        super().__init__()
        self._bytes_left = file_size

    def load(self, reference: Any) -> _Storage:
        """The storage of a persistent id ``("storage", type, key, location, count[, view])``."""
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            raise RefusedPickle("a persistent id is no storage")
        kind, key, count = reference[1], str(reference[2]), reference[4]
        if not isinstance(kind, _StorageType) or type(count) is not int or count < 0:
            raise RefusedPickle("a storage has no proper type or size")
        if len(reference) > 5 and reference[5] is not None:
            raise RefusedPickle("it uses storage views, which PyTorch dropped in 2017")
        if key not in self:
            self._bytes_left -= count * np.dtype(kind.stored).itemsize
            if self._bytes_left < 0:
                raise RefusedPickle("it is truncated or damaged (storages larger than the file)")
            self[key] = _Storage(kind, count)
        if (self[key].kind, self[key].array.size) != (kind, count):
            raise RefusedPickle(f"storage {key} has two types or sizes")
        return self[key]


# --------------------------------------------------------------------------- what a pickle may name


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
    """NumPy numbers get into checkpoints by way of learning rates."""
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        raise RefusedPickle("a number is not made from a type and bytes")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    """How Python 3 writes bytes in protocol 2."""
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
_NAMES: dict[str, Any] = {
    **{name: Function(function) for name, function in _FUNCTIONS.items()},
    **_STORAGE_TYPES,
    **_DTYPES,
}
