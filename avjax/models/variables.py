"""A network's variables before any training: their shapes, and fresh ones."""

import math
import zlib
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from avjax.models.efficientface import MIN_SIZE
from avjax.models.network import Network

Path: TypeAlias = tuple[str, ...]


def _smallest_inputs(net: Network) -> tuple[np.ndarray, np.ndarray]:
    """Inputs that every network takes; NumPy's, so that no device is touched."""
    return (
        np.zeros((1, 20, net.inputs.audio_width), np.float32),
        np.zeros((1, 1, MIN_SIZE, MIN_SIZE, 3), np.float32),
    )


def variable_shapes(net: Network) -> dict[str, Any]:
    """Shapes and types of a network's variables, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda key: _linen_init(net, key), jax.random.key(0))


def init_variables(net: Network, key: Array) -> dict[str, Any]:
    """Fresh parameters and statistics; their shapes depend on no input's.

    Kernels and their biases are PyTorch's, U(-1/sqrt(fan_in), 1/sqrt(fan_in)); norms begin as the
    identity; parameters of other names have the initialisers that their modules give them. Each
    parameter's draws depend on the key and its own path alone. They are made on the host: to
    compile hundreds of draws would take longer than the rest of a start.
    """
    shapes = variable_shapes(net)
    params = flatten_dict(shapes["params"])
    fresh = {path: _fresh(path, params, key) for path in params}
    if any(x is None for x in fresh.values()):
        linen = flatten_dict(jax.jit(lambda key: _linen_init(net, key))(key)["params"])
        fresh = {path: linen[path] if x is None else x for path, x in fresh.items()}
    stats = {
        path: np.full(x.shape, path[-1] == "var", x.dtype)
        for path, x in flatten_dict(shapes.get("batch_stats", {})).items()
    }
    variables = {"params": unflatten_dict(fresh), "batch_stats": unflatten_dict(stats)}
    return jax.tree.map(jnp.asarray, variables)


def _linen_init(net: Network, key: Array) -> dict[str, Any]:
    return nn.Module.init(net, key, *_smallest_inputs(net))


def _fresh(path: Path, params: dict[Path, Any], key: Array) -> np.ndarray | None:
    """A parameter's first value; None where only its module knows."""
    shape, name = params[path].shape, path[-1]
    kernel: Any = params.get((*path[:-1], "kernel"))
    if name == "scale" or (name == "bias" and kernel is None):
        return np.full(shape, name == "scale", np.float32)
    if name not in ("kernel", "bias"):
        return None
    bound = math.prod(kernel.shape[:-1]) ** -0.5
    seed = [
        *np.asarray(jax.random.key_data(key)).ravel().tolist(),
        zlib.crc32("/".join(path).encode()),
    ]
    return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)
