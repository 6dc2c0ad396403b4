"""Seeded weights, inputs and random draws for both frameworks, and the cases to compare.

NumPy only: make_golden.py and compare_reference.py run the reference on them, and tests recreate
them without PyTorch. Arrays have PyTorch's layout.
"""

import itertools
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FIGURES = Path(__file__).resolve().parent.parent / "tests" / "golden" / "figures.npz"
FUSIONS, MASKS, HEADS, STEPS = ("ia", "it", "lt"), ("softhard", "noise", "nodropout"), (1, 4), 3
EVALUATIONS = tuple(itertools.product(FUSIONS, HEADS, (40, 156, 300)))  # fusion, heads, MFCC steps
TRAININGS = tuple(itertools.product(FUSIONS, MASKS))
NUM_FRAMES, NUM_CLASSES, BLOCK = 3, 8, 32
SIZE = 224  # the only size that the reference takes
ROUNDING = 1e-9
LEARNING_RATE = 0.04
SGD = {"momentum": 0.9, "dampening": 0.9, "weight_decay": 1e-3}


class Inputs(NamedTuple):
    """A batch: ``mfcc`` [b, 10, t], ``frames`` uint8 [b, n, h, w, 3], ``labels`` [b]."""

    mfcc: np.ndarray
    frames: np.ndarray
    labels: np.ndarray


def weights(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """Returns a state_dict that depends only on names, shapes and seed, not on the names' order.

    Scales, shifts and running statistics differ from 1 and 0, so swapped tensors show.
    """
    return {name: _tensor(name, shape, seed) for name, shape in shapes.items()}


def _tensor(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng((seed, zlib.crc32(name.encode())))
    leaf = name.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros((), np.int64)
    if leaf in ("bias", "running_mean"):
        return 0.1 * rng.standard_normal(shape)
    if leaf == "running_var" or len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape)
    return rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))


def inputs(seed: int, batch: int, steps: int = 156, num_frames: int = NUM_FRAMES) -> Inputs:
    """Returns a batch of noise, small enough not to saturate the attention's softmax.

    Brightness varies within and between frames, as in real ones. The means of plain noise are
    nearly equal, and BatchNorm amplifies the rounding of nearly equal values.
    """
    rng = np.random.default_rng(seed)
    coarse = rng.random((batch, num_frames, SIZE // BLOCK, SIZE // BLOCK, 3))
    brightness = coarse.repeat(BLOCK, axis=2).repeat(BLOCK, axis=3)
    frames = (brightness * rng.integers(0, 256, brightness.shape)).astype(np.uint8)
    mfcc = rng.standard_normal((batch, 10, steps))
    return Inputs(mfcc, frames, rng.integers(0, NUM_CLASSES, batch))


def draws(mask: str, seed: int, batch: Inputs) -> tuple[np.ndarray, ...]:
    """Returns the enlarged batch's random draws: coefficients, or noise for audio and frames."""
    rng = np.random.default_rng((seed, 1))
    if mask == "softhard":
        return (rng.integers(0, 100, len(batch.labels)) / 100,)
    if mask == "noise":
        return rng.standard_normal(batch.mfcc.shape), rng.standard_normal(batch.frames.shape)
    return ()


def training_inputs(mask: str, step: int) -> tuple[Inputs, tuple[np.ndarray, ...]]:
    """Returns batch and draws of one training step."""
    batch = inputs(100 + step, 2)
    return batch, draws(mask, 100 + step, batch)


def to_network(batch: Inputs) -> tuple[np.ndarray, np.ndarray]:
    """Returns avjax's inputs in float64: MFCC [b, t, 10], frames [b, n, h, w, 3] in 0..1."""
    return batch.mfcc.transpose(0, 2, 1), batch.frames / 255.0


def swap_layout(mask: str, draws: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Converts draws to the other framework's layout; only audio noise differs."""
    arrays = tuple(np.asarray(x) for x in draws)
    return (arrays[0].transpose(0, 2, 1), arrays[1]) if mask == "noise" else arrays


def deviation(actual: Any, expected: Any) -> float:
    """Returns the largest difference relative to the largest expected value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def norm_deviation(actual: Mapping[str, Any], expected: Mapping[str, float]) -> float:
    """Returns the largest relative difference of the tensors' norms.

    A norm below `ROUNDING` times the largest is only rounding, as for the gradient of a bias before
    a BatchNorm. Its difference is taken relative to a thousandth of the largest norm.
    """
    largest = max(expected.values())
    return max(
        abs(float(np.linalg.norm(actual[name])) - norm)
        / (norm if norm > ROUNDING * largest else 1e-3 * largest)
        for name, norm in expected.items()
    )
