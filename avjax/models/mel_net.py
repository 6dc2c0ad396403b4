"""A network of sound alone that reads log-mel spectra: small CNNs that vote.

Each member sees the voice's pitch, and MFCCs of its own number: networks that see different things
err differently. Each learns from its own loss; their mean log probability is the network's answer.
"""

from collections.abc import Sequence
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import jax.scipy.fft
import numpy as np
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.audio_cnn import ConvBlock
from avjax.models.audio_visual import Pairing
from avjax.models.frames import Frames
from avjax.models.layers import BatchNorm, Dense, Statistics

MIN_STEPS = 8  # halved three times, one is left
WIDTHS = (32, 64, 128, 64)
HIGHEST_HZ = 11025.0  # of the spectra: half the sample rate
PITCHES_HZ = np.geomspace(80.0, 550.0, 64)
HARMONICS_BELOW_HZ = 2000.0  # further up the bands are wider than harmonics are apart
VOICED_SCORE = 7.0  # of `harmonic_combs`: about 13 in voiced sound, 2 elsewhere


def band_centres(bands: int) -> Float[np.ndarray, "bands"]:
    """Hertz of the spectra's mel bands: Slaney's scale, linear up to 1 kHz, then logarithmic."""
    below, step = 15, np.log(6.4) / 27  # mels up to 1 kHz; a mel's share of an e-fold above
    highest = below + np.log(HIGHEST_HZ / 1000) / step
    mels = np.linspace(0, highest, bands + 2)[1:-1]
    return np.where(mels < below, mels * 1000 / below, 1000 * np.exp((mels - below) * step))


def harmonic_combs(bands: int) -> Float[np.ndarray, "bands pitches"]:
    """What a log-mel spectrum is projected on to see how well each of `PITCHES_HZ` explains it.

    A comb has its teeth at a pitch's multiples, weaker with frequency, sums to 0 and has length 1.
    """
    hertz = band_centres(bands)[:, None]
    used = hertz < HARMONICS_BELOW_HZ
    combs = np.cos(2 * np.pi * hertz / PITCHES_HZ) * np.exp(-hertz / 1000)
    combs *= used & (hertz > PITCHES_HZ / 2)
    combs -= used * combs.sum(0) / max(used.sum(), 1)
    return combs / np.maximum(np.linalg.norm(combs, axis=0), 1e-6)


def pitch(spectra: Float[Array, "b t m"]) -> Float[Array, "b t 2"]:
    """The voice's pitch in octaves about the clip's mean, 0 where there is none, and its presence.

    Presence lies between 0 and 1. Relative pitch tells how a sentence moves, not who speaks.
    """
    x = spectra.astype(jnp.promote_types(spectra.dtype, jnp.float32))
    scores = x @ jnp.asarray(harmonic_combs(x.shape[-1]), x.dtype)
    octaves = jax.nn.softmax(2 * scores) @ jnp.asarray(np.log2(PITCHES_HZ), x.dtype)
    voice = jax.nn.sigmoid(scores.max(-1) - VOICED_SCORE)
    mean = (voice * octaves).sum(1, keepdims=True) / (voice.sum(1, keepdims=True) + 1e-3)
    return jnp.stack([voice * (octaves - mean), voice], axis=-1).astype(spectra.dtype)


class CepstralCNN(nn.Module):
    """One member: four convolutions, time halved between them and averaged at the end.

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
        self,
        mfcc: Float[Array, "b t m"],
        voice: Float[Array, "b t 2"],
        stats: Statistics,
        keys: Array | None,
    ) -> Float[Array, "b k"]:
        x = jnp.concatenate([mfcc[..., : self.coefficients], voice], axis=-1)
        x = BatchNorm(name="standardise")(x, stats)
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
        frames: Frames,
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

    def encode_video(self, frames: Array) -> Float[Array, "b 0"]:
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
        inputs = x @ basis.astype(x.dtype), pitch(x)
        logits = [member(*inputs, stats, k) for member, k in zip(self.members, own, strict=True)]
        return jnp.stack(logits, axis=1)
