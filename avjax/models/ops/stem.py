"""The network's first layers in one go, for inference on a CPU."""

import functools
import operator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.windows import taps

_LANES = 16  # floats that a core multiplies at once
_SUMS = 4  # side by side: additions to a single one would wait for one another


def pooled_conv3x3(
    image: Float[Array, "h w c"],
    kernel: Float[Array, "3 3 c o"],
    offset: Float[Array, "o"],
) -> Float[Array, "h/4 w/4 o"]:
    """A 3x3 convolution, an offset, ReLU, 3x3 max-pooling; both windows have stride 2, padding 1.

    For one image, so that the map between both stays in cache. The convolution multiplies and adds
    up its few inputs output by output, in whole vectors of channels: gathering patches for a matrix
    product costs more.
    """
    features = kernel.shape[-1]
    spare = -features % _LANES
    weights = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, spare))).reshape(-1, features + spare)
    height, width, channels = image.shape
    windows = taps(_padded(image), height // 2, width // 2, 2)
    inputs = [tap[..., c : c + 1] for tap in windows for c in range(channels)]
    products = [value * weight for value, weight in zip(inputs, weights, strict=True)]
    sums = [functools.reduce(operator.add, products[first::_SUMS]) for first in range(_SUMS)]
    y = functools.reduce(operator.add, sums) + jnp.pad(offset, (0, spare))
    # Zeros never exceed what ReLU leaves, so they pad the pooling as well as minus infinity.
    y = jnp.maximum(y, 0)
    windows = taps(_padded(y), height // 4, width // 4, 2)
    return functools.reduce(jnp.maximum, windows)[..., :features]


def _padded(x: Float[Array, "h w c"]) -> Array:
    """Zeros above and to the left: a window of stride 2 over an even side never reads the rest."""
    return lax.optimization_barrier(jnp.pad(x, ((1, 0), (1, 0), (0, 0))))
