"""Writes an avjax model as a state_dict that the reference's model loads with strict=True.

python tools/export_pytorch.py RUN_OR_CONVERTED OUT.pth

Needs PyTorch. With --checkpoint the state_dict stands in a dict as the reference's main.py
saves it, so that its test run finds what it looks for.
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

ARCHITECTURE = "multimodalcnn"  # what the reference's main.py expects to find in a checkpoint


def tensors(variables: dict[str, Any], network: dict[str, Any]) -> dict[str, Any]:
    """A model's state_dict under the reference's names, as torch tensors on the CPU.

    Raises:
      InputError: PyTorch is not installed, or the network is none of the reference's.
    """
    arrays = to_state_dict(variables, network)
    try:
        with loading():
            import torch
    except ImportError as error:
        raise InputError(
            "exporting needs PyTorch to write its format; install it: pip install torch"
        ) from error
    # A copy: torch wants arrays that may be written to.
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def write(content: Any, path: Path) -> None:
    """Saves by ``torch.save``; a file that is there stays whole until the new one is."""
    import torch

    with atomic_file(path) as file:
        torch.save(content, file)


def constructor(card: ModelCard) -> str:
    """The reference's model that takes the state_dict."""
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
    """The command's flags."""
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
    """The command line."""
    return cli.run(argv, define_flags, job, __doc__ or "")


if __name__ == "__main__":
    sys.exit(main())
