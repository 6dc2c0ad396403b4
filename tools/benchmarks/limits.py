"""A device's arithmetic limit for the network, and memory traffic as a yardstick.

The limit is operations / peak: no program with these operations is faster. Traffic is bytes /
bandwidth: the time to move every layer's operands and results through memory once, in the compute
dtype. It is no limit, since maps may stay in caches. Both count the deduplicated network only, and
a backward pass as two forward passes. Peak and bandwidth are measured on the device, by a large
matrix product and a triad over arrays larger than its caches.
"""

import time
from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import jax
import jax.numpy as jnp

from avjax.models import efficientface as face

AUDIO_WIDTHS = (10, 64, 128, 256, 128)
TEMPORAL_WIDTHS = (face.FRAME_FEATURES, 64, 64, 128, 128)
# Distinct audio rows and videos per clip, black images per batch, and pairs per clip.
DISTINCT = {"softhard": (2, 2, 1, 4), "noise": (2, 2, 0, 3), "nodropout": (1, 1, 0, 1)}


class Cost(NamedTuple):
    """One layer on one input: floating-point operations, values moved except weights, weights."""

    operations: float
    moved: float
    weights: float = 0.0


class Ceilings(NamedTuple):
    """A device's measured peak in operations and in bytes per second."""

    operations: float
    bandwidth: float


def dense(positions: float, inputs: int, outputs: int, taps: int = 1) -> Cost:
    """A convolution with ``taps`` taps per input channel; reads and writes once."""
    weights = taps * inputs * outputs
    return Cost(2 * positions * weights, positions * (inputs + outputs), weights)


def depthwise(positions: float, channels: int, read: float) -> Cost:
    """A depthwise 3x3 convolution that reads ``read`` values."""
    return Cost(2 * 9 * positions * channels, read + positions * channels, 9 * channels)


def norm(positions: float, channels: int) -> Cost:
    """Batch normalisation and the elementwise operations that follow it."""
    return Cost(4 * positions * channels, 2 * positions * channels, 2 * channels)


def _unit(side: int, inputs: int, outputs: int) -> Iterator[Cost]:
    """An inverted residual unit; ``side`` is its output's."""
    half, small, large = outputs // 2, side**2, 4 * side**2
    if inputs != outputs:
        yield from (depthwise(small, inputs, large * inputs), norm(small, inputs))
        yield from (dense(small, inputs, half), norm(small, half))
        yield from (dense(large, inputs, half), norm(large, half))
        yield depthwise(small, half, large * half)
    else:
        yield from (dense(small, half, half), norm(small, half))
        yield depthwise(small, half, small * half)
    yield from (norm(small, half), dense(small, half, half), norm(small, half))
    yield Cost(0, 2 * small * outputs)  # concatenation and shuffle


def image_layers(size: int) -> Iterator[Cost]:
    """EfficientFace's backbone on one image of ``size`` x ``size`` pixels."""
    stem, first = face.STEM_FEATURES, face.STAGE_FEATURES[0]
    half, quarter, eighth = size // 2, size // 4, size // 8
    yield Cost(2 * 27 * half**2 * stem, 3 * size**2 + half**2 * stem, 27 * stem)
    yield norm(half**2, stem)
    yield Cost(9 * quarter**2 * stem, (half**2 + quarter**2) * stem)  # max-pooling
    for _ in range(4):  # local features: each quarter of the map has its own weights
        positions = (eighth // 2) ** 2
        yield depthwise(positions, first, (quarter // 2) ** 2 * stem)
        yield from (norm(positions, first), depthwise(positions, first, positions * first))
        yield norm(positions, first)
    inputs, side = stem, eighth
    for outputs, repeats in zip(face.STAGE_FEATURES, face.STAGE_REPEATS, strict=True):
        for number in range(repeats):
            yield from _unit(side, inputs if number == 0 else outputs, outputs)
        if outputs == first:
            yield from _modulator(side, outputs)
        inputs, side = outputs, side // 2
    side *= 2
    yield from (dense(side**2, inputs, face.FRAME_FEATURES), norm(side**2, face.FRAME_FEATURES))
    yield Cost(side**2 * face.FRAME_FEATURES, side**2 * face.FRAME_FEATURES)  # mean


def _modulator(side: int, channels: int) -> Iterator[Cost]:
    gate, positions = channels // face.GATE_REDUCTION, side**2
    yield Cost(positions * channels, positions * channels)  # mean
    yield from (dense(1, channels, gate), norm(1, gate), dense(1, gate, channels))
    yield from (dense(positions, channels, gate), norm(positions, gate))
    for _ in range(2):
        yield from (dense(positions, gate, gate, 9), norm(positions, gate))
    yield dense(positions, gate, 1)
    yield Cost(6 * positions * channels, 3 * positions * channels)  # gates and sum


def sequence_layers(steps: int, widths: tuple[int, ...], lost: int, start: int) -> Iterator[Cost]:
    """Two convolution blocks of a stream, starting at the ``start``-th width."""
    for inputs, outputs in zip(
        widths[start : start + 2], widths[start + 1 : start + 3], strict=True
    ):
        steps -= lost
        yield from (dense(steps, inputs, outputs, 3), norm(steps, outputs))


def step_cost(
    mask: str, batch: int, frames: int, size: int, audio_steps: int, train: bool
) -> tuple[float, float]:
    """Returns operations and values moved of a training step or a forward pass (fusion `ia`)."""
    audio, videos, black, pairs = DISTINCT[mask if train else "nodropout"]
    video_frames = TEMPORAL_WIDTHS
    parts = (
        (batch * videos * frames + black, image_layers(size)),
        (batch * videos + black, sequence_layers(frames, video_frames, 0, 0)),
        (batch * audio + black, sequence_layers(audio_steps, AUDIO_WIDTHS, 3, 0)),
        (batch * pairs, sequence_layers(frames, video_frames, 0, 2)),
        (batch * pairs, sequence_layers(audio_steps - 6, AUDIO_WIDTHS, 3, 2)),
    )
    operations = moved = 0.0
    for count, layers in parts:
        for layer in layers:
            operations += count * layer.operations
            moved += count * layer.moved + layer.weights
    passes = 3 if train else 1
    return passes * operations, passes * moved


def limit_seconds(operations: float, ceilings: Ceilings) -> float:
    """Returns the minimum time of the operations."""
    return operations / ceilings.operations


def traffic_seconds(moved: float, dtype: str, ceilings: Ceilings) -> float:
    """Returns the time to move the values through memory once; caches may save it."""
    return moved * jnp.dtype(dtype).itemsize / ceilings.bandwidth


def measure_ceilings(dtype: str) -> Ceilings:
    """Measures the default device; medians of nine runs."""
    cpu = jax.default_backend() == "cpu"
    side, length = (2048, 1 << 25) if cpu else (8192, 1 << 28)
    a = jnp.ones((side, side), dtype)
    product = _median_seconds(jax.jit(lambda a: a @ a), a)
    x, y = jnp.ones(length, dtype), jnp.full(length, 2, dtype)
    triad = _median_seconds(jax.jit(lambda x, y: x + 3 * y), x, y)
    return Ceilings(2 * side**3 / product, 3 * x.nbytes / triad)


def _median_seconds(function, *arguments) -> float:
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(9):
        start = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - start)
    return median(times)
