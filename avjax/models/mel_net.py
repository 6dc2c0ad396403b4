"""An audio-only network on log-mel spectrograms: an ensemble of small CNNs.

Each member reads the voice's pitch and its own number of MFCCs, to make different errors.
Each is trained with its own loss; the network returns their mean log probability.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Array, Float, Int

from avjax.errors import InputError
from avjax.models.audio_cnn import ConvBlock
from avjax.models.network import Inputs, Network, cross_entropy
from avjax.models.ops import BatchNorm, Dense, Map, Rows, values

MIN_STEPS = 8  # halved three times
WIDTHS = (32, 64, 128, 64)
HIGHEST_HZ = 11025.0  # half the sample rate
PITCHES_HZ = np.geomspace(80.0, 550.0, 64)
HARMONICS_BELOW_HZ = 2000.0  # above, mel bands are wider than the spacing of harmonics
VOICED_SCORE = 7.0  # threshold: `harmonic_combs` scores about 13 in voiced sound, 2 elsewhere


def band_centres(bands: int) -> Float[np.ndarray, "bands"]:
    """Returns the mel bands' centres in hertz, on Slaney's scale: linear to 1 kHz, then log."""
    below, step = 15, np.log(6.4) / 27  # mels up to 1 kHz; log-frequency step per mel above
    highest = below + np.log(HIGHEST_HZ / 1000) / step
    mels = np.linspace(0, highest, bands + 2)[1:-1]
    return np.where(mels < below, mels * 1000 / below, 1000 * np.exp((mels - below) * step))


def harmonic_combs(bands: int) -> Float[np.ndarray, "bands pitches"]:
    """Returns one harmonic comb per pitch of `PITCHES_HZ`, to score log-mel spectra with.

    A comb peaks at the pitch's multiples, decays with frequency, has zero sum and unit norm.
    """
    hertz = band_centres(bands)[:, None]
    used = hertz < HARMONICS_BELOW_HZ
    combs = np.cos(2 * np.pi * hertz / PITCHES_HZ) * np.exp(-hertz / 1000)
    combs *= used & (hertz > PITCHES_HZ / 2)
    combs -= used * combs.sum(0) / max(used.sum(), 1)
    return combs / np.maximum(np.linalg.norm(combs, axis=0), 1e-6)


def pitch(spectra: Float[Array, "b t m"]) -> Float[Array, "b t 2"]:
    """Returns the pitch in octaves relative to the clip's mean, and the voicing in 0..1.

    Pitch is 0 where unvoiced. Relative pitch describes the intonation, not the speaker.
    """
    x = spectra.astype(jnp.promote_types(spectra.dtype, jnp.float32))
    scores = x @ jnp.asarray(harmonic_combs(x.shape[-1]), x.dtype)
    octaves = jax.nn.softmax(2 * scores) @ jnp.asarray(np.log2(PITCHES_HZ), x.dtype)
    voice = jax.nn.sigmoid(scores.max(-1) - VOICED_SCORE)
    mean = (voice * octaves).sum(1, keepdims=True) / (voice.sum(1, keepdims=True) + 1e-3)
    return jnp.stack([voice * (octaves - mean), voice], axis=-1).astype(spectra.dtype)


class CepstralCNN(nn.Module):
    """A member: four convolutions with pooling over time.

    Attributes:
      num_classes: number of emotions.
      coefficients: number of MFCCs to read, from the first.
    """

    num_classes: int
    coefficients: int

    @nn.compact
    def __call__(self, mfcc: Array, voice: Float[Array, "b t 2"], rows: Rows | None) -> Array:
        """Returns logits ``[b k]`` of MFCCs ``[b t m]`` and the voice's pitch."""
        x = Map(jnp.concatenate([mfcc[..., : self.coefficients], voice], axis=-1), rows=rows)
        x = BatchNorm(name="standardise")(x)
        for number, width in enumerate(WIDTHS):
            x = ConvBlock(width, padding=1, name=f"conv1d_{number}")(x)
            if number < len(WIDTHS) - 1:
                x = _halve_time(x)
        return Dense(self.num_classes, name="classifier")(values(x).mean(1))


def _halve_time(m: Map) -> Map:
    """Max-pools time by 2; the first step wins ties, and an odd last step is dropped.

    Not ``max`` over an axis: its gradient compares recomputed values with the maximum, and is lost
    where they round differently.
    """
    x = values(m)
    end = x.shape[1] // 2 * 2
    first, second = x[:, 0:end:2], x[:, 1:end:2]
    return Map(jnp.where(second > first, second, first), rows=m.rows)


class MelNet(Network):
    """An ensemble of small CNNs on log-mel spectrograms.

    Attributes:
      num_classes: number of emotions.
      num_mels: mel bands of the spectrograms.
      coefficients: number of MFCCs for each member.
    """

    num_classes: int = 8
    num_mels: int = 128
    coefficients: Sequence[int] = (10, 40)

    @property
    def inputs(self) -> Inputs:
        """Log-mel spectrograms."""
        return Inputs(("audio",), "log_mel", self.num_mels)

    def check(self) -> None:
        """Raises InputError if a member's number of MFCCs is not in 1..num_mels."""
        numbers, mels = self.coefficients, self.num_mels
        if not numbers or not all(1 <= number <= mels for number in numbers):
            raise InputError(
                f"config.model.coefficients={tuple(numbers)} for {mels} mel bands; name a number "
                f"of MFCCs from 1 to {mels} for every member"
            )

    def setup(self) -> None:
        self.members = [CepstralCNN(self.num_classes, number) for number in self.coefficients]

    def audio_stream(self, audio: Map) -> Map:
        """Returns the members' logits ``[b members k]`` of spectrograms ``[b t m]``."""
        spectra = values(audio)
        if spectra.shape[1] < MIN_STEPS:
            raise InputError(
                f"{spectra.shape[1]} steps of sound are too few: the network halves them three "
                f"times and needs at least {MIN_STEPS} (0.17 s of audio)"
            )
        basis = scipy.fft.dct(np.eye(spectra.shape[-1]), norm="ortho")  # DCT-II, as for MFCCs
        inputs = spectra @ jnp.asarray(basis, spectra.dtype), pitch(spectra), audio.rows
        return Map(jnp.stack([member(*inputs) for member in self.members], 1), rows=audio.rows)

    def merge(self, audio: Map, video: Map) -> Float[Array, "b members k"]:
        """Returns the members' logits."""
        return values(audio)

    def losses(
        self, outputs: Float[Array, "p members k"], labels: Int[Array, "p"]
    ) -> Float[Array, "p"]:
        """Returns the members' mean loss."""
        return cross_entropy(outputs, labels).mean(1)

    def logits(self, outputs: Float[Array, "p members k"]) -> Float[Array, "p k"]:
        """Returns the members' mean log probabilities."""
        return jax.nn.log_softmax(outputs).mean(1)
