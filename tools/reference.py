"""Runs the reference implementation in float64, imported from a clone of its repository.

Needs PyTorch and a clone of github.com/katerynaCh/multimodal-emotion-recognition. Its model and
training function run unchanged; only their random draws are replaced.
"""

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import golden
import numpy as np

from avjax.errors import InputError

_FILES = ("models/multimodalcnn.py", "train.py")
URL = "https://github.com/katerynaCh/multimodal-emotion-recognition"


def use(path: Path) -> None:
    """Makes the reference importable.

    Raises:
      InputError: ``path`` is no clone, or PyTorch is not installed.
    """
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; clone {URL} and name its folder")
    try:
        import torch
    except ImportError as error:
        raise InputError("running the reference needs PyTorch: pip install torch") from error
    sys.path.insert(0, str(path.resolve()))
    torch.set_default_dtype(torch.float64)


class Reference:
    """A model of the reference and its optimizer."""

    def __init__(self, fusion: str, num_heads: int, num_frames: int, seed: int) -> None:
        """Builds the model with the weights of `golden.weights`."""
        import torch

        models = importlib.import_module("models.multimodalcnn")
        self.fusion, self.num_heads = fusion, num_heads
        self.model = models.MultiModalCNN(
            golden.NUM_CLASSES, fusion, seq_length=num_frames, num_heads=num_heads
        )
        shapes = {name: tuple(x.shape) for name, x in self.model.state_dict().items()}
        self.load(golden.weights(shapes, seed))
        self._optimizer = torch.optim.SGD(
            self.model.parameters(), lr=golden.LEARNING_RATE, **golden.SGD
        )

    def load(self, state_dict: Mapping[str, np.ndarray]) -> None:
        """Loads a complete state_dict."""
        import torch

        tensors = {name: torch.as_tensor(array) for name, array in state_dict.items()}
        self.model.load_state_dict(tensors, strict=True)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Returns parameters and running statistics."""
        return {name: x.detach().numpy().copy() for name, x in self.model.state_dict().items()}

    def gradients(self) -> dict[str, np.ndarray]:
        """Returns the last step's gradients; zeros for parameters without one."""
        return {
            name: (np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy())
            for name, p in self.model.named_parameters()
        }

    def logits(self, batch: golden.Inputs) -> np.ndarray:
        """Returns logits in evaluation mode."""
        import torch

        self.model.eval()
        with torch.no_grad():
            return self.model(torch.as_tensor(batch.mfcc), _frames(batch)).numpy()

    def features(self, batch: golden.Inputs) -> dict[str, np.ndarray]:
        """Returns both streams' features before fusion, in evaluation mode."""
        import torch

        self.model.eval()
        with torch.no_grad():
            frames = self.model.visual_model.forward_features(_frames(batch))
            video = self.model.visual_model.forward_stage1(frames)
            audio = self.model.audio_model.forward_stage1(torch.as_tensor(batch.mfcc))
        return {
            "frame_features": frames.numpy(),
            "visual_stage1": video.numpy(),
            "audio_stage1": audio.numpy(),
        }

    def train_step(
        self, mask: str, batch: golden.Inputs, draws: tuple[np.ndarray, ...], reverse: bool = False
    ) -> tuple[float, np.ndarray]:
        """Runs one step of the reference's training function.

        Args:
          mask: `softhard`, `noise` or `nodropout`.
          batch: the clips.
          draws: replaces the function's random draws; see `golden.draws`.
          reverse: reverses the enlarged batch, which only changes rounding.

        Returns:
          Loss and logits ``[copies * b, classes]`` in the enlarged batch's order.
        """
        import torch

        train = importlib.import_module("train")
        frames = torch.as_tensor(batch.frames / 255.0).permute(0, 4, 1, 2, 3)
        clips = (torch.as_tensor(batch.mfcc), frames, torch.as_tensor(batch.labels))
        if reverse and mask == "nodropout":  # not shuffled by the training function
            clips = tuple(x.flip(0) for x in clips)
        log: list[dict[str, Any]] = []
        logits: list[np.ndarray] = []
        hook = self.model.register_forward_hook(
            lambda module, args, output: logits.append(output.detach().numpy().copy())
        )
        logger = SimpleNamespace(log=log.append)
        options = SimpleNamespace(device="cpu", mask=None if mask == "nodropout" else mask)
        with _fixed_draws(mask, draws, reverse), contextlib.redirect_stdout(None):
            train.train_epoch_multimodal(
                1,
                [clips],
                self.model,
                torch.nn.CrossEntropyLoss(),
                self._optimizer,
                options,
                SimpleNamespace(log=lambda values: None),
                logger,
            )
        hook.remove()
        return log[0]["loss"], logits[0][::-1] if reverse else logits[0]


def _frames(batch: golden.Inputs) -> Any:
    """Returns frames as ``[b * n, 3, h, w]`` in 0..1."""
    import torch

    frames = batch.frames.reshape(-1, *batch.frames.shape[2:]).transpose(0, 3, 1, 2)
    return torch.as_tensor(frames / 255.0)


@contextlib.contextmanager
def _fixed_draws(mask: str, draws: tuple[np.ndarray, ...], reverse: bool) -> Iterator[None]:
    """Replaces the training function's three random functions."""
    import torch

    queue = list(draws)

    def randint(low: int, high: int, size: tuple[int, ...]) -> Any:
        return torch.as_tensor(np.round(queue.pop(0) * 100).astype(np.int64)).reshape(size)

    def randn(size: tuple[int, ...]) -> Any:
        drawn = queue.pop(0)
        drawn = drawn if drawn.ndim == 3 else drawn.transpose(0, 4, 1, 2, 3)
        return torch.as_tensor(np.ascontiguousarray(drawn)).reshape(size)

    def randperm(count: int) -> Any:
        return torch.arange(count).flip(0) if reverse else torch.arange(count)

    patches = {"randint": randint, "randn": randn, "randperm": randperm}
    with contextlib.ExitStack() as stack:
        for name, function in patches.items():
            stack.enter_context(mock.patch.object(torch, name, function))
        yield
    if queue:
        raise RuntimeError(f"the reference's training function drew less than expected for {mask}")
