"""Strict conversion between PyTorch state_dicts and Flax variables, given a key map.

A key map is a list of `Layer` entries: a module's name in the PyTorch state_dict, its path in the
Flax variables and its kind. The kind determines the leaves and their layouts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from avjax.errors import InputError, shortened

Path = tuple[str, ...]
Array = np.ndarray


class Layer(NamedTuple):
    """One module: PyTorch name, Flax path without the collection, kind (a key of `KINDS`)."""

    torch_name: str
    path: Path
    kind: str


class Leaf(NamedTuple):
    """One tensor of a kind: PyTorch and Flax names, Flax collection, layout conversions."""

    torch_suffix: str
    collection: str
    flax_name: str
    to_flax: Callable[[Array], Array]
    to_torch: Callable[[Array], Array]


def _same(x: Array) -> Array:
    return x


def _weight(to_flax: Callable[[Array], Array], to_torch: Callable[[Array], Array]) -> Leaf:
    return Leaf("weight", "params", "kernel", to_flax, to_torch)


_BIAS = Leaf("bias", "params", "bias", _same, _same)
_DENSE = _weight(np.transpose, np.transpose)
_CONV1X1 = _weight(lambda w: w[:, :, 0, 0].T, lambda k: k.T[:, :, None, None])
_CONV1D = _weight(lambda w: w.transpose(2, 1, 0), lambda k: k.transpose(2, 1, 0))
_CONV2D = _weight(lambda w: w.transpose(2, 3, 1, 0), lambda k: k.transpose(3, 2, 0, 1))
_DEPTHWISE = _weight(lambda w: w[:, 0].transpose(1, 2, 0), lambda k: k.transpose(2, 0, 1)[:, None])
_NORM_SCALE = Leaf("weight", "params", "scale", _same, _same)

KINDS: dict[str, tuple[Leaf, ...]] = {
    "dense": (_DENSE, _BIAS),
    "dense_no_bias": (_DENSE,),
    "conv1x1": (_CONV1X1, _BIAS),
    "conv1x1_no_bias": (_CONV1X1,),
    "conv1d": (_CONV1D, _BIAS),
    "conv2d": (_CONV2D, _BIAS),
    "conv2d_no_bias": (_CONV2D,),
    "depthwise": (_DEPTHWISE,),
    "layer_norm": (_NORM_SCALE, _BIAS),
    "prelu": (Leaf("weight", "params", "slope", _same, _same),),
    "batch_norm": (
        _NORM_SCALE,
        _BIAS,
        Leaf("running_mean", "batch_stats", "mean", _same, _same),
        Leaf("running_var", "batch_stats", "var", _same, _same),
    ),
}
COUNTER = "num_batches_tracked"  # of BatchNorm; unused because momentum is fixed


def leaves(layers: Sequence[Layer]) -> Iterator[tuple[str, Path, Leaf]]:
    """Yields (PyTorch key, Flax path with the collection, leaf) of every tensor."""
    for layer in layers:
        for leaf in KINDS[layer.kind]:
            path = (leaf.collection, *layer.path, leaf.flax_name)
            yield f"{layer.torch_name}.{leaf.torch_suffix}", path, leaf


def counters(layers: Sequence[Layer]) -> list[str]:
    """Returns the keys of PyTorch's unused batch counters, one per BatchNorm."""
    return [f"{layer.torch_name}.{COUNTER}" for layer in layers if layer.kind == "batch_norm"]


def to_flax(
    state_dict: Mapping[str, Array], layers: Sequence[Layer], shapes: Mapping[str, Any], name: str
) -> dict[str, Any]:
    """Converts a complete state_dict to Flax variables.

    Args:
      state_dict: arrays by PyTorch name.
      layers: the network's key map.
      shapes: Flax variables of the network (arrays or `jax.ShapeDtypeStruct`).
      name: the source of the tensors, for error messages.

    Returns:
      ``{"params": ..., "batch_stats": ...}`` of NumPy arrays.

    Raises:
      InputError: tensors are missing, unexpected or of the wrong shape, or have numbers that are
        not finite in float32; lists them.
    """
    unexpected = set(state_dict) - set(counters(layers))
    variables: dict[str, Any] = {}
    missing, misshapen, not_finite = [], [], []
    for key, path, leaf in leaves(layers):
        if key not in state_dict:
            missing.append(f"missing {key}")
            continue
        unexpected.discard(key)
        flax_shape = tuple(_get(shapes, path).shape)
        expected = leaf.to_torch(np.empty(flax_shape, np.bool_)).shape
        tensor = np.asarray(state_dict[key])
        if tensor.shape != expected:
            wrong = f"{list(tensor.shape)} instead of {list(expected)}"
            misshapen.append(f"{key} has shape {wrong}")
            continue
        with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite
            finite = np.isfinite(tensor.astype(np.float32, copy=False))
        if bad := tensor.size - np.count_nonzero(finite):
            not_finite.append(f"{key} ({bad} of {tensor.size})")
        _set(variables, path, np.ascontiguousarray(leaf.to_flax(tensor)))
    faults = shortened(missing) + shortened([f"unexpected {key}" for key in sorted(unexpected)])
    faults += shortened(misshapen)
    if faults:
        raise InputError(f"{name} does not fit the network: {'; '.join(faults)}")
    if not_finite:
        raise InputError(
            f"{name} holds NaN or infinite numbers in {', '.join(shortened(not_finite))}; take a "
            "checkpoint from before training diverged"
        )
    return variables


def to_torch(variables: Mapping[str, Any], layers: Sequence[Layer]) -> dict[str, Array]:
    """Converts Flax variables to a complete state_dict of contiguous NumPy arrays."""
    state_dict: dict[str, Array] = {}
    for key, path, leaf in leaves(layers):
        array = leaf.to_torch(np.asarray(_get(variables, path)))
        state_dict[key] = np.ascontiguousarray(array)
    return state_dict | {name: np.zeros((), np.int64) for name in counters(layers)}


def _get(tree: Mapping[str, Any], path: Path) -> Any:
    node: Any = tree
    for part in path:
        node = node[part]
    return node


def _set(tree: dict[str, Any], path: Path, value: Array) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
