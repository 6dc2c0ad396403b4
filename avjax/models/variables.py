"""Shapes and initialisation of a network's variables."""

import math
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from avjax.models.efficientface import MIN_SIZE
from avjax.models.network import Network

Path: TypeAlias = tuple[str, ...]


def _smallest_inputs(net: Network) -> tuple[np.ndarray, np.ndarray]:
    """Returns inputs valid for every network, as NumPy arrays to avoid using a device."""
    return (
        np.zeros((1, 20, net.inputs.audio_width), np.float32),
        np.zeros((1, 1, MIN_SIZE, MIN_SIZE, 3), np.float32),
    )


def variable_shapes(net: Network) -> dict[str, Any]:
    """Returns a network's variables as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(lambda key: _linen_init(net, key), jax.random.key(0))


def init_variables(net: Network, key: Array) -> dict[str, Any]:
    """Initialises parameters and statistics; shapes do not depend on the inputs'.

    Kernels and biases follow PyTorch, U(-1/sqrt(fan_in), 1/sqrt(fan_in)). Norms start as the
    identity. Parameters of other names use their modules' initialisers. Each parameter depends only
    on the key and its path. Draws are made on the host: compiling hundreds of them would take
    longer than the rest of the start-up.
    """
    shapes = variable_shapes(net)
    params = flatten_dict(shapes["params"])
    drawn = {path: x for path, x in params.items() if _is_drawn(path)}

    def draw(key_data: np.ndarray) -> dict[Path, np.ndarray]:
        return {path: _fresh(path, params, np.ravel(key_data)) for path in drawn}

    key_data = jax.random.key_data(key)
    if isinstance(key_data, jax.core.Tracer):  # inside a traced function
        fresh = jax.pure_callback(draw, drawn, key_data)
    else:
        fresh = draw(np.asarray(key_data))
    if len(drawn) < len(params):
        linen = flatten_dict(jax.jit(lambda key: _linen_init(net, key))(key)["params"])
        fresh = {path: fresh.get(path, x) for path, x in linen.items()}
    stats = {
        path: np.full(x.shape, path[-1] == "var", x.dtype)
        for path, x in flatten_dict(shapes.get("batch_stats", {})).items()
    }
    variables = {"params": unflatten_dict(fresh), "batch_stats": unflatten_dict(stats)}
    return jax.device_put(variables)


def _linen_init(net: Network, key: Array) -> dict[str, Any]:
    return nn.Module.init(net, key, *_smallest_inputs(net))


def _is_drawn(path: Path) -> bool:
    """Whether a parameter is drawn here rather than by its module's initialiser."""
    return path[-1] in ("kernel", "bias", "scale")


def _fresh(path: Path, params: Mapping[Path, Any], key_data: np.ndarray) -> np.ndarray:
    """Draws a parameter's initial value."""
    shape, dtype, name = params[path].shape, params[path].dtype, path[-1]
    kernel: Any = params.get((*path[:-1], "kernel"))
    if kernel is None:  # a norm
        return np.full(shape, name == "scale", dtype)
    bound = math.prod(kernel.shape[:-1]) ** -0.5
    seed = np.append(key_data, zlib.crc32("/".join(path).encode()))
    return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(dtype)
