"""Finds the state_dicts in a checkpoint, and takes off what training code wraps around names."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from avjax.weights.plain_pickle import Foreign

_DEPTH = 3  # of mappings in mappings, such as {"ema": {"module": state_dict}}
# Keys of a model's state_dict, which go before other keys.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
_AVERAGES = {"ema", "swa", "shadow", "average", "averaged", "teacher"}  # words in a key
# Added anywhere in a name, by DataParallel, torch.compile, FSDP and activation checkpointing.
_INSERTED = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_WRAPPERS = {"model", "net", "network"}  # attributes that hold the model, as in Lightning modules
_COUNTS = ("total_ops", "total_params")  # buffers that thop adds to every module


class StateDict(NamedTuple):
    """A mapping that holds tensors.

    Attributes:
      key: where it is in the file, such as "ema.module"; empty for the file's own object.
      tensors: arrays by name, without wrappers' prefixes, in the file's order.
      left_out: why entries belong to no network, by name; in the file's order.
      unwrapped: those of ``tensors`` that lie beside a wrapped model, not inside.
      twice: full names of tensors that have another one's name apart from prefixes.
    """

    key: str
    tensors: dict[str, np.ndarray]
    left_out: dict[str, str]
    unwrapped: set[str]
    twice: list[str]


def find_state_dicts(tree: Any) -> list[StateDict]:
    """Returns all mappings that hold tensors by name: usual keys first, running averages last."""
    mappings = [(key, mapping) for key, mapping in _mappings(tree) if _holds_tensors(mapping)]
    mappings.sort(key=lambda item: _rank(item[0]))  # stable
    return [_read(key, mapping) for key, mapping in mappings]


def _mappings(tree: Any) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """Yields mappings with their keys, the outer ones first, each once however it is shared."""
    level, seen = [("", tree)], set()
    for _ in range(_DEPTH):
        inner = []
        for path, mapping in level:
            if not isinstance(mapping, dict) or id(mapping) in seen:
                continue
            seen.add(id(mapping))
            yield path, mapping
            for key, value in mapping.items():
                if isinstance(key, str) and isinstance(value, dict):
                    inner.append((f"{path}.{key}" if path else key, value))
        level = inner


def _holds_tensors(mapping: Mapping[Any, Any]) -> bool:
    return any(isinstance(k, str) and isinstance(v, np.ndarray) for k, v in mapping.items())


def _rank(key: str) -> tuple[bool, int, bool]:
    words = set(re.split(r"[^a-z]+", key.lower()))
    depth = key.count(".") + 1 if key else 0
    return bool(words & _AVERAGES), depth, key not in _USUAL_KEYS


def _read(key: str, mapping: Mapping[Any, Any]) -> StateDict:
    state_dict = StateDict(key, {}, {}, set(), [])
    any_wrapped = False
    for full_name, value in mapping.items():
        name, wrapped = _unwrap(str(full_name))
        if not isinstance(value, np.ndarray):
            state_dict.left_out[name] = _type_fault(value)
        elif name.rpartition(".")[2] in _COUNTS:
            state_dict.left_out[name] = "thop's counts of operations"
        elif name in state_dict.tensors:
            state_dict.twice.append(str(full_name))
        else:
            state_dict.tensors[name] = value
            any_wrapped |= wrapped
            if not wrapped:
                state_dict.unwrapped.add(name)
    if not any_wrapped:
        state_dict.unwrapped.clear()
    return state_dict


def _type_fault(value: Any) -> str:
    """Says what a value is that is no array."""
    if isinstance(value, Foreign) and value.name.startswith(("torch.", "safetensors ")):
        return f"a tensor of a type that is not supported ({value.name})"
    return "not a tensor"


def _unwrap(name: str) -> tuple[str, bool]:
    """Returns a name without wrappers' prefixes, and whether it lay inside a wrapper."""
    parts = [part for part in name.split(".") if part not in _INSERTED]
    inner = 0
    while inner < len(parts) - 1 and parts[inner] in _WRAPPERS:
        inner += 1
    return ".".join(parts[inner:]), inner > 0
