"""Normalised maps that derivatives compute again instead of keeping them.

Batch normalisation must keep its input for the backward pass; its output is one multiply-add away
from it. Operations that read such an output keep the input too, and no second map.
"""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float


class Source(NamedTuple):
    """What a normalised map is computed from: ``x * factor + offset``, in the type of ``x``."""

    x: Float[Array, "b *space c"]
    factor: Float[Array, "c"]
    offset: Float[Array, "c"]


@flax.struct.dataclass
class Joined:
    """What a map of some channels of several normalised maps is computed from.

    Attributes:
      sources: of these maps.
      channels: first and behind the last channel of each.
    """

    sources: tuple[Source, ...]
    channels: tuple[tuple[int, int], ...] = flax.struct.field(pytree_node=False)


class Normalised(NamedTuple):
    """What batch normalisation returns.

    Attributes:
      value: the map.
      source: what it can be computed from again, or None where no derivative is wanted.
      relu: whether negative values were set to 0.
    """

    value: Float[Array, "b *space c"]
    source: Source | Joined | None = None
    relu: bool = False


Map: TypeAlias = Array | Normalised


def as_normalised(x: Map) -> Normalised:
    """A plain array as a map without a source."""
    return x if isinstance(x, Normalised) else Normalised(jnp.asarray(x))


def normalise(source: Source, relu: bool) -> Array:
    """The map that a source stands for."""
    x, factor, offset = source
    y = x * factor + offset
    return (jnp.maximum(y, 0) if relu else y).astype(x.dtype)


def join(
    maps: Sequence[Normalised], channels: Sequence[tuple[int, int]], values: Sequence[Array]
) -> Normalised:
    """Some channels of several maps as one map.

    Args:
      maps: all followed by ReLU, or none.
      channels: of each, first and behind the last.
      values: these channels.
    """
    value = jnp.concatenate(values, axis=-1)
    sources = tuple(map_.source for map_ in maps if isinstance(map_.source, Source))
    if len(sources) < len(maps):
        return Normalised(value)
    return Normalised(value, Joined(sources, tuple(channels)), maps[0].relu)


def keep(value: Array, source: Source | Joined | None) -> Source | Joined | Array:
    """What a derivative must keep to see a map again."""
    return value if source is None else source


def recall(kept: Source | Joined | Array, relu: bool, dy: Array) -> Array:
    """The map behind what `keep` returned, computed anew once ``dy`` is there."""
    if isinstance(kept, Joined):
        parts = zip(kept.sources, kept.channels, strict=True)
        cut = [Source(*(x[..., first:last] for x in source)) for source, (first, last) in parts]
        return jnp.concatenate([recall(source, relu, dy) for source in cut], axis=-1)
    if not isinstance(kept, Source):
        return kept
    x, factor, offset = kept
    return normalise(Source(x, factor + zero_after(dy), offset), relu)


def zero_after(dy: Array) -> Float[Array, ""]:
    """Zero, or NaN where the first value of ``dy`` is, which the compiler cannot know.

    What is computed with it is neither merged with the forward pass, which would keep a map for the
    backward one after all, nor done early. (XLA's CPU compiler drops optimization barriers before
    it merges equal expressions.)
    """
    first = dy[(0,) * dy.ndim]
    return jnp.where(jnp.isnan(first), first, 0)
