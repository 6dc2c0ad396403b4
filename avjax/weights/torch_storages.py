"""Storages of ``torch.save`` files: flat arrays, of which tensors are views."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from avjax.weights.plain_pickle import Foreign, RefusedPickle

CHUNK = 1 << 20  # elements
_MOST_KEY_LENGTH = 64  # of a storage's key, a short number


class StorageType(NamedTuple):
    """The dtypes in the file and in memory, and their conversion (None if they are equal)."""

    stored: str
    loaded: str
    convert: Callable[[np.ndarray], np.ndarray] | None = None


def _widen_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


STORAGE_TYPES = {
    "torch.FloatStorage": StorageType("<f4", "f4"),
    "torch.DoubleStorage": StorageType("<f8", "f8"),
    "torch.HalfStorage": StorageType("<f2", "f2"),
    "torch.BFloat16Storage": StorageType("<u2", "f4", _widen_bfloat16),
    "torch.LongStorage": StorageType("<i8", "i8"),
    "torch.IntStorage": StorageType("<i4", "i4"),
    "torch.ShortStorage": StorageType("<i2", "i2"),
    "torch.CharStorage": StorageType("i1", "i1"),
    "torch.ByteStorage": StorageType("u1", "u1"),
    "torch.BoolStorage": StorageType("u1", "?", lambda byte: byte != 0),
}


UNSUPPORTED_BYTES = {  # of an element; nothing else of these types is known
    "torch.ComplexFloatStorage": 8,
    "torch.ComplexDoubleStorage": 16,
    "torch.QInt8Storage": 1,
    "torch.QUInt8Storage": 1,
    "torch.QInt32Storage": 4,
}


class Storage:
    """A flat array: allocated when the pickle refers to it, filled afterwards."""

    def __init__(self, kind: StorageType, size: int):
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
        if 0 in shape:
            return np.empty(shape, self.array.dtype)
        extent = sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if offset + extent >= self.array.size:
            raise RefusedPickle("a tensor reaches beyond its storage")
        byte_strides = [stride * self.array.itemsize for stride in strides]
        start = offset * self.array.itemsize
        view = np.ndarray(shape, self.array.dtype, self.array.data, start, byte_strides)
        view.flags.writeable = False
        return view


class OtherStorage(Foreign):
    """Stands for a storage of a type that is not supported, and for its tensors."""

    __slots__ = ()


class Storages(dict[str, Storage]):
    """Storages by key; their total size may not exceed the file's.

    Attributes:
      skipped: storages of types that are not supported, by key.
    """

    def __init__(self, file_size: int):
        super().__init__()
        self._bytes_left = file_size
        self.skipped: dict[str, OtherStorage] = {}

    def load(self, reference: Any) -> Storage | Foreign:
        """Returns the storage of an id ``("storage", type, key, location, size[, view])``.

        A storage of a foreign type is an `OtherStorage`. Any other id becomes foreign, such as the
        class of a pickled module in the legacy format.
        """
        if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
            return _foreign_reference(reference)
        kind, key, size = reference[1], storage_key(reference[2]), reference[4]
        if isinstance(kind, Foreign):
            self.skipped[key] = OtherStorage(kind.name)
            return self.skipped[key]
        if not isinstance(kind, StorageType) or type(size) is not int or size < 0:
            raise RefusedPickle("a storage has an invalid type or size")
        if len(reference) > 5 and reference[5] is not None:
            raise RefusedPickle("it uses storage views, which PyTorch dropped in 2017")
        if key not in self:
            self._bytes_left -= size * np.dtype(kind.stored).itemsize
            if self._bytes_left < 0:
                raise RefusedPickle("it is truncated or damaged (storages larger than the file)")
            self[key] = Storage(kind, size)
        if (self[key].kind, self[key].array.size) != (kind, size):
            raise RefusedPickle(f"storage {key} has two types or sizes")
        return self[key]


def storage_key(key: Any) -> str:
    """Returns a storage's key as text."""
    if isinstance(key, int) and key.bit_length() <= 64:
        return str(key)
    if not isinstance(key, str) or len(key) > _MOST_KEY_LENGTH:
        raise RefusedPickle("the key of a storage is not a short name or number")
    return key


def _foreign_reference(reference: Any) -> Foreign:
    """Returns what stands for ``("module", class, ...)`` or for an unknown id."""
    values = reference[1:2] if isinstance(reference, tuple) else ()
    return next((x for x in values if isinstance(x, Foreign)), Foreign("persistent id"))
