"""The README beside an exported model: what goes in, what comes out, what it is worth."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from avjax.runs.saved_model import ModelCard

Signature = Mapping[str, tuple[Sequence[int | str], str]]

README = "README.md"
_MADE = "Made with avjax."

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

state_dict = torch.load("model.pth", weights_only=True)
model = {constructor}  # of the reference
model.load_state_dict(state_dict)
```

Feed the model {fed}.{wrapping}""",
}
_WRAPPING = """ For its test run, the reference's `main.py` expects this around the tensors:

```python
checkpoint = {{"epoch": {epoch}, "arch": "multimodalcnn", "best_prec1": 0.0}}
checkpoint["state_dict"] = state_dict
torch.save(checkpoint, "RAVDESS_multimodalcnn_{num_frames}_best0.pth")
```"""
# By profile, how frames are stored, and how they are normalised.
_ORDER = {"fixed": "RGB", "reference": "BGR"}
_SCALE = {"fixed": "normalised by AffectNet's mean and deviation", "reference": "divided by 255"}
_INPUTS = {
    "mfcc": "10 MFCCs of mono sound at 22050 Hz, as `docs/deploy.md` of avjax computes them",
    "log_mel": "log-mel spectra of mono sound at 22050 Hz, log(1 + 400000 power), as `log_mel` in "
    "`docs/deploy.md` of avjax computes them",
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
        arguments=", ".join(signature),
        named=", ".join(f'"{name}": {name}' for name in signature),
        **(_reference(card, signature) if format_ == "pytorch" else {}),
    )
    parts = [
        f"# {about.get('name', 'A model')} for emotion recognition",
        f"{_MADE} Network: {network}. Classes: {', '.join(card.classes)}.",
        f"## Use\n\n{loading}",
        *([_inputs(card, signature)] if format_ in ("stablehlo", "onnx") else []),
        f"## Calibration\n\n{_calibration(card)}",
        f"## Data and licence\n\n{_data(card)}",
        f"## Accuracy\n\n{_accuracy(card, evaluation)}",
        f"## Limits\n\n{_limits(card)}",
    ]
    return "\n\n".join(parts) + "\n"


def is_model_readme(path: Path) -> bool:
    """Whether a file is such a README."""
    return path.is_file() and _MADE in path.read_text(encoding="utf-8", errors="replace")


def _reference(card: ModelCard, signature: Signature) -> dict[str, str]:
    """Returns how the reference makes the model, and what it feeds to it."""
    fed = [f"{_INPUTS['mfcc']} (`mfcc`), transposed: [b, 10, t]"] if "mfcc" in signature else []
    if "frames" in signature:
        fed.append(f"{_ORDER[card.profile]} frames, {_SCALE[card.profile]}")
    wrapping = _WRAPPING.format(epoch=card.epoch, num_frames=card.num_frames)
    return {
        "constructor": _constructor(card),
        "fed": "; and ".join(fed),
        "wrapping": wrapping if len(fed) > 1 else "",
    }


def _constructor(card: ModelCard) -> str:
    """Returns the reference's constructor call for the model."""
    network, classes = card.network, card.network["num_classes"]
    kind = network.get("kind")
    if kind == "audio":
        return f"AudioCNNPool(num_classes={classes})"
    if kind == "video":
        return (
            "EfficientFaceTemporal([4, 8, 4], [29, 116, 232, 464, 1024], "
            f"num_classes={classes}, im_per_sample={card.num_frames})"
        )
    return (
        f"MultiModalCNN(num_classes={classes}, fusion={network['fusion']!r}, "
        f"seq_length={card.num_frames}, num_heads={network['num_heads']})"
    )


def _inputs(card: ModelCard, signature: Signature) -> str:
    rows = []
    for name, (shape, dtype) in signature.items():
        what = _INPUTS[name].format(order=_ORDER[card.profile])
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


def _limits(card: ModelCard) -> str:
    if "limits" in card.about:
        limits = card.about["limits"]
        return f"{limits[:1].upper()}{limits[1:]}."
    return (
        "It names the class that its training clips would suggest. Emotion shown is not emotion "
        "felt: do not base decisions about people on it."
    )
