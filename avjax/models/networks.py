"""Builds networks by name, from a config or a model card."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from avjax.errors import InputError
from avjax.models.audio_visual import AudioVisualNet
from avjax.models.mel_net import MelNet
from avjax.models.network import Network
from avjax.models.single_modality import AudioNet, VideoNet

# By kind: the module, and its fields that configs set and cards record.
NETWORKS: dict[str, tuple[type[Network], tuple[str, ...]]] = {
    "audio_visual": (AudioVisualNet, ("fusion", "num_heads")),
    "audio": (AudioNet, ()),
    "video": (VideoNet, ()),
    "log_mel": (MelNet, ("num_mels", "coefficients")),
}
BACKBONE_KIND = "efficientface"  # checkpoints of the face backbone; not a network


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network and its initialisation.

    Attributes:
      kind: one of `NETWORKS`.
      fusion: of "audio_visual", one of `avjax.models.audio_visual.FUSIONS`.
      num_heads: attention heads of "audio_visual".
      num_mels: mel bands of "log_mel".
      coefficients: number of MFCCs for each member of "log_mel".
      pretrained: a run or model directory to start from; empty for fresh parameters.

    Raises:
      InputError: invalid values.
    """

    kind: str = "audio_visual"
    fusion: str = "ia"
    num_heads: int = 1
    num_mels: int = 128
    coefficients: tuple[int, ...] = (10, 40)
    pretrained: str = ""

    def __post_init__(self) -> None:
        build_network(self.describe(num_classes=1))

    def to_tree(self) -> dict[str, Any]:
        """Returns the config keys that apply to the kind of network."""
        names = ("kind", *NETWORKS[self.kind][1], "pretrained")
        return {name: getattr(self, name) for name in names}

    def describe(self, num_classes: int) -> dict[str, Any]:
        """Describes the network for a model card and `build_network`."""
        fields = NETWORKS[self.kind][1] if self.kind in NETWORKS else ()
        values = {name: getattr(self, name) for name in ("kind", *fields)}
        values["num_classes"] = num_classes
        return {name: list(x) if isinstance(x, tuple) else x for name, x in values.items()}


def build_network(description: Mapping[str, Any]) -> Network:
    """Builds the network described by a model card or `ModelConfig.describe`.

    Args:
      description: ``kind``, ``num_classes``, and the kind's fields in `NETWORKS`.

    Raises:
      InputError: unknown kind or invalid fields.
    """
    kind = description.get("kind", "audio_visual")
    if not isinstance(kind, str) or kind not in NETWORKS:
        raise InputError(f"unknown network kind {kind!r}; choose one of {', '.join(NETWORKS)}")
    module, names = NETWORKS[kind]
    try:
        fields = {name: description[name] for name in ("num_classes", *names)}
        fields = {name: tuple(x) if isinstance(x, list) else x for name, x in fields.items()}
        net = module(**fields)
        net.check()
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"cannot build a network from {dict(description)} ({error}); correct it"
        ) from error
    return net
