"""The audio network: four unpadded convolutions over MFCC (reference `AudioCNNPool`)."""

import flax.linen as nn
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models import ops
from avjax.models.layers import INFERENCE, BatchNorm, Conv1d, Dense, Statistics

MIN_STEPS = 13  # each of the four blocks takes three steps


class ConvBlock(nn.Module):
    """Conv1d of kernel 3, BatchNorm, ReLU and, where ``pool``, MaxPool1d(2, stride 1)."""

    features: int
    padding: int = 0
    pool: bool = False

    def setup(self) -> None:
        self.conv = Conv1d(self.features, self.padding)
        self.bn = BatchNorm(relu=True)

    def __call__(self, x: Float[Array, "b t i"], stats: Statistics) -> Float[Array, "b u o"]:
        """Maps a sequence; time shrinks by 2 without padding and by 1 more with pooling."""
        x = self.bn(self.conv(x), stats)
        return ops.max_pool_time(x) if self.pool else x


class AudioCNN(nn.Module):
    """MFCC to features, in the two stages between which the modalities may meet."""

    num_classes: int

    def setup(self) -> None:
        self.conv1d_0 = ConvBlock(64, pool=True)
        self.conv1d_1 = ConvBlock(128, pool=True)
        self.conv1d_2 = ConvBlock(256, pool=True)
        self.conv1d_3 = ConvBlock(128, pool=True)
        self.classifier_1 = Dense(self.num_classes)

    def stage1(self, mfcc: Float[Array, "b t 10"], stats: Statistics) -> Float[Array, "b t-6 128"]:
        """First two blocks: 156 MFCC steps become 150."""
        if mfcc.shape[1] < MIN_STEPS:
            raise InputError(
                f"{mfcc.shape[1]} MFCC steps are too few: the unpadded convolutions need at least "
                f"{MIN_STEPS} (0.28 s of audio)"
            )
        return self.conv1d_1(self.conv1d_0(mfcc, stats), stats)

    def stage2(self, x: Float[Array, "b t 128"], stats: Statistics) -> Float[Array, "b t-6 128"]:
        """Last two blocks: 150 steps become 144."""
        return self.conv1d_3(self.conv1d_2(x, stats), stats)

    def classify(self, x: Float[Array, "b t 128"]) -> Float[Array, "b k"]:
        """Mean over time and the audio model's own classifier."""
        return self.classifier_1(x.mean(1))

    def __call__(
        self, mfcc: Float[Array, "b t 10"], stats: Statistics = INFERENCE
    ) -> Float[Array, "b k"]:
        """Logits of the audio model alone."""
        return self.classify(self.stage2(self.stage1(mfcc, stats), stats))
