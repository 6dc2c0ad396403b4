"""A network's variables before any training: their shapes, and fresh ones."""

import math
from collections import defaultdict
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from avjax.models.efficientface import MIN_SIZE
from avjax.models.layers import POSTPONED, Draw, draw
from avjax.models.network import Network
from avjax.runtime.compilation import quick_compilation

Path: TypeAlias = tuple[str, ...]


def smallest_inputs(net: Network) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Shapes and types of the smallest sound and frames that every network takes."""
    return (
        jax.ShapeDtypeStruct((1, 20, net.inputs.audio_width), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, MIN_SIZE, MIN_SIZE, 3), jnp.float32),
    )


def variable_shapes(net: Network) -> dict[str, Any]:
    """Shapes and types of a network's variables, as `jax.ShapeDtypeStruct`."""
    return jax.eval_shape(net.init, jax.random.key(0), *smallest_inputs(net))


def init_variables(net: Network, key: Array) -> dict[str, Any]:
    """Fresh parameters and statistics, those of ``net.init``; their shapes depend on no input's.

    Parameters of about the same size are drawn together: to compile a draw of each, and of its key,
    would take longer than the rest of a start.
    """
    draws: dict[Path, Draw] = {}

    def init() -> dict[str, Any]:
        inputs = (jnp.zeros(x.shape, x.dtype) for x in smallest_inputs(net))
        variables = dict(net.init({"params": key, POSTPONED: key}, *inputs))
        draws.update(flatten_dict(variables.pop(POSTPONED, {})))
        params = flatten_dict(variables["params"])
        return variables | {"params": {path: params[path] for path in params if path not in draws}}

    variables = jax.jit(init, compiler_options=quick_compilation())()
    params = {**variables["params"], **_draw_together(draws)}
    return variables | {"params": unflatten_dict(params)}


def _draw_together(draws: dict[Path, Draw]) -> dict[Path, Array]:
    """What `draw` gives for each; the first values of a long vector are those of a shorter one."""
    groups: dict[int, list[Draw]] = defaultdict(list)
    for wanted in draws.values():
        groups[_vector(wanted)].append(wanted)
    impl = jax.random.key_impl(next(iter(draws.values())).key)
    keys = {
        size: np.stack([np.asarray(jax.random.key_data(wanted.key)) for wanted in group])
        for size, group in groups.items()
    }
    bounds = {
        size: np.array([wanted.bound for wanted in group], np.float32)
        for size, group in groups.items()
    }

    def vectors(keys: dict[int, Array], bounds: dict[int, Array]) -> dict[int, Array]:
        each = jax.vmap(draw, in_axes=(0, 0, None))
        wrapped = {size: jax.random.wrap_key_data(keys[size], impl=impl) for size in keys}
        return {size: each(wrapped[size], bounds[size], (size,)) for size in keys}

    drawn = jax.device_get(jax.jit(vectors, compiler_options=quick_compilation())(keys, bounds))
    rows = {size: iter(drawn[size]) for size in drawn}
    return {
        path: jax.device_put(
            next(rows[_vector(wanted)])[: math.prod(wanted.shape)].reshape(wanted.shape)
        )
        for path, wanted in draws.items()
    }


def _vector(wanted: Draw) -> int:
    """Length of the vector that a parameter is drawn from: a power of 4, so that they are few."""
    return 4 ** math.ceil(math.log(math.prod(wanted.shape), 4))
