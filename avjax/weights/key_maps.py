"""Key maps of the networks, from the reference's state_dict names to Flax paths."""

from collections.abc import Mapping, Sequence
from typing import Any

from avjax.errors import InputError
from avjax.models.audio_visual import FUSIONS
from avjax.models.efficientface import STAGE_REPEATS
from avjax.weights.rules import Layer


def network_layers(network: Mapping[str, Any]) -> list[Layer]:
    """Returns the key map of a network, given its ``kind`` and ``fusion``.

    Networks of one stream correspond to the reference's `AudioCNNPool` and `EfficientFaceTemporal`.

    Raises:
      InputError: the reference has no such network.
    """
    kind = network.get("kind", "audio_visual")
    if kind == "audio":
        return _inside("audio_model", audio_cnn_layers())
    if kind == "video":
        return _inside("visual_model", efficientface_layers())
    if kind == "audio_visual":
        return audio_visual_layers(network["fusion"])
    raise InputError(
        f"there is no map to PyTorch for a network of kind {kind!r}, which the reference lacks; "
        "choose a model of kind audio_visual, audio or video"
    )


def audio_visual_layers(fusion: str, stage_repeats: Sequence[int] = STAGE_REPEATS) -> list[Layer]:
    """Returns the key map of the reference's `MultiModalCNN` with the given fusion.

    Raises:
      InputError: the reference has no such fusion.
    """
    parts = FUSIONS[fusion].parts if fusion in FUSIONS else ()
    if not parts:
        mapped = ", ".join(name for name, module in FUSIONS.items() if module.parts)
        raise InputError(
            f"there is no map to PyTorch for fusion {fusion!r}, which the reference lacks; choose "
            f"a model of fusion {mapped}"
        )
    layers = _under("audio_model", audio_cnn_layers())
    layers += _under("visual_model", efficientface_layers(stage_repeats))
    for name, kind in parts:
        layers += _under(name, _FUSION_PARTS[kind]())
    return [*layers, Layer("classifier_1.0", ("classifier_1",), "dense")]


def audio_cnn_layers() -> list[Layer]:
    """Returns the key map of the reference's `AudioCNNPool`."""
    return [*_conv1d_blocks(), Layer("classifier_1.0", ("classifier_1",), "dense")]


def efficientface_layers(stage_repeats: Sequence[int] = STAGE_REPEATS) -> list[Layer]:
    """Returns the key map of the reference's `EfficientFaceTemporal`."""
    return [
        *backbone_layers(stage_repeats),
        *_conv1d_blocks(),
        Layer("classifier_1.0", ("classifier_1",), "dense"),
    ]


def backbone_layers(stage_repeats: Sequence[int] = STAGE_REPEATS) -> list[Layer]:
    """Returns the key map of EfficientFace's published checkpoints, except ``fc``."""
    layers = [
        Layer("conv1.0", ("conv1",), "conv2d_no_bias"),
        Layer("conv1.1", ("conv1_bn",), "batch_norm"),
    ]
    for stage, repeats in enumerate(stage_repeats, start=2):
        for unit in range(repeats):
            residual = _inverted_residual(downsamples=unit == 0)
            layers += _rename(f"stage{stage}.{unit}", f"stage{stage}_{unit}", residual)
    layers += _under("local", _local())
    layers += _under("modulator", _modulator())
    layers += [
        Layer("conv5.0", ("conv5",), "conv1x1_no_bias"),
        Layer("conv5.1", ("conv5_bn",), "batch_norm"),
    ]
    return layers


def _inverted_residual(downsamples: bool) -> list[Layer]:
    branch1 = [
        Layer("branch1.0", ("branch1_dw",), "depthwise"),
        Layer("branch1.1", ("branch1_dw_bn",), "batch_norm"),
        Layer("branch1.2", ("branch1_pw",), "conv1x1_no_bias"),
        Layer("branch1.3", ("branch1_pw_bn",), "batch_norm"),
    ]
    branch2 = [
        Layer("branch2.0", ("branch2_pw1",), "conv1x1_no_bias"),
        Layer("branch2.1", ("branch2_pw1_bn",), "batch_norm"),
        Layer("branch2.3", ("branch2_dw",), "depthwise"),
        Layer("branch2.4", ("branch2_dw_bn",), "batch_norm"),
        Layer("branch2.5", ("branch2_pw2",), "conv1x1_no_bias"),
        Layer("branch2.6", ("branch2_pw2_bn",), "batch_norm"),
    ]
    return branch1 + branch2 if downsamples else branch2


def _local() -> list[Layer]:
    layers = []
    for quarter in range(1, 5):
        for i in (1, 2):
            layers.append(Layer(f"conv{quarter}_{i}", (f"conv{quarter}_{i}",), "depthwise"))
            layers.append(Layer(f"bn{quarter}_{i}", (f"bn{quarter}_{i}",), "batch_norm"))
    return layers


def _modulator() -> list[Layer]:
    channel, spatial = "channel_att.gate_c.gate_c_", "spatial_att.gate_s.gate_s_"
    layers = [
        Layer(f"{channel}fc_0", ("channel_fc_0",), "dense"),
        Layer(f"{channel}bn_1", ("channel_bn_1",), "batch_norm"),
        Layer(f"{channel}fc_final", ("channel_fc_final",), "dense"),
        Layer(f"{spatial}conv_reduce0", ("spatial_reduce",), "conv1x1"),
        Layer(f"{spatial}bn_reduce0", ("spatial_bn_reduce",), "batch_norm"),
        Layer(f"{spatial}conv_final", ("spatial_final",), "conv1x1"),
    ]
    for i in range(2):
        layers.append(Layer(f"{spatial}conv_di_{i}", (f"spatial_dilated_{i}",), "conv2d"))
        layers.append(Layer(f"{spatial}bn_di_{i}", (f"spatial_bn_dilated_{i}",), "batch_norm"))
    return layers


def _conv1d_blocks() -> list[Layer]:
    layers = []
    for i in range(4):
        layers.append(Layer(f"conv1d_{i}.0", (f"conv1d_{i}", "conv"), "conv1d"))
        layers.append(Layer(f"conv1d_{i}.1", (f"conv1d_{i}", "bn"), "batch_norm"))
    return layers


def _attention() -> list[Layer]:
    return [
        Layer("q", ("q",), "dense_no_bias"),
        Layer("kv", ("kv",), "dense_no_bias"),
        Layer("proj", ("proj",), "dense"),
    ]


def _attention_block() -> list[Layer]:
    return [
        *(Layer(name, (name,), "layer_norm") for name in ("norm1_q", "norm1_k", "norm2")),
        *_under("attn", _attention()),
        Layer("mlp.fc1", ("mlp_fc1",), "dense"),
        Layer("mlp.fc2", ("mlp_fc2",), "dense"),
    ]


_FUSION_PARTS = {"attention": _attention, "attention_block": _attention_block}


def _inside(flax_name: str, layers: Sequence[Layer]) -> list[Layer]:
    """Moves layers below a Flax module that PyTorch does not have."""
    return [Layer(layer.torch_name, (flax_name, *layer.path), layer.kind) for layer in layers]


def _under(name: str, layers: Sequence[Layer]) -> list[Layer]:
    return _rename(name, name, layers)


def _rename(torch_name: str, flax_name: str, layers: Sequence[Layer]) -> list[Layer]:
    """Moves layers below a module of both networks."""
    return [
        Layer(f"{torch_name}.{layer.torch_name}", (flax_name, *layer.path), layer.kind)
        for layer in layers
    ]
