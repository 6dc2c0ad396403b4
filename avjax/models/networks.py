"""Which network a config or a checkpoint names, and which of its parameters learn."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax

from avjax.errors import InputError
from avjax.models.audio_visual import (
    AUDIO_STAGE1,
    FUSIONS,
    VIDEO_STAGE1,
    AudioVisualNet,
    trained_parameters,
)
from avjax.models.mel_net import MelNet
from avjax.models.single_modality import AudioNet, VideoNet

Network: TypeAlias = AudioVisualNet | AudioNet | VideoNet | MelNet
KINDS = ("audio_visual", "audio", "video", "log_mel")
BACKBONE_KIND = "efficientface"  # a checkpoint of the face backbone alone: no network to build
_SETTINGS = {
    "audio_visual": ("fusion", "num_heads"),
    "log_mel": ("num_mels", "coefficients", "dropout"),
}


def describe_network(model: Mapping[str, Any], num_classes: int) -> dict[str, Any]:
    """What a checkpoint must record of a config's network for `build_network`.

    Args:
      model: the config's part ``model``: ``kind``, and for "audio_visual" ``fusion``,
        ``num_heads``, for "log_mel" ``num_mels``, ``coefficients``, ``dropout``.
      num_classes: number of emotions.
    """
    named = _SETTINGS.get(model["kind"], ())
    settings = {name: model[name] for name in ("kind", *named)} | {"num_classes": num_classes}
    return {name: list(x) if isinstance(x, tuple) else x for name, x in settings.items()}


def build_network(network: Mapping[str, Any]) -> Network:
    """The module that a checkpoint's or config's description names.

    Args:
      network: ``kind``, one of `KINDS`; ``num_classes``; for "audio_visual" ``fusion`` and
        ``num_heads``, for "log_mel" ``num_mels``, ``coefficients`` and ``dropout``.

    Raises:
      InputError: unknown kind or fusion, heads that do not divide the width, MFCCs that the bands
        do not give, a dropout of 1.
    """
    kind, num_classes = network.get("kind", "audio_visual"), int(network["num_classes"])
    if kind not in KINDS:
        raise InputError(f"unknown network kind {kind!r}; choose one of {', '.join(KINDS)}")
    if kind == "log_mel":
        return _mel_net(network, num_classes)
    if kind != "audio_visual":
        return AudioNet(num_classes) if kind == "audio" else VideoNet(num_classes)
    net = AudioVisualNet(num_classes, network["fusion"], int(network["num_heads"]))
    if net.fusion not in FUSIONS:
        raise InputError(f"unknown fusion {net.fusion!r}; choose one of {', '.join(FUSIONS)}")
    narrow = AUDIO_STAGE1 if net.fusion == "lt" else VIDEO_STAGE1
    if net.num_heads < 1 or narrow % net.num_heads:
        raise InputError(
            f"num_heads={net.num_heads} does not divide the attention width {narrow} of fusion "
            f"{net.fusion!r}; choose 1, 2, 4, 8, 16, 32 or 64"
        )
    return net


def _mel_net(network: Mapping[str, Any], num_classes: int) -> MelNet:
    mels, coefficients = int(network["num_mels"]), tuple(network["coefficients"])
    if not coefficients or not all(1 <= number <= mels for number in coefficients):
        raise InputError(
            f"config.model.coefficients={coefficients} for {mels} mel bands; name a number of "
            f"MFCCs from 1 to {mels} for every member"
        )
    dropout = float(network["dropout"])
    if not 0 <= dropout < 1:
        raise InputError(f"config.model.dropout={dropout} is no share; choose one below 1")
    return MelNet(num_classes, mels, coefficients, dropout)


def learned_parameters(params: Mapping[str, Any], net: Network) -> dict[str, Any]:
    """Marks the parameters that the loss reaches, in the structure of ``params``."""
    if isinstance(net, AudioVisualNet):
        return trained_parameters(params, net.fusion)
    return jax.tree.map(lambda _: True, dict(params))
