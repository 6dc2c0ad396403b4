"""Channels of several maps in a static order: concatenating, splitting, shuffling move nothing.

A unit of ShuffleNetV2 keeps half of its channels, maps the others, and lets both alternate. What
reads such channels gathers the parts one after the other and puts its kernel's rows, not the map's
channels, in their order.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, UInt32

from avjax.models.ops.map import Map, as_map, materialise, values


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Channels:
    """Channels that lie in several maps.

    Attributes:
      parts: the maps, of the same rows and positions.
      order: for each channel its place in the parts, counted through all of them.
    """

    parts: tuple[Map, ...]
    order: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def rows(self) -> Any:
        """Rows of every part."""
        return self.parts[0].rows

    @property
    def shape(self) -> tuple[Any, ...]:  # symbols in exported programs
        """Shape of the concatenated map."""
        return (*self.parts[0].shape[:-1], len(self.order))


def as_channels(x: Map | Channels | Array) -> Channels:
    """Wraps a map as a single part."""
    if isinstance(x, Channels):
        return x
    return Channels((as_map(x),), tuple(range(x.shape[-1])))


def concat(*maps: Map | Channels | Array) -> Channels:
    """The channels of all maps, one after the other."""
    parts: list[Map] = []
    order: list[int] = []
    start = 0
    for channels in map(as_channels, maps):
        parts += channels.parts
        order += [start + place for place in channels.order]
        start += len(channels.order)
    return Channels(tuple(parts), tuple(order))


def shuffle(x: Map | Channels, groups: int = 2) -> Channels:
    """Lets the channels of the groups alternate."""
    x = as_channels(x)
    order = np.array(x.order).reshape(groups, -1).T.ravel()
    return dataclasses.replace(x, order=tuple(order.tolist()))


def split(x: Map | Channels | Array) -> tuple[Channels, Channels]:
    """The first and the second half of the channels.

    Raises:
      ValueError: a half that takes other than the first or last channels of a part.
    """
    x = as_channels(x)
    halves: list[list[Map]] = [[], []]
    orders: list[dict[int, int]] = [{}, {}]  # by place in all parts, place in the half's own
    side = {place: 2 * i // len(x.order) for i, place in enumerate(x.order)}
    start = 0
    for part in x.parts:
        sides = [side[start + c] for c in range(part.shape[-1])]
        cut = sides.count(0)
        if sides != sorted(sides):
            raise ValueError("a half of the channels is no range of a part")
        for half, piece in enumerate(_cut(part, cut)):
            first = start + (cut if half else 0)
            if piece is not None:
                halves[half].append(piece)
                base = len(orders[half])
                orders[half] |= {first + c: base + c for c in range(piece.shape[-1])}
        start += part.shape[-1]
    middle = len(x.order) // 2
    kept, read = (
        Channels(tuple(maps), tuple(places[p] for p in order))
        for maps, places, order in zip(
            halves, orders, (x.order[:middle], x.order[middle:]), strict=True
        )
    )
    return kept, read


def _cut(part: Map, at: int) -> tuple[Map | None, Map | None]:
    """A map's channels before and from ``at`` on; None for no channels."""
    width = part.shape[-1]
    if at in (0, width):
        return (None, part) if at == 0 else (part, None)
    arrays = {name: getattr(part, name) for name in ("mean", "scale", "bias")}
    first, second = _split(part.x, at)
    return tuple(  # type: ignore[return-value]
        part.replace(x=x, **{name: None if v is None else v[place] for name, v in arrays.items()})
        for x, place in ((first, slice(None, at)), (second, slice(at, None)))
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split(x: Array, at: int) -> tuple[Array, Array]:
    return x[..., :at], x[..., at:]


def _split_backward(at: int, _: None, parts: tuple[Array, Array]) -> tuple[Array]:
    del at
    # Put together first: to choose a part for each value, as XLA would further on, is slow on CPUs.
    return (lax.optimization_barrier(jnp.concatenate(parts, axis=-1)),)


_split.defvjp(lambda x, at: (_split(x, at), None), _split_backward)


def gather(channels: Channels) -> tuple[Map, UInt32[np.ndarray, "c"] | None]:
    """All channels as one map, part after part; and which channel each is, None where in order."""
    parts = channels.parts
    if len({(p.relu, p.scale is None, p.bias is None) for p in parts}) > 1:
        parts = tuple(materialise(part) for part in parts)
    # Unsigned: JAX takes signed indices for 32 bits in a 64-bit program once it has seen them so.
    order = np.argsort(channels.order).astype(np.uint32)
    sorted_already = np.array_equal(order, np.arange(len(order)))
    return _joined(parts), None if sorted_already else order


def _joined(parts: tuple[Map, ...]) -> Map:
    """The channels of maps of which the same is left to be done, one after the other."""
    if len(parts) == 1:
        return parts[0]
    fields = {
        name: jnp.concatenate([getattr(part, name) for part in parts], axis=-1)
        for name in ("x", "mean", "scale", "bias")
        if getattr(parts[0], name) is not None
    }
    return parts[0].replace(**fields)


def in_order(x: Map | Channels) -> Map:
    """The channels as one map whose values are computed and lie in order."""
    if isinstance(x, Map):
        return materialise(x)
    arrays = [values(part) for part in x.parts]
    source = np.concatenate([np.full(a.shape[-1], i) for i, a in enumerate(arrays)])
    channel = np.concatenate([np.arange(a.shape[-1]) for a in arrays])
    source, channel = source[list(x.order)], channel[list(x.order)]

    def merged(places: np.ndarray) -> Array:
        """Channels that alternate between one map, at odd places, and others."""
        i, inner = source[places[0]], channel[places]
        if np.all(source[places] == i):
            return arrays[i][..., inner[0] : inner[-1] + 1]
        even, odd = merged(places[::2]), merged(places[1::2])
        if even.shape[-1] > odd.shape[-1]:
            odd = jnp.pad(odd, [(0, 0)] * (odd.ndim - 1) + [(0, 1)])
        alternating = jnp.stack([even, odd], axis=-1).reshape(*even.shape[:-1], -1)
        return alternating[..., : len(places)]

    return Map(lax.optimization_barrier(merged(np.arange(len(source)))), rows=x.rows)
