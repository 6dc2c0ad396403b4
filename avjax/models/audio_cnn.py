"""Audio CNN: four unpadded 1-D convolutions over MFCCs (reference `AudioCNNPool`)."""

import flax.linen as nn
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.ops import BatchNorm, Conv1d, Dense, Map, max_pool_time, relu, values

MIN_STEPS = 13  # each of the four blocks removes three time steps


class ConvBlock(nn.Module):
    """Conv1d of kernel size 3, BatchNorm, ReLU and, with ``pool``, MaxPool1d(2, stride 1)."""

    features: int
    padding: int = 0
    pool: bool = False

    def setup(self) -> None:
        self.conv = Conv1d(self.features, self.padding)
        self.bn = BatchNorm()

    def __call__(self, x: Map) -> Map:
        """Maps ``[b t i]`` to ``[b u features]``: u is t, less 2 if unpadded, less 1 if pooled."""
        x = relu(self.bn(self.conv(x)))
        return max_pool_time(x) if self.pool else x


class AudioCNN(nn.Module):
    """MFCCs to features in two stages; fusion may happen between them."""

    num_classes: int

    def setup(self) -> None:
        self.conv1d_0 = ConvBlock(64, pool=True)
        self.conv1d_1 = ConvBlock(128, pool=True)
        self.conv1d_2 = ConvBlock(256, pool=True)
        self.conv1d_3 = ConvBlock(128, pool=True)
        self.classifier_1 = Dense(self.num_classes)

    def stage1(self, mfcc: Map) -> Map:
        """First two blocks, ``[b t 10]`` to ``[b t-6 128]``: 156 time steps become 150.

        Raises:
          InputError: too few time steps.
        """
        if mfcc.shape[1] < MIN_STEPS:
            raise InputError(
                f"{mfcc.shape[1]} MFCC steps are too few: the unpadded convolutions need at least "
                f"{MIN_STEPS} (0.28 s of audio)"
            )
        return self.conv1d_1(self.conv1d_0(mfcc))

    def stage2(self, x: Map) -> Map:
        """Last two blocks, ``[b t 128]`` to ``[b t-6 128]``: 150 time steps become 144."""
        return self.conv1d_3(self.conv1d_2(x))

    def classify(self, x: Map) -> Float[Array, "b k"]:
        """Returns logits of the audio classifier, from the mean over time."""
        return self.classifier_1(values(x).mean(1))

    def __call__(self, mfcc: Map) -> Float[Array, "b k"]:
        """Returns logits of the audio model alone."""
        return self.classify(self.stage2(self.stage1(mfcc)))
