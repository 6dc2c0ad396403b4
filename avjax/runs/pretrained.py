"""The variables that training starts from: fresh, or from a converted checkpoint."""

from typing import Any

import jax
import numpy as np

from avjax.errors import InputError
from avjax.models.network import Network
from avjax.models.networks import BACKBONE_KIND
from avjax.models.variables import init_variables
from avjax.runs.saved_model import read_model


def initial_variables(
    net: Network, seed: int, pretrained: str = "", profile: str | None = None
) -> dict[str, Any]:
    """Initialises a network, then takes over what ``pretrained`` holds.

    Args:
      net: the network.
      seed: of the initialisation.
      pretrained: empty, or a checkpoint of this very network, or of the EfficientFace backbone
        alone (kind "efficientface"), which fills part of ``visual_model``.
      profile: of the clips to train on; None leaves it unchecked.

    Raises:
      InputError: lists the tensors of the checkpoint that do not fit the network, or names the
        other profile that it was trained on.
    """
    variables = init_variables(net, jax.random.fold_in(jax.random.key(seed), 0))
    if not pretrained:
        return variables
    loaded, card = read_model(pretrained)
    if card.network["kind"] == BACKBONE_KIND:
        loaded = {name: {"visual_model": tree} for name, tree in loaded.items()}
    elif profile not in (None, card.profile):
        raise InputError(
            f"pretrained checkpoint {pretrained} expects clips of profile {card.profile!r}, and "
            f"the dataset's is {profile!r}; prepare the clips accordingly or choose another "
            "checkpoint"
        )
    faults: list[str] = []
    merged = {name: _merge(variables[name], loaded[name], name, faults) for name in variables}
    if faults:
        raise InputError(
            f"pretrained checkpoint {pretrained} does not fit the configured network: "
            f"{'; '.join(faults)}; choose the model settings that it was trained with"
        )
    return merged


def _merge(ours: Any, theirs: Any, path: str, faults: list[str]) -> Any:
    """Replaces the leaves of ``ours`` that ``theirs`` holds; notes what does not fit."""
    if not isinstance(ours, dict):
        if np.shape(ours) != np.shape(theirs):
            faults.append(f"{path} has shape {np.shape(theirs)} instead of {np.shape(ours)}")
        return jax.numpy.asarray(theirs, ours.dtype)
    faults.extend(f"unexpected {path}/{name}" for name in theirs if name not in ours)
    return {
        name: _merge(value, theirs[name], f"{path}/{name}", faults) if name in theirs else value
        for name, value in ours.items()
    }
