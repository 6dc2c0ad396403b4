"""Rows and quarters of maps: clips and their images, pairs of rows, a map in four."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from avjax.models.ops.frames import StoredFrames
from avjax.models.ops.map import Dimmed, Map, Rows, values


def quarters(m: Map) -> tuple[Map, Map, Map, Map]:
    """Top left, bottom left, top right, bottom right of ``[b h w c]``."""
    left, right = jnp.split(values(m), 2, axis=2)
    cut = [*jnp.split(left, 2, axis=1), *jnp.split(right, 2, axis=1)]
    top_left, bottom_left, top_right, bottom_right = (Map(x, rows=m.rows) for x in cut)
    return top_left, bottom_left, top_right, bottom_right


def join_quarters(parts: Sequence[Map]) -> Map:
    """The map whose `quarters` these are."""
    arrays = [values(part) for part in parts]
    columns = [jnp.concatenate(arrays[:2], axis=1), jnp.concatenate(arrays[2:], axis=1)]
    return Map(jnp.concatenate(columns, axis=2), rows=parts[0].rows)


def as_images(clips: Map) -> Map:
    """The frames of clips ``[b n h w c]`` one by one, ``[b*n h w c]``.

    The black clip that dimmed ones end in is one image, for all its frames are the same.
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
    """Features of images ``[b*n c]`` as those of clips ``[b n c]``; undoes `as_images`."""
    x, rows = values(images), images.rows
    whole = len(x) // length * length
    clips = x[:whole].reshape(-1, length, x.shape[-1])
    if rows is None:
        return Map(clips)
    weight = rows.weight[:whole:length]
    if whole < len(x):  # a black clip
        clips = jnp.concatenate([clips, jnp.broadcast_to(x[-1], (1, length, x.shape[-1]))])
        weight = jnp.append(weight, rows.weight[-1] / length)
    return Map(clips, rows=Rows(weight, rows.axis_name))


def take(m: Map, index: np.ndarray, rows: Rows | None) -> Map:
    """The rows of a map at static positions, with the multiplicities that they have there."""
    return Map(jnp.take(values(m), index, axis=0), rows=rows)
