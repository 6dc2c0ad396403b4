"""Operations on maps, each with a derivative of its own: what decides the cost of a step.

XLA's grouped convolutions, max-pooling and the automatic derivative of batch normalisation are slow
on CPU, above all backward (a depthwise 3x3 weight gradient becomes nine reductions over the whole
map). The forms here are plain slices, multiply-adds and matrix products. All arrays are
channels-last: images ``b h w c``, sequences ``b t c``.

A `Map` knows which elementwise steps are still to be done to it, and, in training, its rows'
multiplicities: a row of multiplicity m stands for m equal rows of an enlarged batch, and one of 0
is padding that must not be seen.

XLA adds up in another order than PyTorch, so results differ by rounding: float32 logits by some
1e-6, float64 ones by 1e-15 (docs/fidelity.md).
"""

from avjax.models.ops.batch_norm import (
    EPSILON,
    Moments,
    batch_norm,
    running_affine,
    running_norm,
)
from avjax.models.ops.channels import Channels, concat, in_order, shuffle, split
from avjax.models.ops.convolution import conv1d, conv1x1, conv2d, depthwise_conv3x3
from avjax.models.ops.device_axis import per_row, row_keys, total
from avjax.models.ops.inference import few_at_once, quarters_at_once
from avjax.models.ops.layers import (
    BatchNorm,
    Conv1d,
    Conv1x1,
    Conv2d,
    Dense,
    DepthwiseConv,
    layer_norm,
)
from avjax.models.ops.map import Dimmed, Map, Rows, as_map, elementwise, materialise, relu, values
from avjax.models.ops.platform import forms
from avjax.models.ops.pooling import max_pool, max_pool_time, mean
from avjax.models.ops.spatial import as_clips, as_images, join_quarters, quarters, take

__all__ = [
    "EPSILON",
    "BatchNorm",
    "Channels",
    "Conv1d",
    "Conv1x1",
    "Conv2d",
    "Dense",
    "DepthwiseConv",
    "Dimmed",
    "Map",
    "Moments",
    "Rows",
    "as_clips",
    "as_images",
    "as_map",
    "batch_norm",
    "concat",
    "conv1d",
    "conv1x1",
    "conv2d",
    "depthwise_conv3x3",
    "elementwise",
    "few_at_once",
    "forms",
    "in_order",
    "join_quarters",
    "layer_norm",
    "materialise",
    "max_pool",
    "max_pool_time",
    "mean",
    "per_row",
    "quarters",
    "quarters_at_once",
    "relu",
    "row_keys",
    "running_affine",
    "running_norm",
    "shuffle",
    "split",
    "take",
    "total",
    "values",
]
