"""What facenet-pytorch imports of torchvision, whose builds seldom match a CPU torch."""

import sys
import types

import numpy as np
import torch


def install() -> None:
    """Makes the two functions importable; call before ``import facenet_pytorch``."""
    contents = {
        "torchvision.ops.boxes": {"batched_nms": batched_nms},
        "torchvision.transforms": {"functional": types.ModuleType("functional")},
        "torchvision.transforms.functional": {"to_tensor": _to_tensor},
    }
    for name in ("torchvision", "torchvision.ops", *contents):
        sys.modules[name] = types.ModuleType(name)
        for attribute, value in contents.get(name, {}).items():
            setattr(sys.modules[name], attribute, value)


def batched_nms(
    boxes: torch.Tensor, scores: torch.Tensor, groups: torch.Tensor, threshold: float
) -> torch.Tensor:
    """Suppression by intersection over union within each group; indices, best score first."""
    corners, owner = boxes.numpy(), groups.numpy()
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = scores.argsort(descending=True, stable=True).numpy()
    kept = []
    while len(order):
        best, rest = order[0], order[1:]
        kept.append(best)
        low = np.maximum(corners[best, :2], corners[rest, :2])
        high = np.minimum(corners[best, 2:], corners[rest, 2:])
        shared = np.maximum(high - low, 0).prod(1)
        with np.errstate(invalid="ignore"):
            overlap = shared / (area[best] + area[rest] - shared)
        order = rest[~(overlap > threshold) | (owner[rest] != owner[best])]
    return torch.tensor(np.array(kept, np.int64))


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255
