"""A network of sound alone that reads log-mel spectra: small CNNs of MFCCs that vote.

Each member takes cepstral coefficients of its own number from the spectrum: few of them tell the
coarse shape of the vocal tract, many of them pitch as well, and networks that see different things
err differently. Each learns from its own loss; their mean log probability is the network's answer.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.fft
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.audio_cnn import ConvBlock
from avjax.models.audio_visual import Pairing
from avjax.models.layers import BatchNorm, Dense, Statistics

MIN_STEPS = 8  # halved three times, one is left
WIDTHS = (32, 64, 128, 64)


class CepstralCNN(nn.Module):
    """One member: standardised MFCCs, four convolutions, time halved between them and averaged.

    Attributes:
      num_classes: number of emotions.
      coefficients: how many MFCCs are read, from the first one.
      dropout: share of the pooled features that a training step leaves out.
    """

    num_classes: int
    coefficients: int
    dropout: float

    @nn.compact
    def __call__(
        self, mfcc: Float[Array, "b t m"], stats: Statistics, keys: Array | None
    ) -> Float[Array, "b k"]:
        x = BatchNorm(name="standardise")(mfcc[..., : self.coefficients], stats)
        for number, width in enumerate(WIDTHS):
            x = ConvBlock(width, padding=1, name=f"conv1d_{number}")(x, stats)
            if number < len(WIDTHS) - 1:
                x = _halve_time(x)
        pooled = x.mean(1)
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
      coefficients: number of MFCCs of each member.
      dropout: share of the pooled features that a training step leaves out.
    """

    num_classes: int = 8
    num_mels: int = 128
    coefficients: Sequence[int] = (10, 40)
    dropout: float = 0.0
    streams: ClassVar = ("audio",)
    sound: ClassVar = "log_mel"

    @property
    def sound_width(self) -> int:
        """Values of a step of sound."""
        return self.num_mels

    def setup(self) -> None:
        self.members = [
            CepstralCNN(self.num_classes, number, self.dropout) for number in self.coefficients
        ]

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
        basis = jax.scipy.fft.dct(jnp.eye(x.shape[-1]), norm="ortho")  # of type 2, as MFCCs are
        mfcc = x @ basis.astype(x.dtype)
        logits = [member(mfcc, stats, k) for member, k in zip(self.members, own, strict=True)]
        return jnp.stack(logits, axis=1)
