"""ShuffleNetV2's channel shuffles, planned ahead so that hardly a channel is moved.

A unit of stride 1 keeps the first half of its channels, maps the second, and lets the channels of
both alternate. The next unit sees halves of that, and so on. Which unit reads which channel of
which map is known beforehand, and always a range of each: so maps stay where they are, each unit
gathers its ranges, and its first layer takes them in whatever order they come.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int, UInt32


class Reading(NamedTuple):
    """Which channels a unit reads.

    Attributes:
      ranges: map, first channel and behind the last, by map.
      order: place among the unit's inputs of each channel of all ranges, one after the other.
    """

    ranges: tuple[tuple[int, int, int], ...]
    order: UInt32[np.ndarray, "c"]


class Plan(NamedTuple):
    """How the units of a stage read one another's maps.

    Maps 0 and 1 are the first unit's two branches; each other unit adds one.

    Attributes:
      units: what each unit but the first reads.
      end: what is left for the layer behind the last, of twice the width.
      cuts: by map, channels at which it is cut for its readers.
    """

    units: tuple[Reading, ...]
    end: Reading
    cuts: tuple[tuple[int, ...], ...]


@functools.cache
def plan(units: int, half: int) -> Plan:
    """The plan of a stage of so many units whose maps have ``half`` channels."""

    def channels(index: int) -> np.ndarray:
        return np.stack([np.full(half, index), np.arange(half)], axis=1)

    def shuffled(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return np.stack([first, second], axis=1).reshape(-1, 2)

    readings = []
    order = shuffled(channels(0), channels(1))
    for index in range(2, units + 1):
        kept, read = np.split(order, 2)
        readings.append(_reading(read))
        order = shuffled(kept, channels(index))
    readings.append(_reading(order))
    ranges = [part for reading in readings for part in reading.ranges]
    cuts = [sorted(first for i, first, _ in ranges if i == index) for index in range(units + 1)]
    return Plan(tuple(readings[:-1]), readings[-1], tuple(tuple(firsts[1:]) for firsts in cuts))


def _reading(read: Int[np.ndarray, "c 2"]) -> Reading:
    """Of map and channel of every input of a unit."""
    found = [read[read[:, 0] == index, 1] for index in range(read[:, 0].max() + 1)]
    ranges = [(i, int(at[0]), int(at[-1]) + 1) for i, at in enumerate(found) if at.size]
    # Unsigned: JAX takes signed indices for 32 bits in a 64-bit program once it has seen them so.
    return Reading(tuple(ranges), np.argsort(read[:, 0], kind="stable").astype(np.uint32))


Parts: TypeAlias = dict[int, Array]  # of a map, by first channel


def cut(whole: Float[Array, "*b c"], cuts: Sequence[int]) -> Parts:
    """Cuts a map for its readers; together the parts' derivatives are the whole one's."""
    return dict(zip((0, *cuts), _split(whole, tuple(cuts)), strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _split(x: Array, cuts: tuple[int, ...]) -> list[Array]:
    return jnp.split(x, cuts, axis=-1)


def _split_backward(cuts: tuple[int, ...], _: None, parts: list[Array]) -> tuple[Array]:
    del cuts
    # Put together first: to choose a part for each value, as XLA would further on, is slow on CPUs.
    return (lax.optimization_barrier(jnp.concatenate(parts, axis=-1)),)


_split.defvjp(lambda x, cuts: (_split(x, cuts), None), _split_backward)


def gathered(maps: Sequence[Parts], reading: Reading) -> Float[Array, "*b i"]:
    """The ranges that a unit reads, one after the other."""
    return jnp.concatenate([maps[i][first] for i, first, _ in reading.ranges], axis=-1)


def in_order(maps: Sequence[Parts], reading: Reading) -> Array:
    """The channels that a unit reads as shuffling would have left them."""
    source = np.concatenate([np.full(last - first, i) for i, first, last in reading.ranges])
    channel = np.concatenate([np.arange(last - first) for _, first, last in reading.ranges])
    firsts = {i: first for i, first, _ in reading.ranges}
    places = np.argsort(reading.order)
    source, channel = source[places], channel[places]

    def merged(places: np.ndarray) -> Array:
        """Channels that alternate between one map, at odd places, and others."""
        i, inner = source[places[0]], channel[places]
        if np.all(source[places] == i):
            return maps[i][firsts[i]][..., inner[0] : inner[-1] + 1]
        even, odd = merged(places[::2]), merged(places[1::2])
        if even.shape[-1] > odd.shape[-1]:
            odd = jnp.pad(odd, [(0, 0)] * (odd.ndim - 1) + [(0, 1)])
        alternating = jnp.stack([even, odd], axis=-1).reshape(*even.shape[:-1], -1)
        return alternating[..., : len(places)]

    return lax.optimization_barrier(merged(np.arange(len(source))))
