"""Replaces the two torchvision functions that facenet-pytorch imports.

Few torchvision builds match a CPU torch.
"""

import sys
import types

import numpy as np
import torch


def install() -> None:
    """Makes both functions importable; call before ``import facenet_pytorch``."""
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
    """Non-maximum suppression by IoU within each group; returns indices, best score first."""
    corners, group = boxes.numpy(), groups.numpy()
    area = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = scores.argsort(descending=True, stable=True).numpy()
    selected = []
    while len(order):
        best, others = order[0], order[1:]
        selected.append(best)
        low = np.maximum(corners[best, :2], corners[others, :2])
        high = np.minimum(corners[best, 2:], corners[others, 2:])
        intersection = np.maximum(high - low, 0).prod(1)
        with np.errstate(invalid="ignore"):
            iou = intersection / (area[best] + area[others] - intersection)
        order = others[~(iou > threshold) | (group[others] != group[best])]
    return torch.tensor(np.array(selected, np.int64))


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.as_tensor(np.array(image)).permute(2, 0, 1) / 255
