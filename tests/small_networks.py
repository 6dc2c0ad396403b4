"""Small networks of every kind, which compile quickly."""

import dataclasses
from typing import Any

import jax
import numpy as np

from avjax.models.network import Network
from avjax.models.networks import NETWORKS
from avjax.runs.saved_model import ModelCard

CLASSES = ["calm", "angry", "happy"]
# Values of size fields, for networks that have them.
SIZES = {"stage_repeats": (1, 1, 1), "num_mels": 6, "coefficients": (2, 5)}


def small_network(kind: str, num_classes: int = 3, **fields: object) -> Network:
    """Returns a small network of a kind in `NETWORKS`."""
    module, _ = NETWORKS[kind]
    names = {field.name for field in dataclasses.fields(module)}
    sizes = {name: value for name, value in SIZES.items() if name in names}
    return module(num_classes=num_classes, **{**sizes, **fields})


def small_card(num_frames: int, image_size: int, audio_steps: int, **fields: Any) -> ModelCard:
    """Returns the card of an audio-visual network of three classes, of profile `fixed`."""
    network = {"kind": "audio_visual", "fusion": "ia", "num_heads": 1, "num_classes": len(CLASSES)}
    return ModelCard(network, CLASSES, "fixed", num_frames, image_size, audio_steps, **fields)


def random_variables(net: Network, *inputs: Any, divisor: float) -> dict[str, Any]:
    """Returns random variables with positive variances, and logits made small by a divisor."""
    rng = np.random.default_rng(3)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        values = rng.normal(0, 0.1, leaf.shape).astype(np.float32)
        return values + 1 if path[-1].key in ("var", "scale") else values

    shapes = jax.eval_shape(net.init, jax.random.key(0), *inputs)
    drawn: dict[str, Any] = jax.tree_util.tree_map_with_path(draw, shapes)
    drawn["params"]["classifier_1"]["kernel"] /= divisor
    return drawn
