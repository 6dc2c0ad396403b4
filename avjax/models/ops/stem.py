"""The network's first layers, fused for inference on CPU."""

import functools
import operator

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from avjax.models.ops.windows import taps

_LANES = 16  # floats per SIMD vector
_SUMS = 4  # independent sums: additions to a single one would wait for each other


def pooled_conv3x3(
    image: Float[Array, "h w c"],
    kernel: Float[Array, "3 3 c o"],
    offset: Float[Array, "o"],
) -> Float[Array, "h/4 w/4 o"]:
    """3x3 convolution, offset, ReLU and 3x3 max-pooling of one image; stride 2, padding 1 each.

    For one image, the map in between stays in cache. The convolution has few inputs, so
    multiply-adds over vectors of output channels cost less than gathering patches for a matrix
    product.
    """
    features = kernel.shape[-1]
    extra = -features % _LANES
    weights = jnp.pad(kernel, ((0, 0), (0, 0), (0, 0), (0, extra))).reshape(-1, features + extra)
    height, width, channels = image.shape
    windows = taps(_padded(image), height // 2, width // 2, 2)
    inputs = [tap[..., c : c + 1] for tap in windows for c in range(channels)]
    products = [value * weight for value, weight in zip(inputs, weights, strict=True)]
    sums = [functools.reduce(operator.add, products[first::_SUMS]) for first in range(_SUMS)]
    y = functools.reduce(operator.add, sums) + jnp.pad(offset, (0, extra))
    # After ReLU, zeros pad the pooling as well as -inf.
    y = jnp.maximum(y, 0)
    windows = taps(_padded(y), height // 4, width // 4, 2)
    return functools.reduce(jnp.maximum, windows)[..., :features]


def _padded(x: Float[Array, "h w c"]) -> Array:
    """Pads top and left only: windows of stride 2 over an even size never read the other sides."""
    return lax.optimization_barrier(jnp.pad(x, ((1, 0), (1, 0), (0, 0))))
