"""Fast operations on maps, with custom gradients.

On CPU, XLA's grouped convolutions, max-pooling and the automatic derivative of batch normalisation
are slow, above all backward: a depthwise 3x3 weight gradient becomes nine reductions over the whole
map. The operations here use plain slices, multiply-adds and matrix products. All arrays are
channels-last: images ``b h w c``, sequences ``b t c``.

A `Map` holds its pending elementwise operations and, in training, its rows' multiplicities. A row
of multiplicity m stands for m equal rows of the enlarged batch; multiplicity 0 marks padding.

XLA sums in another order than PyTorch, so results differ by rounding: float32 logits by some 1e-6,
float64 logits by 1e-15 (docs/fidelity.md).
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
from avjax.models.ops.forms import ALTERNATIVES, FORMS, choose, forms
from avjax.models.ops.inference import in_small_batches, quarters_at_once
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
from avjax.models.ops.pooling import max_pool, max_pool_time, mean
from avjax.models.ops.spatial import as_clips, as_images, join_quarters, quarters, take

__all__ = [
    "ALTERNATIVES",
    "EPSILON",
    "FORMS",
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
    "choose",
    "concat",
    "conv1d",
    "conv1x1",
    "conv2d",
    "depthwise_conv3x3",
    "elementwise",
    "forms",
    "in_order",
    "in_small_batches",
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
