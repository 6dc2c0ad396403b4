"""What the fusion attends to, read from a forward pass without changing the network."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.models.attention import CrossAttention
from avjax.models.network import Network

# The stream that a fusion's parts attend to, by how their names begin (`Fusion.parts`).
_ATTENDED = {"av": "video", "va": "audio"}

Attention = dict[str, Float[Array | np.ndarray, "p _"]]  # by stream


def fuse(
    net: Network, variables: dict[str, Any], audio: Array, video: Array
) -> tuple[Float[Array, "p k"], Attention]:
    """Returns the logits of `Network.fuse`, and the attention that each stream receives.

    Args:
      net: the network.
      variables: parameters and running statistics.
      audio: results of `Network.encode_audio`.
      video: results of `Network.encode_video`, paired with ``audio``.

    Returns:
      The logits; and by `audio` and `video` the other stream's attention to each time step, as a
      mean over heads and queries: 1 is an even share. Of `ia` it is, times a constant, the factor
      that the time step is multiplied by. Empty for networks without `CrossAttention` in parts
      whose names begin with ``av`` or ``va``.
    """

    def is_attention(module: Any, method: str) -> bool:
        return isinstance(module, CrossAttention) and method == "_attend"

    logits, state = net.apply(
        variables,
        audio,
        video,
        method="fuse",
        capture_intermediates=is_attention,
        mutable=["intermediates"],
    )
    received: dict[str, list[Array]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state.get("intermediates", {}))[0]:
        stream = _ATTENDED.get(path[0].key[:2])
        if stream and path[-1] == jax.tree_util.SequenceKey(0):  # weights [p h q k], then values
            received.setdefault(stream, []).append(leaf.mean((1, 2)) * leaf.shape[-1])
    return logits, {stream: jnp.mean(jnp.stack(parts), 0) for stream, parts in received.items()}
