"""Reshaping of maps: clips to images and back, rows, quarters."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from avjax.models.ops.frames import StoredFrames
from avjax.models.ops.map import Dimmed, Map, Rows, values


def quarters(m: Map) -> tuple[Map, Map, Map, Map]:
    """Splits ``[b h w c]`` into top left, bottom left, top right and bottom right."""
    left, right = jnp.split(values(m), 2, axis=2)
    pieces = [*jnp.split(left, 2, axis=1), *jnp.split(right, 2, axis=1)]
    top_left, bottom_left, top_right, bottom_right = (Map(x, rows=m.rows) for x in pieces)
    return top_left, bottom_left, top_right, bottom_right


def join_quarters(parts: Sequence[Map]) -> Map:
    """Inverse of `quarters`."""
    arrays = [values(part) for part in parts]
    columns = [jnp.concatenate(arrays[:2], axis=1), jnp.concatenate(arrays[2:], axis=1)]
    return Map(jnp.concatenate(columns, axis=2), rows=parts[0].rows)


def as_images(clips: Map) -> Map:
    """Flattens clips ``[b n h w c]`` into images ``[b*n h w c]``.

    The black clip after the dimmed ones becomes a single image: all its frames are equal.
    """
    x, length = clips.x, clips.shape[1]
    if isinstance(x, StoredFrames):
        return Map(x.images())
    images = x.reshape(-1, *x.shape[2:])
    if clips.rows is None or clips.dimmed is None:
        rows = None if clips.rows is None else clips.rows.repeat(length)
        return Map(images, rows=rows)
    weight = clips.rows.weight
    weight = jnp.append(jnp.repeat(weight[:-1], length), weight[-1] * length)
    dimmed = Dimmed(jnp.repeat(clips.dimmed.brightness, length, axis=1))
    return Map(images, rows=Rows(weight, clips.rows.axis_name), dimmed=dimmed)


def as_clips(images: Map, length: int) -> Map:
    """Groups image features ``[b*n c]`` by clip, ``[b n c]``; undoes `as_images`."""
    x, rows = values(images), images.rows
    if rows is None:  # the number of images may be a symbol, as in exported programs
        return Map(x.reshape(-1, length, x.shape[-1]))
    end = len(x) // length * length
    clips = x[:end].reshape(-1, length, x.shape[-1])
    weight = rows.weight[:end:length]
    if end < len(x):  # a black clip
        clips = jnp.concatenate([clips, jnp.broadcast_to(x[-1], (1, length, x.shape[-1]))])
        weight = jnp.append(weight, rows.weight[-1] / length)
    return Map(clips, rows=Rows(weight, rows.axis_name))


def take(m: Map, index: np.ndarray, rows: Rows | None) -> Map:
    """Gathers a map's rows at static indices; ``rows`` are the result's."""
    return Map(jnp.take(values(m), index, axis=0), rows=rows)
