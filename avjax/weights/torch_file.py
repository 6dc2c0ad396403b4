"""Loads ``torch.save`` files as NumPy arrays, without torch and without executing code.

A checkpoint is a pickle that refers to flat arrays (storages). `avjax.weights.plain_pickle`
interprets the pickle and allows only the globals that a state_dict needs; objects of other classes
stay inert. Supports the zip format (PyTorch 1.6 and later) and the legacy format (five pickles
followed by the storages); see PyTorch's ``torch/serialization.py``. Time and memory are bounded by
the file's size.
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
from avjax.runtime.impostors import HEAD_BYTES, impostor
from avjax.weights.plain_pickle import Foreign, Function, RefusedPickle, interpret, plain_key
from avjax.weights.safetensors_file import looks_like_safetensors, read_safetensors
from avjax.weights.torch_storages import (
    STORAGE_TYPES,
    UNSUPPORTED_BYTES,
    OtherStorage,
    Storage,
    Storages,
    storage_key,
)

ZIP_MAGIC = b"PK\x03\x04"
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
SAVE_REMEDY = 'save its state_dict: torch.save(model.state_dict(), "weights.pth")'
_MOST_DIMENSIONS = 64  # NumPy's limit
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


class TorchFile(NamedTuple):
    """A checkpoint's content.

    Attributes:
      tree: the saved object: dicts (also for OrderedDict and defaultdict), lists, tuples and
        scalars, with read-only arrays for tensors and parameters, and `Foreign` for objects of
        other classes and tensors of other types, such as complex or quantized ones. bfloat16
        becomes float32. Tensors with a common storage share memory. Objects may contain themselves.
      foreign: qualified names of the other classes and functions that the file asks for, in the
        file's order. Nothing of them was imported or run.
    """

    tree: Any
    foreign: tuple[str, ...]


def read_torch_file(path: str | os.PathLike[str]) -> TorchFile:
    """Reads a checkpoint written by ``torch.save``, or a safetensors file.

    Args:
      path: a file in either format of ``torch.save``; the device of its tensors is ignored.

    Returns:
      See `TorchFile`. The arrays need about as much memory as the file.

    Raises:
      InputError: the file is missing, truncated or not a checkpoint, its pickle builds more than
        the file's size allows, or it is a TorchScript archive.
    """
    path = Path(path)
    foreign: dict[str, Foreign] = {}
    try:
        with path.open("rb") as file:
            tree = _read(file, path.stat().st_size, foreign)
    except RefusedPickle as error:
        raise InputError(
            f"{path}: {error}; pass a file whose state_dict was saved by torch.save"
        ) from None
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; pass a file saved by torch.save") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a directory; pass a file saved by torch.save") from None
    return TorchFile(tree, tuple(name for name in foreign if name not in _UNREPORTED))


def load_torch_file(path: str | os.PathLike[str]) -> Any:
    """Returns the ``tree`` of `read_torch_file`."""
    return read_torch_file(path).tree


# -------------------------------------------------------------------------------------- containers


def _read(file: BinaryIO, size: int, foreign: dict[str, Foreign]) -> Any:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    if head.startswith(ZIP_MAGIC):
        return _read_zip(file, size, foreign)
    if looks_like_safetensors(head, size):
        return read_safetensors(file, size)
    if what := impostor(head):
        raise RefusedPickle(f"it {what}")
    return _read_legacy(file, size, foreign)


def _memory(size: int) -> int:
    """Bytes that a pickle's objects may take: those of an empty file's, and more for a larger."""
    return (32 << 20) + 2 * size


def _read_zip(file: BinaryIO, size: int, foreign: dict[str, Foreign]) -> Any:
    try:
        with _open_zip(file, size) as archive:
            records = {name.partition("/")[2]: name for name in archive.namelist()}
            if "constants.pkl" in records:
                raise RefusedPickle(f"it is a TorchScript archive, a program; {SAVE_REMEDY}")
            if "data.pkl" not in records:
                raise RefusedPickle("it is a zip archive without the record data.pkl")
            if "byteorder" in records:
                with _open_record(archive, records, "byteorder", size) as record:
                    _check_byte_order(record.read() == b"little")
            storages = Storages(size)
            with _open_record(archive, records, "data.pkl", size) as record:
                stream = io.BytesIO(record.read())
            tree = interpret(
                stream, _globals(size), storages.load, memory=_memory(size), foreign=foreign
            )
            del stream
            for key, storage in storages.items():
                with _open_record(archive, records, f"data/{key}", size) as record:
                    storage.fill(record)
            return tree
    except _ZIP_ERRORS as error:
        raise RefusedPickle(f"it is truncated or damaged ({str(error)[:100]})") from None


def _open_zip(file: BinaryIO, size: int) -> zipfile.ZipFile:
    """Opens an archive whose directory is small beside the file: each entry is an object."""
    reader = _LimitedReader(file, (1 << 20) + size // 16)
    archive = zipfile.ZipFile(reader)
    reader.limit = size
    return archive


class _LimitedReader:
    """A file that refuses to read much at once, as `zipfile` does an archive's directory."""

    def __init__(self, file: BinaryIO, limit: int):
        self._file, self.limit = file, limit
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable
        self.close = file.close

    def read(self, count: int = -1) -> bytes:
        if count > self.limit:
            raise RefusedPickle("it is truncated or damaged (its directory is too large)")
        return self._file.read(count)


def _check_byte_order(little: bool) -> None:
    if not little:
        raise RefusedPickle("it was saved on a big-endian machine")


def _open_record(archive: zipfile.ZipFile, records: Mapping[str, str], name: str, size: int) -> Any:
    if name not in records:
        raise RefusedPickle(f"its record {name} is missing")
    info = archive.getinfo(records[name])
    if info.compress_type != zipfile.ZIP_STORED:
        raise RefusedPickle(f"its record {name} is compressed, which torch.save never does")
    if max(info.file_size, info.compress_size) > size:
        raise RefusedPickle(f"its record {name} claims to be larger than the file")
    return archive.open(info)


def _read_legacy(file: BinaryIO, size: int, foreign: dict[str, Foreign]) -> Any:
    """Reads five pickles (magic, protocol, machine, object, storage keys), then the storages."""
    stream = _BoundedReader(file, size)
    storages = Storages(size)
    memory = _memory(size)
    if interpret(stream, {}, memory=memory) != LEGACY_MAGIC:
        raise RefusedPickle("it was not saved by torch.save")
    if interpret(stream, {}, memory=memory) != LEGACY_PROTOCOL:
        raise RefusedPickle(f"its protocol is not {LEGACY_PROTOCOL}")
    machine = interpret(stream, {}, memory=memory)
    _check_byte_order(isinstance(machine, dict) and machine.get("little_endian") is True)
    tree = interpret(stream, _globals(size), storages.load, memory=memory, foreign=foreign)
    keys = interpret(stream, {}, memory=memory)
    names = {*storages, *storages.skipped}
    if not isinstance(keys, list) or set(map(storage_key, keys)) != names:
        raise RefusedPickle("its storages differ from those its tensors refer to")
    for key in keys:
        if other := storages.skipped.get(storage_key(key)):
            _skip_storage(stream, other)
            continue
        storage = storages[storage_key(key)]
        header = stream.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] != storage.array.size:
            raise RefusedPickle("it is truncated or damaged (length of a storage)")
        storage.fill(stream)
    return tree


def _skip_storage(stream: "_BoundedReader", storage: OtherStorage) -> None:
    """Passes a storage of the legacy format whose type is not supported."""
    if storage.name not in UNSUPPORTED_BYTES:
        raise RefusedPickle(f"a storage has the type {storage.name}, whose size is unknown")
    count = int.from_bytes(stream.read(8), "little", signed=True)
    stream.skip(count * UNSUPPORTED_BYTES[storage.name])


class _BoundedReader:
    """A file that never reads past its end, so that a forged length cannot allocate memory."""

    def __init__(self, file: BinaryIO, size: int):
        self._file, self._size = file, size

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))

    def readline(self) -> bytes:
        return self._file.readline()

    def skip(self, count: int) -> None:
        if not 0 <= count <= self._size - self._file.tell():
            raise RefusedPickle("it is truncated (a storage ends early)")
        self._file.seek(count, os.SEEK_CUR)


# --------------------------------------------------------------------------------- allowed globals


def _globals(size: int) -> dict[str, Any]:
    """Returns the globals that a file of ``size`` bytes may use."""
    repeated_left = _memory(size)

    def tensor(
        storage: Any, offset: Any, shape: Any, strides: Any, *_unused: Any
    ) -> np.ndarray | Foreign:
        nonlocal repeated_left
        if isinstance(storage, OtherStorage):
            return storage
        if not (isinstance(storage, Storage) and type(shape) is type(strides) is tuple):
            raise RefusedPickle("a tensor is not made from a storage, a shape and strides")
        if max(len(shape), len(strides)) > _MOST_DIMENSIONS:
            raise RefusedPickle("a tensor has too many dimensions")
        view = storage.view(offset, shape, strides)
        # Zero strides repeat elements, so that a few bytes may stand for any number.
        if view.size > storage.array.size:
            repeated_left -= view.size * view.itemsize
            if repeated_left < 0:
                raise RefusedPickle("a tensor repeats its numbers more often than a file's may")
        return view

    functions = {**_FUNCTIONS, **dict.fromkeys(_TENSOR_FUNCTIONS, tensor)}
    return {
        **{name: Function(function) for name, function in functions.items()},
        **STORAGE_TYPES,
        **_DTYPES,
    }


def _ordered_dict(pairs: Iterable[Any] = ()) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key, value in pairs:
        result[plain_key(key)] = value
    return result


def _default_dict(*_factory: Any) -> dict[Any, Any]:
    return {}


def _parameter(data: Any, *_unused: Any) -> Any:
    return data


def _size(numbers: Any = ()) -> tuple[Any, ...]:
    if not isinstance(numbers, tuple):
        raise RefusedPickle("a size is not a tuple")
    return numbers


def _numpy_dtype(code: Any, *_unused: Any) -> np.dtype | Foreign:
    known = isinstance(code, str) and code in _NUMPY_CODES
    return np.dtype(code) if known else Foreign("numpy.dtype")


def _numpy_scalar(dtype: Any, data: Any = None) -> Any:
    """Rebuilds a NumPy number, such as a learning rate; dates and texts stay foreign."""
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes):
        return Foreign("numpy.generic")
    return np.frombuffer(data, dtype, count=1)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    """Rebuilds bytes, which Python 3 encodes as latin1 text in protocol 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedPickle("it encodes something other than bytes")
    return text.encode("latin1")


_NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")
_TENSOR_FUNCTIONS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": _default_dict,
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
# What NumPy's arrays and defaultdicts are pickled with: inert as all the others, but no news.
_UNREPORTED = {
    *(f"builtins.{name}" for name in ("int", "float", "str", "list", "dict", "set", "object")),
    *(f"numpy.{name}" for name in ("ndarray", "dtype")),
    *(f"numpy.{core}.multiarray._reconstruct" for core in ("core", "_core")),
    "copyreg._reconstructor",
}
