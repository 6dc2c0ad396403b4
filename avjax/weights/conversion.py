"""PyTorch checkpoints from and to Flax variables: which network, which tensor goes where."""

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

LEFT_OUT = "left out: "  # how the target of a tensor begins that has no place in Flax
_PARALLEL = "module."  # how torch.nn.DataParallel names what it wraps
_HEAD = ("fc.weight", "fc.bias")  # EfficientFace's own classifier, of another task
_CLASSIFIERS = (
    "classifier_1.0.weight",
    "audio_model.classifier_1.0.weight",
    "visual_model.classifier_1.0.weight",
)
_PART_MARKS = {"attention": "q.", "attention_block": "attn."}  # how a fusion's part begins


class Route(NamedTuple):
    """Where one tensor went: its name and shape, and the Flax path or the reason for none."""

    name: str
    shape: tuple[int, ...]
    target: str


class Converted(NamedTuple):
    """A checkpoint's content.

    Attributes:
      network: ``kind`` and, but for the EfficientFace backbone, ``num_classes``; for
        "audio_visual" also ``fusion``. The number of heads cannot be seen in the tensors.
      variables: ``{"params", "batch_stats"}`` of float32 arrays.
      routes: every tensor of the file, in its order.
      epoch: that the file says it is of; 0 where it says nothing.
    """

    network: dict[str, Any]
    variables: dict[str, Any]
    routes: list[Route]
    epoch: int


def convert(path: str | os.PathLike[str]) -> Converted:
    """Reads a checkpoint of the reference or of EfficientFace.

    Args:
      path: a file of ``torch.save``: a state_dict, or a dict with one as ``state_dict``; names
        may begin with ``module.``.

    Raises:
      InputError: no checkpoint, an unknown network, or tensors that are missing, unexpected or of
        another shape, all of them listed.
    """
    tree = load_torch_file(path)
    state_dict = _state_dict(tree, str(path))
    network = _network(state_dict, str(path))
    excused: dict[str, str] = {}
    if network["kind"] == BACKBONE_KIND:
        excused = _excused_head(state_dict, str(path))
        layers, whole = backbone_layers(), variable_shapes(VideoNet())
        shapes = {name: collection["visual_model"] for name, collection in whole.items()}
    else:
        layers = network_layers(network)
        shapes = variable_shapes(build_network({**network, "num_heads": 1}))
    kept = {name: array for name, array in state_dict.items() if name not in excused}
    variables = to_flax(kept, layers, shapes, str(path))
    routes = _routes(state_dict, layers, excused)
    epoch = tree.get("epoch", 0)
    known = type(epoch) is int and epoch > 0
    return Converted(network, jax.tree.map(np.float32, variables), routes, epoch if known else 0)


def to_state_dict(
    variables: Mapping[str, Any], network: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """A network's tensors under the reference's names, for ``load_state_dict(strict=True)``.

    Args:
      variables: ``{"params", "batch_stats"}``, all that the network has.
      network: ``kind``, and for "audio_visual" ``fusion``.

    Raises:
      InputError: the reference has no such network, or variables that it lacks or misses.
    """
    layers = network_layers(network)
    paths = jax.tree_util.tree_leaves_with_path(dict(variables))
    present = {"/".join(entry.key for entry in path) for path, _ in paths}
    mapped = {"/".join(path) for _, path, _ in leaves(layers)}
    if present != mapped:
        faults = [f"missing {name}" for name in sorted(mapped - present)]
        faults += [f"unexpected {name}" for name in sorted(present - mapped)]
        described = " ".join(f"{name}={value}" for name, value in network.items())
        raise InputError(
            f"the model does not fit the map to PyTorch for {described}: {'; '.join(faults)}; "
            "choose a model whose card names its network"
        )
    return to_torch(variables, layers)


def _network(state_dict: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """What the tensors' names tell of the network."""

    def has(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in state_dict)

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
    """The tensors by name, without DataParallel's prefix."""
    found = tree.get("state_dict", tree) if isinstance(tree, dict) else None
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path} holds no state_dict; pass a checkpoint of the reference")
    state_dict: dict[str, np.ndarray] = {}
    odd = []
    for key, value in found.items():
        name = str(key).removeprefix(_PARALLEL)
        if not isinstance(value, np.ndarray) or name in state_dict:
            odd.append(str(key))
        else:
            state_dict[name] = value
    if odd:
        raise InputError(
            f"{path} holds more than a state_dict's tensors, or one twice: {', '.join(odd)}; "
            "pass a checkpoint of the reference"
        )
    return state_dict


def _fusion(state_dict: Mapping[str, Any], path: str) -> str:
    """The fusion whose parts the file holds, by the first of them."""
    marks = {
        fusion: f"{name}.{_PART_MARKS[kind]}"
        for fusion, module in FUSIONS.items()
        for name, kind in module.parts[:1]
    }
    for fusion, mark in marks.items():
        if any(name.startswith(mark) for name in state_dict):
            return fusion
    known = ", ".join(f"{mark}* for {fusion}" for fusion, mark in marks.items())
    raise InputError(f"{path} holds none of the fusions ({known}); it is incomplete")


def _num_classes(state_dict: Mapping[str, np.ndarray]) -> int:
    """Of the first classifier there is; to_flax lists what then does not fit."""
    rows = (len(state_dict[name]) for name in _CLASSIFIERS if np.ndim(state_dict.get(name, 0)) > 1)
    return next(rows, 1)


def _excused_head(state_dict: Mapping[str, np.ndarray], path: str) -> dict[str, str]:
    """EfficientFace's classifier: left behind, but not if it is something else."""
    shapes = {name: state_dict[name].shape for name in _HEAD if name in state_dict}
    weight = shapes.get("fc.weight", (0,))
    if shapes and shapes != {"fc.weight": (weight[0], FRAME_FEATURES), "fc.bias": weight[:1]}:
        found = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise InputError(
            f"{path} does not fit EfficientFace: its classifier is {found} instead of fc.weight "
            f"[classes, {FRAME_FEATURES}] and fc.bias [classes]"
        )
    return dict.fromkeys(_HEAD, f"{LEFT_OUT}the classifier of EfficientFace's own task")


def _routes(
    state_dict: Mapping[str, np.ndarray], layers: list[Layer], excused: Mapping[str, str]
) -> list[Route]:
    targets = {name: "/".join(path) for name, path, _ in leaves(layers)}
    targets |= dict.fromkeys(counters(layers), f"{LEFT_OUT}a count that nothing reads")
    targets |= excused
    return [Route(name, array.shape, targets[name]) for name, array in state_dict.items()]
