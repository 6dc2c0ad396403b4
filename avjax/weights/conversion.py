"""Converts checkpoints between PyTorch and Flax, and recognises their networks."""

import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from avjax.errors import InputError
from avjax.models.audio_visual import FUSIONS
from avjax.models.efficientface import FRAME_FEATURES
from avjax.models.networks import BACKBONE_KIND, build_network
from avjax.models.single_modality import VideoNet
from avjax.models.variables import variable_shapes
from avjax.weights.key_maps import backbone_layers, network_layers
from avjax.weights.rules import Layer, counters, leaves, to_flax, to_torch
from avjax.weights.torch_file import load_torch_file

LEFT_OUT = "left out: "  # prefix of the target of tensors that are not converted
_PARALLEL = "module."  # prefix added by torch.nn.DataParallel
_HEAD = ("fc.weight", "fc.bias")  # EfficientFace's classifier, trained for another task
_CLASSIFIERS = (
    "classifier_1.0.weight",
    "audio_model.classifier_1.0.weight",
    "visual_model.classifier_1.0.weight",
)
_PART_PREFIXES = {"attention": "q.", "attention_block": "attn."}  # of a fusion part's tensors


class Route(NamedTuple):
    """A tensor's name and shape, and its Flax path or the reason why it has none."""

    name: str
    shape: tuple[int, ...]
    target: str


class Converted(NamedTuple):
    """A converted checkpoint.

    Attributes:
      network: ``kind``; ``num_classes`` except for the EfficientFace backbone; ``fusion`` for
        "audio_visual". The tensors do not reveal the number of heads.
      variables: ``{"params", "batch_stats"}`` of float32 arrays.
      routes: routes of all tensors, in the file's order.
      epoch: the epoch stored in the file, or 0.
    """

    network: dict[str, Any]
    variables: dict[str, Any]
    routes: list[Route]
    epoch: int


def convert(path: str | os.PathLike[str]) -> Converted:
    """Converts a checkpoint of the reference or of EfficientFace to Flax variables.

    Args:
      path: a ``torch.save`` file with a state_dict, or a dict with the key ``state_dict``. Tensor
        names may start with ``module.``.

    Raises:
      InputError: the file is not a checkpoint, the network is unknown, or tensors are missing,
        unexpected or of the wrong shape; lists all of them.
    """
    tree = load_torch_file(path)
    state_dict = _state_dict(tree, str(path))
    network = _network(state_dict, str(path))
    left_out: dict[str, str] = {}
    if network["kind"] == BACKBONE_KIND:
        left_out = _left_out_head(state_dict, str(path))
        layers, video_shapes = backbone_layers(), variable_shapes(VideoNet())
        shapes = {name: collection["visual_model"] for name, collection in video_shapes.items()}
    else:
        layers = network_layers(network)
        shapes = variable_shapes(build_network({**network, "num_heads": 1}))
    tensors = {name: array for name, array in state_dict.items() if name not in left_out}
    variables = to_flax(tensors, layers, shapes, str(path))
    routes = _routes(state_dict, layers, left_out)
    epoch = tree.get("epoch", 0)
    is_valid = type(epoch) is int and epoch > 0
    return Converted(network, jax.tree.map(np.float32, variables), routes, epoch if is_valid else 0)


def to_state_dict(
    variables: Mapping[str, Any], network: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Converts Flax variables to the reference's state_dict, for ``load_state_dict(strict=True)``.

    Args:
      variables: ``{"params", "batch_stats"}`` of the whole network.
      network: ``kind``, and ``fusion`` for "audio_visual".

    Raises:
      InputError: the reference has no such network, or variables are missing or unexpected.
    """
    layers = network_layers(network)
    paths = jax.tree_util.tree_leaves_with_path(dict(variables))
    actual = {"/".join(entry.key for entry in path) for path, _ in paths}
    expected = {"/".join(path) for _, path, _ in leaves(layers)}
    if actual != expected:
        faults = [f"missing {name}" for name in sorted(expected - actual)]
        faults += [f"unexpected {name}" for name in sorted(actual - expected)]
        described = " ".join(f"{name}={value}" for name, value in network.items())
        raise InputError(
            f"the model does not fit the map to PyTorch for {described}: {'; '.join(faults)}; "
            "choose a model whose card names its network"
        )
    return to_torch(variables, layers)


def _network(state_dict: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """Recognises the network by the tensors' names."""

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in state_dict)

    num_classes = _num_classes(state_dict)
    if has("audio_model.", "visual_model."):
        fusion = _fusion(state_dict, path)
        return {"kind": "audio_visual", "fusion": fusion, "num_classes": num_classes}
    if has("stage2."):
        temporal = has("conv1d_", "classifier_1.")
        return (
            {"kind": "video", "num_classes": num_classes} if temporal else {"kind": BACKBONE_KIND}
        )
    if has("conv1d_"):
        return {"kind": "audio", "num_classes": num_classes}
    raise InputError(
        f"{path} holds neither a model of the reference (audio_model.*, visual_model.*, conv1d_*) "
        f"nor EfficientFace (stage2.*); its tensors are {', '.join(list(state_dict)[:3])}, ..."
    )


def _state_dict(tree: Any, path: str) -> dict[str, np.ndarray]:
    """Returns the tensors by name, without DataParallel's prefix."""
    stored = tree.get("state_dict", tree) if isinstance(tree, dict) else None
    if not isinstance(stored, dict) or not stored:
        raise InputError(f"{path} holds no state_dict; pass a checkpoint of the reference")
    state_dict: dict[str, np.ndarray] = {}
    invalid = []
    for key, value in stored.items():
        name = str(key).removeprefix(_PARALLEL)
        if not isinstance(value, np.ndarray) or name in state_dict:
            invalid.append(str(key))
        else:
            state_dict[name] = value
    if invalid:
        raise InputError(
            f"{path} holds more than a state_dict's tensors, or one twice: {', '.join(invalid)}; "
            "pass a checkpoint of the reference"
        )
    return state_dict


def _fusion(state_dict: Mapping[str, Any], path: str) -> str:
    """Recognises the fusion by its first part."""
    prefixes = {
        fusion: f"{name}.{_PART_PREFIXES[kind]}"
        for fusion, module in FUSIONS.items()
        for name, kind in module.parts[:1]
    }
    for fusion, prefix in prefixes.items():
        if any(name.startswith(prefix) for name in state_dict):
            return fusion
    known = ", ".join(f"{prefix}* for {fusion}" for fusion, prefix in prefixes.items())
    raise InputError(f"{path} holds none of the fusions ({known}); it is incomplete")


def _num_classes(state_dict: Mapping[str, np.ndarray]) -> int:
    """Returns the first classifier's number of classes; `to_flax` reports any mismatch."""
    rows = (len(state_dict[name]) for name in _CLASSIFIERS if np.ndim(state_dict.get(name, 0)) > 1)
    return next(rows, 1)


def _left_out_head(state_dict: Mapping[str, np.ndarray], path: str) -> dict[str, str]:
    """Returns why EfficientFace's classifier is left out, after checking its shape."""
    shapes = {name: state_dict[name].shape for name in _HEAD if name in state_dict}
    weight = shapes.get("fc.weight", (0,))
    if shapes and shapes != {"fc.weight": (weight[0], FRAME_FEATURES), "fc.bias": weight[:1]}:
        actual = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(
            f"{path} does not fit EfficientFace: its classifier is {actual} instead of fc.weight "
            f"[classes, {FRAME_FEATURES}] and fc.bias [classes]"
        )
    return dict.fromkeys(_HEAD, f"{LEFT_OUT}the classifier of EfficientFace's own task")


def _routes(
    state_dict: Mapping[str, np.ndarray], layers: list[Layer], left_out: Mapping[str, str]
) -> list[Route]:
    targets = {name: "/".join(path) for name, path, _ in leaves(layers)}
    targets |= dict.fromkeys(counters(layers), f"{LEFT_OUT}an unused counter")
    targets |= left_out
    return [Route(name, array.shape, targets[name]) for name, array in state_dict.items()]
