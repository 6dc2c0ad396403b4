"""Cross attention between the two streams (paper section 3; reference `transformer_timm.py`)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.ops import Dense, layer_norm


class CrossAttention(nn.Module):
    """Multi-head attention with queries from one stream, keys and values from the other.

    The `ia` fusion uses only `weights`. There, checkpoints hold ``proj`` and the value half of
    ``kv``, but the output does not depend on them.
    """

    features: int
    num_heads: int

    def setup(self) -> None:
        if self.num_heads < 1 or self.features % self.num_heads:
            raise InputError(
                f"num_heads={self.num_heads} does not divide the attention width {self.features}; "
                "choose a divisor of both streams' widths, such as 1, 2, 4 or 8"
            )
        self.q = Dense(self.features, use_bias=False)
        self.kv = Dense(2 * self.features, use_bias=False)
        self.proj = Dense(self.features)

    def __call__(
        self, query: Float[Array, "b tq cq"], key: Float[Array, "b tk ck"]
    ) -> Float[Array, "b tq c"]:
        """Attends from ``query`` over ``key`` and projects the concatenated heads."""
        weights, values = self._attend(query, key)
        heads = jnp.einsum("bhqk,bkhd->bqhd", weights.astype(values.dtype), values)
        return self.proj(heads.reshape(*heads.shape[:2], self.features))

    def weights(
        self, query: Float[Array, "b tq cq"], key: Float[Array, "b tk ck"]
    ) -> Float[Array, "b h tq tk"]:
        """Returns the softmax weights of each query over the keys, per head."""
        if self.is_initializing():
            self.proj(jnp.zeros((1, self.features), query.dtype))
        return self._attend(query, key)[0]

    def _attend(self, query: Array, key: Array) -> tuple[Array, Array]:
        heads = (self.num_heads, self.features // self.num_heads)
        q = self.q(query).reshape(*query.shape[:2], *heads)
        kv = self.kv(key).reshape(*key.shape[:2], 2, *heads)
        logits = jnp.einsum("bqhd,bkhd->bhqk", q, kv[:, :, 0]) * heads[1] ** -0.5
        wide = jnp.promote_types(logits.dtype, jnp.float32)
        return jax.nn.softmax(logits.astype(wide), axis=-1), kv[:, :, 1]


class AttentionBlock(nn.Module):
    """LayerNorms, cross attention (no residual around it), then a residual MLP."""

    features: int
    num_heads: int

    def setup(self) -> None:
        self.norm1_q = layer_norm()
        self.norm1_k = layer_norm()
        self.attn = CrossAttention(self.features, self.num_heads)
        self.norm2 = layer_norm()
        self.mlp_fc1 = Dense(2 * self.features)
        self.mlp_fc2 = Dense(self.features)

    def __call__(
        self, query: Float[Array, "b tq cq"], key: Float[Array, "b tk ck"]
    ) -> Float[Array, "b tq c"]:
        """Returns the query stream, updated from the key stream."""
        dtype = query.dtype  # the norms return float32
        x = self.attn(self.norm1_q(query).astype(dtype), self.norm1_k(key).astype(dtype))
        hidden = jax.nn.gelu(self.mlp_fc1(self.norm2(x).astype(dtype)), approximate=False)
        return x + self.mlp_fc2(hidden)
