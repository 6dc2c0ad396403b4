"""The reference implementation, imported from a clone of its repository and run in float64.

Needs PyTorch and a clone of github.com/katerynaCh/multimodal-emotion-recognition. Its own model and
its own training function run; only what they draw at random is handed in.
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
      InputError: no clone at ``path``, or no PyTorch.
    """
    lacking = [name for name in _FILES if not (path / name).is_file()]
    if lacking:
        raise InputError(f"{path} lacks {', '.join(lacking)}; clone {URL} and name its folder")
    try:
        import torch
    except ImportError as error:
        raise InputError("running the reference needs PyTorch: pip install torch") from error
    sys.path.insert(0, str(path.resolve()))
    torch.set_default_dtype(torch.float64)


class Reference:
    """One model of the reference with given weights, and its optimizer."""

    def __init__(self, fusion: str, num_heads: int, num_frames: int, seed: int) -> None:
        """Builds the model and fills it by `golden.weights`."""
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
        """Takes over a state_dict, every tensor of it."""
        import torch

        tensors = {name: torch.as_tensor(array) for name, array in state_dict.items()}
        self.model.load_state_dict(tensors, strict=True)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Parameters and statistics."""
        return {name: x.detach().numpy().copy() for name, x in self.model.state_dict().items()}

    def gradients(self) -> dict[str, np.ndarray]:
        """Of the last step; zeros for parameters that got none."""
        return {
            name: (np.zeros(p.shape) if p.grad is None else p.grad.numpy().copy())
            for name, p in self.model.named_parameters()
        }

    def logits(self, batch: golden.Inputs) -> np.ndarray:
        """Evaluation mode."""
        import torch

        self.model.eval()
        with torch.no_grad():
            return self.model(torch.as_tensor(batch.mfcc), _frames(batch)).numpy()

    def features(self, batch: golden.Inputs) -> dict[str, np.ndarray]:
        """What the streams have become before fusion, evaluation mode."""
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
        """One step of the reference's own training function.

        Args:
          mask: `softhard`, `noise` or `nodropout`.
          batch: the clips.
          draws: what the function would draw; see `golden.draws`.
          reverse: take the enlarged batch in reverse order, which changes only how sums round.

        Returns:
          Loss and logits ``[copies * b, classes]`` in the enlarged batch's order.
        """
        import torch

        train = importlib.import_module("train")
        frames = torch.as_tensor(batch.frames / 255.0).permute(0, 4, 1, 2, 3)
        clips = (torch.as_tensor(batch.mfcc), frames, torch.as_tensor(batch.labels))
        if reverse and mask == "nodropout":  # which the training function leaves in its order
            clips = tuple(x.flip(0) for x in clips)
        log: list[dict[str, Any]] = []
        logits: list[np.ndarray] = []
        hook = self.model.register_forward_hook(
            lambda module, args, output: logits.append(output.detach().numpy().copy())
        )
        logger = SimpleNamespace(log=log.append)
        options = SimpleNamespace(device="cpu", mask=None if mask == "nodropout" else mask)
        with _given_draws(mask, draws, reverse), contextlib.redirect_stdout(None):
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
    """``[b * n, 3, h, w]`` in 0..1."""
    import torch

    frames = batch.frames.reshape(-1, *batch.frames.shape[2:]).transpose(0, 3, 1, 2)
    return torch.as_tensor(frames / 255.0)


@contextlib.contextmanager
def _given_draws(mask: str, draws: tuple[np.ndarray, ...], reverse: bool) -> Iterator[None]:
    """Replaces the three sources of randomness of the training function."""
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
