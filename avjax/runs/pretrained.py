"""Initial variables of training, optionally from a pretrained model."""

from typing import Any

import jax
import numpy as np

from avjax.errors import InputError, shortened
from avjax.models.network import Network
from avjax.models.networks import BACKBONE_KIND
from avjax.models.variables import init_variables
from avjax.runs.saved_model import read_model


def initial_variables(
    net: Network, seed: int, pretrained: str = "", profile: str | None = None
) -> dict[str, Any]:
    """Initialises a network and loads a pretrained model, if given.

    Args:
      net: the network.
      seed: seed of the initialisation.
      pretrained: a model of the same network, or of the EfficientFace backbone (kind
        "efficientface"), which initialises part of ``visual_model``; empty for none.
      profile: profile of the training clips; None skips the check.

    Raises:
      InputError: tensors of the model do not fit the network (lists some), or it was trained on
        another profile.
    """
    variables = init_variables(net, jax.random.fold_in(jax.random.key(seed), 0))
    if not pretrained:
        return variables
    loaded, card = read_model(pretrained)
    if card.network.get("kind") == BACKBONE_KIND:
        loaded = {name: {"visual_model": tree} for name, tree in loaded.items()}
    elif profile not in (None, card.profile):
        raise InputError(
            f"pretrained checkpoint {pretrained} expects clips of profile {card.profile!r}, but "
            f"the dataset's is {profile!r}; prepare the clips accordingly or choose another "
            "checkpoint"
        )
    faults: list[str] = []
    merged = {name: _merge(variables[name], loaded[name], name, faults) for name in variables}
    if faults:
        raise InputError(
            f"pretrained checkpoint {pretrained} does not fit the configured network: "
            f"{'; '.join(shortened(faults))}; choose the model settings that it was trained with"
        )
    return merged


def _merge(initial: Any, loaded: Any, path: str, faults: list[str]) -> Any:
    """Replaces leaves of ``initial`` with those of ``loaded``; appends mismatches to ``faults``."""
    if not isinstance(initial, dict):
        if np.shape(initial) != np.shape(loaded):
            faults.append(f"{path} has shape {np.shape(loaded)} instead of {np.shape(initial)}")
        return jax.numpy.asarray(loaded, initial.dtype)
    faults.extend(f"unexpected {path}/{name}" for name in loaded if name not in initial)
    return {
        name: _merge(value, loaded[name], f"{path}/{name}", faults) if name in loaded else value
        for name, value in initial.items()
    }
