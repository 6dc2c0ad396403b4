"""Normalised maps that derivatives compute again instead of keeping them.

Batch normalisation must keep its input for the backward pass; its output is one multiply-add away
from it. Operations that read such an output keep the input too, and no second map.
"""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float


class Source(NamedTuple):
    """What a normalised map is computed from: ``x * factor + offset``, in the type of ``x``."""

    x: Float[Array, "b *space c"]
    factor: Float[Array, "c"]
    offset: Float[Array, "c"]


class Normalised(NamedTuple):
    """What batch normalisation returns.

    Attributes:
      value: the map.
      source: what it can be computed from again, or None where no derivative is wanted.
      relu: whether negative values were set to 0.
    """

    value: Float[Array, "b *space c"]
    source: Source | None = None
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


def keep(value: Array, source: Source | None) -> Source | Array:
    """What a derivative must keep to see a map again."""
    return value if source is None else source


def recall(kept: Source | Array, relu: bool, dy: Array) -> Array:
    """The map behind what `keep` returned, computed anew once ``dy`` is there."""
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
