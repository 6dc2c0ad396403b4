"""Exports a model for programs that have no avjax: StableHLO, ONNX, safetensors or PyTorch."""

import sys

from avjax import commands

if __name__ == "__main__":  # before the slow imports
    sys.exit(commands.run("export"))

import functools
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import build_network
from avjax.models.ops.forms import forms
from avjax.runs.evaluation_file import EVALUATION_FILE, explain_damage, read_evaluation
from avjax.runs.model_readme import README, is_model_readme, model_readme
from avjax.runs.saved_model import ModelCard, load_model, save_model
from avjax.runtime.files import atomic_file, explain_unwritable, write_text
from avjax.training.step import present_streams
from avjax.weights.conversion import to_state_dict
from avjax.weights.torch_writer import write_state_dict

PLATFORMS = ("cpu", "cuda", "tpu")
OUTPUTS = ("logits", "probabilities")
INSTALL_ONNX = (
    "pip install onnx onnxruntime onnx-ir equinox dm-pix, then pip install --no-deps jax2onnx"
)


def export_model(path: str | Path, out: str | Path, format_: str = "stablehlo") -> Path:
    """Writes a model in another format, with a README that says what it is.

    The programs (`stablehlo`, `onnx`) take prepared clips, any number of them: sound features
    (``mfcc`` or ``log_mel``, float32 [b, t, c]) and face crops (``frames``, uint8
    [b, n, h, w, 3]), of those that the network reads; with both also ``has_audio`` and
    ``has_video``, bool [b]. They return logits and calibrated probabilities, float32 [b, k].

    Args:
      path: a run, a model's directory, or the name of a carried model.
      out: the folder to write, or to replace files of an export in.
      format_: one of `FORMATS`.

    Returns:
      The model's file.

    Raises:
      InputError: no model there, an unknown format, one that does not hold such a network or needs
        a library that is missing, or a folder that cannot be written or holds such a file already
        that is not of an export.
    """
    if format_ not in FORMATS:
        raise InputError(f"unknown format {format_!r}; choose one of {', '.join(FORMATS)}")
    variables, card = load_model(path)
    name, write = FORMATS[format_]
    out = Path(out)
    if out.is_file():
        raise InputError(f"{out} is a file; name a folder for the exported model")
    for file in (out / name, out / README):
        if file.exists() and not is_model_readme(out / README):
            raise InputError(f"{file} is of no export, and is not replaced; name another folder")
    content = write(variables, card)
    evaluation = read_evaluation(Path(path))
    with explain_damage(str(Path(path) / EVALUATION_FILE)):
        readme = model_readme(card, format_, signature(card), evaluation)
    with explain_unwritable(out, "choose another folder"):
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / README, readme)  # first: it allows the same call to replace what it wrote
        content(out)
    return out / name


def signature(card: ModelCard) -> dict[str, tuple[tuple[int | str, ...], str]]:
    """Returns shape and dtype of a program's inputs by name; ``b`` is any number of clips."""
    inputs = build_network(card.network).inputs
    shapes: dict[str, tuple[tuple[int | str, ...], str]] = {}
    if "audio" in inputs.streams:
        shapes[inputs.audio] = ("b", card.audio_steps, inputs.audio_width), "float32"
    if "video" in inputs.streams:
        frames = ("b", card.num_frames, card.image_size, card.image_size, 3)
        shapes["frames"] = frames, "uint8"
    if len(inputs.streams) > 1:
        shapes |= {name: (("b",), "bool") for name in ("has_audio", "has_video")}
    return shapes


def program(
    variables: Mapping[str, Any], card: ModelCard
) -> Callable[..., tuple[Float[Array, "b k"], Float[Array, "b k"]]]:
    """Returns a function of the inputs of `signature`, in that order."""
    net, names = build_network(card.network), list(signature(card))

    def run(*inputs: Array) -> tuple[Array, Array]:
        batch = _batch(dict(zip(names, inputs, strict=True)), net)
        logits = net.apply(variables, *present_streams(batch, card.profile))
        temperatures = _temperatures(card, batch["has_audio"], batch["has_video"])
        return logits, jax.nn.softmax(logits / temperatures[:, None])

    return run


def _batch(given: dict[str, Array], net: Network) -> dict[str, Array]:
    """Completes a program's inputs: a stream that the network does not read is empty."""
    count = next(iter(given.values())).shape[0]  # may be a symbol

    def repeated(value: Array, *shape: int) -> Array:
        return jnp.broadcast_to(value, (count, *shape))

    batch = {
        "audio": repeated(jnp.float32(0), 1, 1),
        "frames": repeated(jnp.uint8(0), 0, 1, 1, 3),
        **{f"has_{s}": repeated(jnp.bool_(s in net.inputs.streams)) for s in ("audio", "video")},
    }
    return batch | {"audio" if name == net.inputs.audio else name: x for name, x in given.items()}


def _temperatures(card: ModelCard, has_audio: Array, has_video: Array) -> Float[Array, "b"]:
    """Returns each clip's temperature, by the streams that it has."""
    both, audio, video = (card.temperatures.get(name, 1.0) for name in ("both", "audio", "video"))
    alone = jnp.where(has_audio, jnp.float32(audio), jnp.float32(video))
    return jnp.where(has_audio & has_video, jnp.float32(both), alone)


Write = Callable[[Path], None]


def _stablehlo(variables: Mapping[str, Any], card: ModelCard) -> Write:
    """Exports a program for `PLATFORMS`, serialised by `jax.export`."""
    (b,) = jax.export.symbolic_shape("b")
    shapes = [
        jax.ShapeDtypeStruct(tuple(b if n == "b" else n for n in shape), jnp.dtype(dtype))
        for shape, dtype in signature(card).values()
    ]
    with forms("gpu"):  # all images at once: those of a CPU count them
        exporter = jax.export.export(jax.jit(program(variables, card)), platforms=PLATFORMS)
        exported = exporter(*shapes)
    return functools.partial(_write, FORMATS["stablehlo"][0], exported.serialize())


def _onnx(variables: Mapping[str, Any], card: ModelCard) -> Write:
    """Exports an ONNX program by jax2onnx, with ONNX's own convolutions.

    Raises:
      InputError: jax2onnx is not installed.
    """
    try:
        import jax2onnx
        import onnx
    except ImportError as error:
        raise InputError(
            f"exporting ONNX needs jax2onnx ({error}); install it: {INSTALL_ONNX}"
        ) from error
    inputs = signature(card)
    shapes = [
        jax.ShapeDtypeStruct(tuple("B" if n == "b" else n for n in shape), jnp.dtype(dtype))
        for shape, dtype in inputs.values()
    ]
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # thousands of lines
    with forms("gpu", conv2d="nhwc", depthwise="nhwc"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = jax2onnx.to_onnx(
            program(variables, card),
            inputs=shapes,
            model_name="avjax",
            input_names=list(inputs),
            output_names=list(OUTPUTS),
        )
    _pad_in_float32(model, onnx.numpy_helper)
    return functools.partial(_write, FORMATS["onnx"][0], model.SerializeToString())


def _pad_in_float32(model: Any, helper: Any) -> None:
    """Mends constants of Pad, which jax2onnx writes as float64 whatever they pad."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Pad" and len(node.input) > 2 and node.input[2] in constants:
            tensor = constants[node.input[2]]
            value = helper.to_array(tensor)
            if value.dtype == np.float64:
                tensor.CopyFrom(helper.from_array(value.astype(np.float32), tensor.name))


def _safetensors(variables: Mapping[str, Any], card: ModelCard) -> Write:
    """Exports variables and card, as avjax saves them."""
    return lambda out: save_model(out, variables, card)


def _pytorch(variables: Mapping[str, Any], card: ModelCard) -> Write:
    """Exports a state_dict for the reference's model; needs no PyTorch.

    Raises:
      InputError: the reference has no such network.
    """
    arrays = to_state_dict(variables, card.network)

    def write(out: Path) -> None:
        with atomic_file(out / FORMATS["pytorch"][0]) as file:
            write_state_dict(file, arrays)

    return write


def _write(name: str, content: bytes | bytearray, out: Path) -> None:
    with atomic_file(out / name) as file:
        file.write(content)


FORMATS: dict[str, tuple[str, Callable[[Mapping[str, Any], ModelCard], Write]]] = {
    "stablehlo": ("model.stablehlo", _stablehlo),
    "onnx": ("model.onnx", _onnx),
    "safetensors": ("model.safetensors", _safetensors),
    "pytorch": ("model.pth", _pytorch),
}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; see `avjax.commands.export`."""
    return commands.run("export", argv)
