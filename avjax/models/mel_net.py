"""A network of sound alone that reads log-mel spectra: a few small residual CNNs that vote.

Members differ in their initial values and dropout only. Each learns from its own loss; their mean
log probability is the network's answer.
"""

from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.audio_visual import Pairing
from avjax.models.layers import BatchNorm, Dense, Statistics

MIN_STEPS = 8  # halved three times, one is left
WIDTHS = (64, 80, 96)
MEMBERS = 3
_VARIANCE = 1e-5  # keeps the deviation's gradient finite where a feature is constant


def _he_normal(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    """Normal with variance 2 / fan-in, which keeps the signal's size through ReLU."""
    fan_in = shape[0] * shape[1]
    return jax.random.normal(key, shape, dtype) * jnp.asarray((2 / fan_in) ** 0.5, dtype)


class MelConv(nn.Module):
    """1-D convolution of odd size without bias, time kept, then BatchNorm and maybe ReLU."""

    features: int
    size: int = 3
    relu: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], stats: Statistics) -> Float[Array, "b t o"]:
        shape = (self.size, x.shape[-1], self.features)
        kernel = self.param("kernel", _he_normal, shape)
        x = ops.conv1d(x, kernel, padding=self.size // 2)
        return BatchNorm(relu=self.relu, name="bn")(x, stats)


class ResidualBlock(nn.Module):
    """Two convolutions around which the input passes, by a 1x1 convolution where widths differ."""

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "b t i"], stats: Statistics) -> Float[Array, "b t o"]:
        bypass = x
        if x.shape[-1] != self.features:
            bypass = MelConv(self.features, 1, relu=False, name="bypass")(x, stats)
        y = MelConv(self.features, name="conv_0")(x, stats)
        y = MelConv(self.features, relu=False, name="conv_1")(y, stats)
        return nn.relu(bypass + y)


class MelCNN(nn.Module):
    """One member: two steps at once, then residual blocks; mean and deviation over time."""

    num_classes: int
    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t m"], stats: Statistics, keys: Array | None
    ) -> Float[Array, "b k"]:
        x = BatchNorm(name="standardise")(x, stats)
        x = x[:, : x.shape[1] // 2 * 2].reshape(x.shape[0], x.shape[1] // 2, -1)
        x = MelConv(WIDTHS[0], name="stem")(x, stats)
        for number, width in enumerate(WIDTHS):
            if number < 2:
                x = _halve_time(x)
            x = ResidualBlock(width, name=f"block_{number}")(x, stats)
        mean = x.mean(1)
        variance = jnp.square(x - mean[:, None]).mean(1)
        pooled = jnp.concatenate([mean, jnp.sqrt(variance + _VARIANCE)], axis=-1)
        if keys is not None:
            kept = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - self.dropout, pooled.shape[1:]))
            pooled = jnp.where(kept(keys), pooled / (1 - self.dropout), 0)
        return Dense(self.num_classes, name="classifier")(pooled)


def _halve_time(x: Float[Array, "b t c"]) -> Float[Array, "b t//2 c"]:
    """The larger of every two steps, the first one of equals; an odd last one is dropped.

    Not ``max`` over an axis: its derivative compares recomputed values with the maximum, and where
    they round otherwise the gradient is lost.
    """
    end = x.shape[1] // 2 * 2
    first, second = x[:, 0:end:2], x[:, 1:end:2]
    return jnp.where(second > first, second, first)


class MelNet(nn.Module):
    """Log-mel spectra to emotions; the methods are those of `AudioVisualNet`.

    Attributes:
      num_classes: number of emotions.
      num_mels: bands of the spectra.
      dropout: share of the pooled features that a training step leaves out.
    """

    num_classes: int = 8
    num_mels: int = 64
    dropout: float = 0.3
    streams: ClassVar = ("audio",)
    sound: ClassVar = "log_mel"

    @property
    def sound_width(self) -> int:
        """Values of a step of sound."""
        return self.num_mels

    def setup(self) -> None:
        self.members = [MelCNN(self.num_classes, self.dropout) for _ in range(MEMBERS)]

    def __call__(
        self,
        mfcc: Float[Array, "b t m"],
        frames: Float[Array, "b n h w 3"],
        train: bool = False,
        *,
        pairing: Pairing | None = None,
        axis_name: str | None = None,
        keys: Array | None = None,
    ) -> Float[Array, "b k"] | Float[Array, "b members k"]:
        """Logits; of every member with ``train``, else the members' mean log probabilities.

        Args:
          mfcc: log-mel spectra, in the place of MFCCs.
          frames: not read.
          train: batch statistics instead of running ones.
          pairing: multiplicity of the rows.
          axis_name: mapped device axis, or None.
          keys: one a row for dropout, ``[b]``; without them nothing is dropped.
        """
        weight = None if pairing is None else pairing.audio_weight
        logits = self._member_logits(mfcc, Statistics(train, weight, axis_name), keys)
        if pairing is not None:
            logits = jnp.take(logits, pairing.audio_rows, axis=0)
        return logits if train else jax.nn.log_softmax(logits).mean(1)

    def encode_audio(self, mfcc: Float[Array, "b t m"]) -> Float[Array, "b members k"]:
        """Logits of every member."""
        return self._member_logits(mfcc, Statistics(), None)

    def encode_video(self, frames: Float[Array, "b n h w 3"]) -> Float[Array, "b 0"]:
        """Nothing."""
        return jnp.zeros((frames.shape[0], 0), frames.dtype)

    def fuse(
        self, audio: Float[Array, "b members k"], video: Float[Array, "b 0"]
    ) -> Float[Array, "b k"]:
        """The members' mean log probabilities."""
        return jax.nn.log_softmax(audio).mean(1)

    def _member_logits(self, x: Array, stats: Statistics, keys: Array | None) -> Array:
        if x.shape[1] < MIN_STEPS:
            raise InputError(
                f"{x.shape[1]} steps of sound are too few: the network halves them three times and "
                f"needs at least {MIN_STEPS} (0.19 s of audio)"
            )
        own: list[Array | None] = [None] * len(self.members)
        if keys is not None:
            own = [jax.vmap(jax.random.fold_in, (0, None))(keys, i) for i in range(len(own))]
        logits = [member(x, stats, k) for member, k in zip(self.members, own, strict=True)]
        return jnp.stack(logits, axis=1)
