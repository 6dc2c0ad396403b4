"""Forms for inference that are no single operation: decorators of a module's methods.

Each calls the method itself in training, while parameters are made, and where it does not suit.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.batch_norm import running_affine
from avjax.models.ops.forms import choose
from avjax.models.ops.map import Map, values

# Images that a CPU takes through the backbone together where no statistics tie them to the others:
# few enough for its caches, and for memory that an allocator keeps between two calls; enough for
# its cores.
IMAGES_AT_ONCE = 6


def in_small_batches(method: Callable[[Any, Map], Map]) -> Callable[[Any, Map], Map]:
    """Runs a method, ``[b ...] -> [b c]``, on at most `IMAGES_AT_ONCE` images at a time on CPUs."""

    @functools.wraps(method)
    def wrapped(module: nn.Module, images: Map) -> Map:
        if images.rows is not None or module.is_initializing():
            return method(module, images)
        net, variables = module.unbind()

        def at_once(x: Any) -> Array:
            return net.apply(variables, Map(x), method=method).x

        in_parts = functools.partial(_in_parts, at_once)
        return Map(choose("inference", few_images=in_parts, at_once=at_once)(images.x))

    return wrapped


def _in_parts(function: Callable[[Any], Array], images: Any) -> Array:
    """Applies ``function`` to consecutive chunks of at most `IMAGES_AT_ONCE` images."""
    count = images.shape[0]
    parts = -(-count // IMAGES_AT_ONCE)
    spare = -count % parts

    def split(x: Array | np.ndarray) -> Array:
        x = jnp.pad(x, ((0, spare),) + ((0, 0),) * (x.ndim - 1))
        return x.reshape(parts, -1, *x.shape[1:])

    y = lax.map(function, jax.tree.map(split, images))
    return y.reshape(count + spare, *y.shape[2:])[:count]


def quarters_at_once(method: Callable[[Any, Map], Map]) -> Callable[[Any, Map], Map]:
    """Takes all quarters of a map through two depthwise layers without cutting any out.

    The method's module holds ``conv{quarter}_{layer}`` and ``bn{quarter}_{layer}``; quarters are
    those of `avjax.models.ops.spatial.quarters`.
    """

    @functools.wraps(method)
    def wrapped(module: nn.Module, m: Map) -> Map:
        if m.rows is not None or module.is_initializing():
            return method(module, m)
        x = values(m)
        images, height, width, channels = x.shape
        y = x.reshape(images, 2, height // 2, 2, width // 2, channels)
        y = quartered_conv3x3(y, *_affine_quarters(module.variables, 1), stride=2)
        y = quartered_conv3x3(y, *_affine_quarters(module.variables, 2), stride=1)
        return Map(y.reshape(images, height // 2, width // 2, -1))

    return wrapped


def _affine_quarters(
    variables: Mapping[str, Any], layer: int
) -> tuple[Float[Array, "3 3 2 2 o"], Float[Array, "2 2 o"]]:
    """Kernels and offsets of a layer's quarters, batch normalisation included."""
    params, stats = variables["params"], variables["batch_stats"]
    kernels, offsets = [], []
    for quarter in (1, 3, 2, 4):  # by rows
        norm = f"bn{quarter}_{layer}"
        scale, offset = running_affine(**params[norm], **stats[norm])
        kernels.append(params[f"conv{quarter}_{layer}"]["kernel"] * scale)
        offsets.append(offset)
    kernel = jnp.stack(kernels, axis=2).reshape(3, 3, 2, 2, -1)
    return kernel, jnp.stack(offsets).reshape(2, 2, -1)


def quartered_conv3x3(
    x: Float[Array, "b 2 h 2 w c"],
    kernel: Float[Array, "3 3 2 2 o"],
    offset: Float[Array, "2 2 o"],
    stride: int,
) -> Float[Array, "b 2 oh 2 ow o"]:
    """3x3 depthwise convolution, an offset and ReLU; each quarter has its own and is padded by 1.

    Args:
      x: the map, its height and width split into halves; a map of whole rows and columns again,
        once reshaped, so that no quarter is cut out or put back.
      kernel: windows of each quarter; output o reads input ``o // (outputs // c)``.
      offset: of each quarter.
      stride: 1, or 2 for even heights and widths.
    """
    padding = ((0, 0), (0, 0), (1, 1), (0, 0), (1, 1), (0, 0))
    padded = lax.optimization_barrier(jnp.pad(x, padding))
    height, width, channels = x.shape[2] // stride, x.shape[4] // stride, x.shape[5]
    weights = kernel[:, :, :, None, :, None].reshape(3, 3, 2, 1, 2, 1, channels, -1)
    y = offset[:, None, :, None].reshape(2, 1, 2, 1, channels, -1)
    for i in range(3):
        for j in range(3):
            rows = slice(i, i + stride * (height - 1) + 1, stride)
            columns = slice(j, j + stride * (width - 1) + 1, stride)
            y = y + padded[:, :, rows, :, columns, :, None] * weights[i, j]
    return jnp.maximum(y, 0).reshape(x.shape[0], 2, height, 2, width, -1)
