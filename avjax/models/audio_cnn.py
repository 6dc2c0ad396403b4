"""The audio network: four unpadded convolutions over MFCC (reference `AudioCNNPool`)."""

import flax.linen as nn
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.ops import BatchNorm, Conv1d, Dense, Map, max_pool_time, relu, values

MIN_STEPS = 13  # each of the four blocks takes three steps


class ConvBlock(nn.Module):
    """Conv1d of kernel 3, BatchNorm, ReLU and, where ``pool``, MaxPool1d(2, stride 1)."""

    features: int
    padding: int = 0
    pool: bool = False

    def setup(self) -> None:
        self.conv = Conv1d(self.features, self.padding)
        self.bn = BatchNorm()

    def __call__(self, x: Map) -> Map:
        """Maps ``[b t i]``; time shrinks by 2 without padding and by 1 more with pooling."""
        x = relu(self.bn(self.conv(x)))
        return max_pool_time(x) if self.pool else x


class AudioCNN(nn.Module):
    """MFCC to features, in the two stages between which the modalities may meet."""

    num_classes: int

    def setup(self) -> None:
        self.conv1d_0 = ConvBlock(64, pool=True)
        self.conv1d_1 = ConvBlock(128, pool=True)
        self.conv1d_2 = ConvBlock(256, pool=True)
        self.conv1d_3 = ConvBlock(128, pool=True)
        self.classifier_1 = Dense(self.num_classes)

    def stage1(self, mfcc: Map) -> Map:
        """The first two blocks: 156 MFCC steps ``[b t 10]`` become 150, ``[b t-6 128]``.

        Raises:
          InputError: too few steps.
        """
        if mfcc.shape[1] < MIN_STEPS:
            raise InputError(
                f"{mfcc.shape[1]} MFCC steps are too few: the unpadded convolutions need at least "
                f"{MIN_STEPS} (0.28 s of audio)"
            )
        return self.conv1d_1(self.conv1d_0(mfcc))

    def stage2(self, x: Map) -> Map:
        """The last two blocks: 150 steps ``[b t 128]`` become 144, ``[b t-6 128]``."""
        return self.conv1d_3(self.conv1d_2(x))

    def classify(self, x: Map) -> Float[Array, "b k"]:
        """Mean over time and the audio model's own classifier."""
        return self.classifier_1(values(x).mean(1))

    def __call__(self, mfcc: Map) -> Float[Array, "b k"]:
        """Logits of the audio model alone."""
        return self.classify(self.stage2(self.stage1(mfcc)))
