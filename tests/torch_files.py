"""Writes files in both formats of torch.save, valid and invalid ones, without PyTorch."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np

from avjax.weights.torch_file import LEGACY_MAGIC, LEGACY_PROTOCOL

_KINDS = {"f": "Float", "d": "Double", "e": "Half", "l": "Long", "F": "ComplexFloat"}


class Name:
    """Pickled as the global ``module name``; the module need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickled as a call of a global."""

    def __init__(self, function: Name, *arguments):
        self.function, self.arguments = function, arguments


class New:
    """Pickled as an object of a class, with its state."""

    def __init__(self, kind: Name, *arguments, state=None):
        self.kind, self.arguments, self.state = kind, arguments, state


class _Pickler(pickle._Pickler):  # the Python class allows writing opcodes
    """Writes tensors given as `Storage` like torch.save."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Name):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, New):
            self.save(obj.kind)
            self.save(obj.arguments)
            self.write(pickle.NEWOBJ)
            self.save(obj.state)
            self.write(pickle.BUILD)
        elif isinstance(obj, Storage):
            reference = ("storage", Name("torch", obj.kind), obj.key, obj.location, obj.count)
            self.save((*reference, None) if obj.legacy else reference)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


class Storage:
    def __init__(self, kind, key, count, location="cpu", legacy=False):
        self.kind, self.key, self.count = kind, key, count
        self.location, self.legacy = location, legacy


def dumps(obj) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(obj)
    return buffer.getvalue()


def tensor(storage, shape, strides, offset=0):
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, shape, strides, False, OrderedDict())


def write_zip(path: Path, tree, storages: dict, **zip_options) -> Path:
    with zipfile.ZipFile(path, "w", **zip_options) as archive:
        archive.writestr("archive/data.pkl", dumps(tree))
        archive.writestr("archive/byteorder", "little")
        for key, array in storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
    return path


def write_legacy(path: Path, tree, storages: dict) -> Path:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [dumps(x) for x in (LEGACY_MAGIC, LEGACY_PROTOCOL, machine, tree, list(storages))]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    path.write_bytes(b"".join(parts))
    return path


def write_safetensors(path: Path, tensors: dict) -> Path:
    """Writes tensors given as (dtype, shape, bytes)."""
    header, start = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        end = start + len(data)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))
    return path


def save(path: Path, tree, legacy=False) -> Path:
    """Writes a tree of dicts and arrays as torch.save writes a tree of tensors."""
    storages: dict[str, np.ndarray] = {}

    def convert(node):
        if isinstance(node, dict):
            return OrderedDict((name, convert(value)) for name, value in node.items())
        if not isinstance(node, np.ndarray):
            return node
        key = str(len(storages))
        storages[key] = np.array(node, order="C")
        storage = Storage(f"{_KINDS[node.dtype.char]}Storage", key, node.size, "cpu", legacy)
        steps = [stride // node.itemsize for stride in storages[key].strides]
        return tensor(storage, node.shape, tuple(steps))

    content = convert(tree)
    return (write_legacy if legacy else write_zip)(path, content, storages)
