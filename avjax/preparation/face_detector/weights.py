"""Loads MTCNN's published weights from the installed facenet-pytorch."""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from avjax.errors import InputError
from avjax.preparation.face_detector import networks
from avjax.weights import rules
from avjax.weights.rules import Layer
from avjax.weights.torch_file import load_torch_file

PACKAGE = "facenet_pytorch"
REMEDY = "pip install --no-deps facenet-pytorch==2.5.3"


class MtcnnVariables(NamedTuple):
    """Flax variables of MTCNN's networks."""

    pnet: dict[str, Any]
    rnet: dict[str, Any]
    onet: dict[str, Any]


def load_mtcnn(folder: Path | None = None) -> MtcnnVariables:
    """Reads ``pnet.pt``, ``rnet.pt`` and ``onet.pt``.

    Args:
      folder: contains the three files; by default the data folder of the installed facenet-pytorch,
        which is located without importing it, since that would import torch.

    Raises:
      InputError: facenet-pytorch is not installed, or a file is missing or does not fit.
    """
    folder = installed_weights() if folder is None else folder
    return MtcnnVariables(
        _load(folder / "pnet.pt", networks.PNet(), networks.CELL, PNET_LAYERS),
        _load(folder / "rnet.pt", networks.RNet(), networks.CROP_REFINE, RNET_LAYERS),
        _load(folder / "onet.pt", networks.ONet(), networks.CROP_OUTPUT, ONET_LAYERS),
    )


def installed_weights() -> Path:
    """Returns the data folder of the installed facenet-pytorch.

    Raises:
      InputError: facenet-pytorch is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (folder := Path(location) / "data").is_dir():
            return folder
    raise InputError(
        f"MTCNN's weights come with facenet-pytorch, which is not installed; run: {REMEDY}"
    )


def _load(path: Path, network: nn.Module, size: int, layers: list[Layer]) -> dict[str, Any]:
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    key = jax.eval_shape(jax.random.key, 0)
    shapes = jax.eval_shape(network.init, key, image)
    return rules.to_flax(load_torch_file(path), layers, shapes, str(path))


def _conv_blocks(count: int) -> list[Layer]:
    layers = []
    for i in range(1, count + 1):
        layers.append(Layer(f"conv{i}", (f"conv{i}", "conv"), "conv2d"))
        layers.append(Layer(f"prelu{i}", (f"conv{i}", "prelu"), "prelu"))
    return layers


PNET_LAYERS = [
    *_conv_blocks(3),
    Layer("conv4_1", ("face",), "conv1x1"),
    Layer("conv4_2", ("box",), "conv1x1"),
]
RNET_LAYERS = [
    *_conv_blocks(3),
    Layer("dense4", ("dense4",), "dense"),
    Layer("prelu4", ("dense4_prelu",), "prelu"),
    Layer("dense5_1", ("face",), "dense"),
    Layer("dense5_2", ("box",), "dense"),
]
ONET_LAYERS = [
    *_conv_blocks(4),
    Layer("dense5", ("dense5",), "dense"),
    Layer("prelu5", ("dense5_prelu",), "prelu"),
    Layer("dense6_1", ("face",), "dense"),
    Layer("dense6_2", ("box",), "dense"),
    Layer("dense6_3", ("landmarks",), "dense"),
]
