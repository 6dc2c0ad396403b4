"""The array operations that decide the cost of a step, each with its own derivative.

XLA's grouped convolutions, max-pooling and the automatic derivative of batch normalisation are slow
on CPU, above all backward (a depthwise 3x3 weight gradient becomes nine reductions over the whole
map). The forms here are plain slices, multiply-adds and matrix products. All arrays are
channels-last: images ``b h w c``, sequences ``b t c``.

XLA adds up in another order than PyTorch, so results differ by rounding: float32 logits by some
1e-6, float64 ones by 1e-15 (docs/fidelity.md).

A *row* is one entry of the leading axis. Rows carry a multiplicity: a row of multiplicity m stands
for m equal rows of an enlarged batch, and one of 0 is padding that must not be seen.
"""

from avjax.models.ops.batch_norm import Moments, batch_norm_source, batch_norm_train, total
from avjax.models.ops.dense import Shifted, affine_matmul, channel_matmul, conv1d, conv2d
from avjax.models.ops.depthwise import depthwise_conv3x3
from avjax.models.ops.normalised import Map, Normalised, Source, as_normalised, normalise
from avjax.models.ops.pooled_batch_norm import dimmed_rows, pooled_batch_norm
from avjax.models.ops.pooling import max_pool3x3_stride2, max_pool_time
from avjax.models.ops.quarters import quartered_conv3x3
from avjax.models.ops.stem import pooled_conv3x3

__all__ = [
    "Map",
    "Moments",
    "Normalised",
    "Shifted",
    "Source",
    "affine_matmul",
    "as_normalised",
    "batch_norm_source",
    "batch_norm_train",
    "channel_matmul",
    "conv1d",
    "conv2d",
    "depthwise_conv3x3",
    "dimmed_rows",
    "max_pool3x3_stride2",
    "max_pool_time",
    "normalise",
    "pooled_batch_norm",
    "pooled_conv3x3",
    "quartered_conv3x3",
    "total",
]
