"""Arrays with pending elementwise operations.

Batch normalisation and ReLU are one multiply-add and one maximum away from what they are given. A
`Map` says so instead of doing it: whatever reads the map next does, in a pass that it makes anyway,
and again in its backward pass instead of keeping the result.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.models.ops.forms import jit


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of a map in training.

    Attributes:
      weight: ``[r]`` multiplicity of each row in the enlarged batch; 0 marks padding.
      axis_name: device axis over which batch statistics are summed, or None.
    """

    weight: Any
    axis_name: str | None = dataclasses.field(default=None, metadata={"static": True})

    def repeat(self, times: int) -> "Rows":
        """The rows after each has been split into ``times`` consecutive ones."""
        return dataclasses.replace(self, weight=jnp.repeat(self.weight, times))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dimmed:
    """Rows that are multiples of stored ones: each image times each brightness, then a black one.

    Attributes:
      brightness: ``[k, b]`` what each of the ``b`` stored images is multiplied by, k times; at
        least 0.
    """

    brightness: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Map:
    """``relu((x - mean) * scale + bias)``, of which all but ``x`` may be absent.

    Without mean and scale, a bias alone is a constant yet to be added.

    Attributes:
      x: the stored array ``[b *space c]``; of a first layer a `Convolution` yet to be computed.
      mean: ``[c]`` or None.
      scale: ``[c]`` or None.
      bias: ``[c]`` or None.
      rows: in training the map's rows; None in inference.
      dimmed: how the rows follow from those stored; None where they are the same.
      relu: whether negative values become 0.
    """

    x: Any
    mean: Any = None
    scale: Any = None
    bias: Any = None
    rows: Rows | None = None
    dimmed: Dimmed | None = None
    relu: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def shape(self) -> tuple[Any, ...]:  # symbols in exported programs
        """Shape of the stored array."""
        return self.x.shape

    def replace(self, **changes: Any) -> "Map":
        """A copy with other fields."""
        return dataclasses.replace(self, **changes)

    def __add__(self, other: "Map") -> "Map":
        return elementwise(jnp.add, self, other)

    def __mul__(self, other: "Map") -> "Map":
        return elementwise(jnp.multiply, self, other)


def as_map(x: Map | Array | np.ndarray) -> Map:
    """Wraps an array as a map without pending operations."""
    return x if isinstance(x, Map) else Map(x)


def relu(m: Map) -> Map:
    """Applies ReLU, as a pending operation."""
    return m.replace(relu=True)


def values(m: Map) -> Array:
    """Returns a map's values, with pending operations applied; who reads them keeps them."""
    return apply(_Identity(), m).x


def materialise(m: Map) -> Map:
    """Applies the pending operations of a map."""
    return Map(values(m), rows=m.rows)


def elementwise(function: Callable[..., Array], *maps: Map) -> Map:
    """Applies a function to values of maps of equal rows; ``[b c]`` broadcasts over positions."""
    arrays = [values(m) for m in maps]
    ndim = max(x.ndim for x in arrays)
    wide = [x.reshape(x.shape[0], *[1] * (ndim - x.ndim), *x.shape[1:]) for x in arrays]
    return Map(function(*wide), rows=maps[0].rows)


# ------------------------------------------------------------------------- reading a map, and back


@runtime_checkable
class Operation(Protocol):
    """An operation on a map's values, with its derivative; hashable, as it is traced per shape."""

    @property
    def forward(self) -> Callable[..., Array]:
        """``forward(y, *params)``: the result for a map's values."""

    @property
    def backward(self) -> Callable[..., tuple[Array, ...]]:
        """``backward(y, params, dz)``: the gradients of the values and of each parameter."""


def apply(operation: Operation, m: Map, *params: Array) -> Map:
    """Applies an operation to a map; the one derivative rule of all operations.

    The backward pass keeps the map's stored array, and computes its values anew.
    """
    pending = (m.mean, m.scale, m.bias)
    if m.scale is None and m.bias is not None:
        m = m.replace(x=m.x + m.bias.astype(m.x.dtype))
        pending = (None, None, None)
    arrays = tuple(jnp.asarray(param) for param in params)
    return Map(_apply(operation, m.relu, jnp.asarray(m.x), pending, arrays), rows=m.rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _apply(operation: Any, relu: bool, x: Any, pending: Any, params: Any) -> Any:
    return operation.forward(_values(x, pending, relu), *params)


def _values(x: Any, pending: Any, relu: bool) -> Any:
    mean, scale, bias = pending
    y = x if scale is None else x * scale + (bias - mean * scale)
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype)


def _apply_forward(operation: Any, relu: bool, x: Any, pending: Any, params: Any) -> Any:
    return _apply(operation, relu, x, pending, params), (x, pending, params)


@jit(static_argnums=(0, 1))
def _apply_backward(operation: Any, relu: bool, residuals: Any, dz: Array) -> Any:
    x, (mean, scale, bias), params = residuals
    if scale is None:
        dy, *gradients = operation.backward(_values(x, (None, None, None), relu), params, dz)
        return jnp.where(x > 0, dy, 0) if relu else dy, (None, None, None), tuple(gradients)
    later = zero_after(dz)  # what is computed with it is not kept from the forward pass
    again = (mean, scale + later, bias)
    dy, *gradients = operation.backward(_values(x, again, relu), params, dz)
    through = dy.astype(scale.dtype)
    if relu:
        through = jnp.where(x * (scale + later) + (bias - mean * scale) > 0, through, 0)
    space = tuple(range(1, x.ndim - 1))
    dbias = through.sum(space).sum(0)
    dscale = (through * (x - (mean + later))).sum(space).sum(0)
    dx = (through * scale).astype(x.dtype)
    return dx, (-scale * dbias, dscale, dbias), tuple(gradients)


_apply.defvjp(_apply_forward, _apply_backward)


@dataclasses.dataclass(frozen=True)
class _Identity:
    """The values themselves."""

    def forward(self, y: Array) -> Array:
        return y

    def backward(self, y: Array, params: tuple[()], dz: Array) -> tuple[Array]:
        return (dz,)


def zero_after(dy: Array) -> Float[Array, ""]:
    """Zero, or NaN where the first value of ``dy`` is, which the compiler cannot know.

    What is computed with it is neither merged with the forward pass, which would keep a map for the
    backward one after all, nor done early. (XLA's CPU compiler drops optimization barriers before
    it merges equal expressions.)
    """
    first = dy[(0,) * dy.ndim]
    return jnp.where(jnp.isnan(first), first, 0)
