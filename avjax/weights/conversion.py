"""Converts checkpoints between PyTorch and Flax, and recognises their networks."""

import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from avjax.errors import InputError, shortened
from avjax.models.audio_visual import FUSIONS
from avjax.models.efficientface import FRAME_FEATURES
from avjax.models.networks import BACKBONE_KIND, build_network
from avjax.models.single_modality import VideoNet
from avjax.models.variables import variable_shapes
from avjax.weights.key_maps import backbone_layers, network_layers
from avjax.weights.plain_pickle import Foreign
from avjax.weights.rules import Layer, counters, leaves, to_flax, to_torch
from avjax.weights.state_dicts import StateDict, find_state_dicts
from avjax.weights.torch_file import SAVE_REMEDY, TorchFile, read_torch_file

LEFT_OUT = "left out: "  # prefix of the target of tensors that are not converted
MOST_NAMES = 4  # named in an error
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
      ignored: classes and functions that the file asks for and that are no tensors, by qualified
        name; nothing of them was imported or run.
      choice: which of several state_dicts was taken; empty if there is one.
    """

    network: dict[str, Any]
    variables: dict[str, Any]
    routes: list[Route]
    epoch: int
    ignored: tuple[str, ...] = ()
    choice: str = ""


def convert(path: str | os.PathLike[str]) -> Converted:
    """Converts a checkpoint of the reference or of EfficientFace to Flax variables.

    Args:
      path: a ``torch.save`` or safetensors file that holds a state_dict, itself or in mappings such
        as ``{"state_dict": ..., "optimizer": ...}``. Names may have the prefixes of DataParallel,
        torch.compile and Lightning. Of a model and its running average, the model is taken.

    Raises:
      InputError: the file is not a checkpoint, the network is unknown, tensors are missing,
        unexpected, of the wrong shape or of a type that is not supported (lists them), or numbers
        are not finite.
    """
    file = read_torch_file(path)
    state_dict, choice = _choose(file, str(path))
    network = _network(state_dict.tensors, str(path))
    reasons = dict(state_dict.left_out)
    if network["kind"] == BACKBONE_KIND:
        reasons |= _left_out_head(state_dict.tensors, str(path))
        layers, video_shapes = backbone_layers(), variable_shapes(VideoNet())
        shapes = {name: collection["visual_model"] for name, collection in video_shapes.items()}
    else:
        layers = network_layers(network)
        shapes = variable_shapes(build_network({**network, "num_heads": 1}))
    needed = {name for name, _, _ in leaves(layers)}
    _check_types(state_dict, needed, str(path))
    expected = needed | set(counters(layers))
    reasons |= dict.fromkeys(state_dict.unwrapped - expected, "outside of the wrapped model")
    tensors = {name: x for name, x in state_dict.tensors.items() if name not in reasons}
    variables = to_flax(tensors, layers, shapes, str(path))
    routes = _routes(state_dict, layers, reasons)
    epoch = file.tree.get("epoch", 0)
    is_valid = type(epoch) is int and epoch > 0
    ignored = tuple(name.removeprefix("__main__.") for name in file.foreign)
    variables = jax.tree.map(np.float32, variables)
    return Converted(network, variables, routes, epoch if is_valid else 0, ignored, choice)


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
        faults = shortened([f"missing {name}" for name in sorted(expected - actual)])
        faults += shortened([f"unexpected {name}" for name in sorted(actual - expected)])
        described = " ".join(f"{name}={value}" for name, value in network.items())
        raise InputError(
            f"the model does not fit the map to PyTorch for {described}: {'; '.join(faults)}; "
            "choose a model whose card names its network"
        )
    return to_torch(variables, layers)


def _choose(file: TorchFile, path: str) -> tuple[StateDict, str]:
    """Returns the state_dict to convert, and which one it is if there are several."""
    state_dicts = find_state_dicts(file.tree)
    known = [state_dict for state_dict in state_dicts if _kind(state_dict.tensors)]
    if not known:
        raise InputError(_unknown(file, state_dicts, path))
    taken, *others = known
    if taken.twice:
        raise InputError(
            f"{path} holds tensors that differ in prefixes alone: {', '.join(taken.twice)}; "
            "pass a checkpoint of one model"
        )
    named = ", ".join(other.key for other in others)
    return taken, f"took {taken.key or 'the outer state_dict'} rather than {named}" * bool(others)


def _unknown(file: TorchFile, state_dicts: list[StateDict], path: str) -> str:
    """Says what a file holds that has no state_dict of a known network."""
    values = file.tree.values() if isinstance(file.tree, dict) else [file.tree]
    objects = sorted({x.name.removeprefix("__main__.") for x in values if isinstance(x, Foreign)})
    pickled = f"pickled objects ({', '.join(objects[:MOST_NAMES])})"
    if not state_dicts:
        if objects:
            return f"{path} holds {pickled} and no state_dict; {SAVE_REMEDY}"
        keys = list(map(str, file.tree))[:MOST_NAMES] if isinstance(file.tree, dict) else []
        held = f" (its keys are {', '.join(keys)})" if keys else ""
        return f"{path} holds no state_dict{held}; pass a checkpoint of the reference"
    names = list(max(state_dicts, key=lambda x: len(x.tensors)).tensors)
    more = f", ... ({len(names)} in all)" if len(names) > MOST_NAMES else ""
    beside = f"; it also holds {pickled}; if one of them is the model, {SAVE_REMEDY}"
    return (
        f"{path} holds neither a model of the reference (audio_model.*, visual_model.*, conv1d_*) "
        f"nor EfficientFace (stage2.*); its tensors are {', '.join(names[:MOST_NAMES])}{more}"
        + (beside if objects else "; rename them, or pass a checkpoint of the reference")
    )


def _kind(names: Iterable[str]) -> str:
    """Recognises the kind of network by its tensors' names; empty if it is unknown."""

    def has(*prefixes: str) -> bool:
        return any(name.startswith(prefixes) for name in names)

    if has("audio_model.", "visual_model."):
        return "audio_visual"
    if has("stage2."):
        return "video" if has("conv1d_", "classifier_1.") else BACKBONE_KIND
    return "audio" if has("conv1d_") else ""


def _network(tensors: Mapping[str, np.ndarray], path: str) -> dict[str, Any]:
    """Describes the network that has these tensors."""
    kind = _kind(tensors)
    if kind == BACKBONE_KIND:
        return {"kind": kind}
    fusion = {"fusion": _fusion(tensors, path)} if kind == "audio_visual" else {}
    return {"kind": kind, **fusion, "num_classes": _num_classes(tensors)}


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
    return dict.fromkeys(_HEAD, "the classifier of EfficientFace's own task")


def _check_types(state_dict: StateDict, needed: Collection[str], path: str) -> None:
    """Raises InputError if the network needs what is no tensor of a supported type."""
    left_out = state_dict.left_out.items()
    faults = [f"{name} is {reason}" for name, reason in left_out if name in needed]
    if faults:
        raise InputError(f"{path}: {'; '.join(shortened(faults))}; save them as float32")


def _routes(state_dict: StateDict, layers: list[Layer], reasons: Mapping[str, str]) -> list[Route]:
    targets = {name: "/".join(path) for name, path, _ in leaves(layers)}
    targets |= dict.fromkeys(counters(layers), f"{LEFT_OUT}an unused counter")
    targets |= {name: f"{LEFT_OUT}{reason}" for name, reason in reasons.items()}
    routes = [Route(name, array.shape, targets[name]) for name, array in state_dict.tensors.items()]
    return routes + [Route(name, (), targets[name]) for name in state_dict.left_out]
