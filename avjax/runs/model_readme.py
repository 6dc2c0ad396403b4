"""The README beside an exported model: what goes in, what comes out, what it is worth."""

from collections.abc import Mapping, Sequence
from typing import Any

from avjax.runs.saved_model import ModelCard

Signature = Mapping[str, tuple[Sequence[int | str], str]]

_LOADING = {
    "stablehlo": """```python
import jax

with open("model.stablehlo", "rb") as file:
    model = jax.export.deserialize(bytearray(file.read()))
logits, probabilities = model.call({arguments})
```""",
    "onnx": """```python
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx")
logits, probabilities = session.run(None, {{{named}}})
```""",
    "safetensors": """```python
import avjax

model = avjax.load(".")  # this folder
```""",
    "pytorch": """```python
import torch

model.load_state_dict(torch.load("model.pth", weights_only=True))  # the reference's model
```""",
}
_INPUTS = {
    "mfcc": "10 MFCCs of mono sound at 22050 Hz, as `docs/deploy.md` of avjax computes them",
    "log_mel": "log-mel spectra of mono sound at 22050 Hz",
    "frames": "face crops, 0 to 255, {order}; normalisation is part of the model",
    "has_audio": "whether a clip has sound; if not, its features are ignored",
    "has_video": "whether a clip has frames; if not, they are ignored",
}


def model_readme(
    card: ModelCard,
    format_: str,
    signature: Signature,
    evaluation: Mapping[str, Any] | None = None,
) -> str:
    """Returns the README of a model.

    Args:
      card: the model's card.
      format_: "stablehlo", "onnx", "safetensors" or "pytorch".
      signature: shape and dtype of each input, by name.
      evaluation: the run's ``evaluation.json``, if there is one.
    """
    about = card.about
    network = ", ".join(f"{name} {value}" for name, value in card.network.items())
    loading = _LOADING[format_].format(
        arguments=", ".join(signature), named=", ".join(f'"{name}": {name}' for name in signature)
    )
    parts = [
        f"# {about.get('name', 'A model')} for emotion recognition",
        f"Made with avjax. Network: {network}. Classes: {', '.join(card.classes)}.",
        f"## Use\n\n{loading}",
        *([_inputs(card, signature)] if format_ in ("stablehlo", "onnx") else []),
        f"## Calibration\n\n{_calibration(card)}",
        f"## Data and licence\n\n{_data(card)}",
        f"## Accuracy\n\n{_accuracy(card, evaluation)}",
        "## Limits\n\n"
        + about.get("limits", "It names the class that its training clips would suggest")
        + ". Emotion shown is not emotion felt: do not base decisions about people on it.",
    ]
    return "\n\n".join(parts) + "\n"


def _inputs(card: ModelCard, signature: Signature) -> str:
    order = "RGB" if card.profile == "fixed" else "BGR"
    rows = []
    for name, (shape, dtype) in signature.items():
        what = _INPUTS[name].format(order=order)
        rows.append(f"| `{name}` | {dtype} [{', '.join(map(str, shape))}] | {what} |")
    note = (
        f"`b` is any number of clips of {card.seconds:g} s. `logits` and `probabilities` are "
        "float32 [b, k], in the order of the classes."
    )
    return "\n".join(["| input | type | what |", "| --- | --- | --- |", *rows, "", note])


def _calibration(card: ModelCard) -> str:
    if not card.temperatures:
        return "No temperature was fitted: probabilities are as trained, often too sure."
    fitted = [f"{value:.3f} ({name})" for name, value in card.temperatures.items()]
    return (
        f"Probabilities are the softmax of logits divided by a temperature: {', '.join(fitted)}, "
        "by the streams that a clip has. Logits are not divided."
    )


def _data(card: ModelCard) -> str:
    if "data" in card.about:
        return f"{card.about['data']}. Licence: {card.about.get('licence', 'not stated')}."
    return (
        f"Prepared by avjax (profile {card.profile}). The card does not name the training clips; "
        "their licence holds for the model too."
    )


def _accuracy(card: ModelCard, evaluation: Mapping[str, Any] | None) -> str:
    if "accuracy" in card.about:
        return f"{card.about['accuracy']}."
    if evaluation is not None:
        rows = [
            f"| {name} | {scores['num_clips']} | {scores['accuracy']:.1%} |"
            for name, scores in evaluation["conditions"].items()
        ]
        header = [f"| condition, {evaluation['split']} split | clips | accuracy |"]
        return "\n".join([*header, "| --- | --- | --- |", *rows])
    if "accuracy" not in card.metrics:
        return "Not known."
    return f"{card.metrics['accuracy']:.1%} of the validation clips, epoch {card.epoch}."
