"""Writes an avjax model as a state_dict that the reference's model loads with strict=True.

python tools/export_pytorch.py RUN_OR_CONVERTED OUT.pth

Needs PyTorch. --checkpoint wraps the state_dict as the reference's main.py does, for its test run.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from avjax import cli
from avjax.errors import InputError
from avjax.runtime.signals import loading

with loading():
    from avjax.runs.saved_model import ModelCard, load_model
    from avjax.runtime.files import atomic_file
    from avjax.weights.conversion import to_state_dict

ARCHITECTURE = "multimodalcnn"  # expected by the reference's main.py


def tensors(variables: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """Returns a model's state_dict with the reference's names, as CPU tensors.

    Raises:
      InputError: PyTorch is not installed, or the reference has no such network.
    """
    arrays = to_state_dict(variables, network)
    try:
        with loading():
            import torch
    except ImportError as error:
        raise InputError(
            "exporting needs PyTorch to write its format; install it: pip install torch"
        ) from error
    # Copy: torch expects writable arrays.
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def write(content: Any, path: Path) -> None:
    """Saves with ``torch.save``, replacing an existing file atomically."""
    import torch

    with atomic_file(path) as file:
        torch.save(content, file)


def constructor(card: ModelCard) -> str:
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


def define_flags(values: flags.FlagValues) -> None:
    """Defines the flags."""
    flags.DEFINE_bool(
        "checkpoint", False, "Wrap the state_dict as the reference's main.py does.",
        flag_values=values,
    )  # fmt: skip


def job(values: flags.FlagValues, positional: list[str]) -> None:
    """Exports one model."""
    if len(positional) != 2:
        raise InputError("give a run or converted checkpoint, and a file: RUN_OR_CONVERTED OUT.pth")
    source, out = positional[0], Path(positional[1])
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"cannot write {out}; name a file in a folder that exists")
    variables, card = load_model(source)
    content = tensors(variables, card.network)
    if values.checkpoint:
        content = {
            "epoch": card.epoch,
            "arch": ARCHITECTURE,
            "state_dict": content,
            "best_prec1": 100 * card.metrics.get("accuracy", 0.0),
        }
    write(content, out)
    print(f"{out}: {constructor(card)}")
    if card.profile != "reference":
        print(
            "trained on the fixed profile: feed it RGB frames normalised by AffectNet's mean and "
            "deviation; the reference's own scripts feed BGR divided by 255"
        )


def main(argv: list[str] | None = None) -> int:
    """Runs the command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
