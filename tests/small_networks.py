"""Every kind of network with few units, which compiles in a fraction of the time."""

import dataclasses

from avjax.models.network import Network
from avjax.models.networks import NETWORKS

# What fields that only set a size are, where a network has them.
FEW = {"stage_repeats": (1, 1, 1), "num_mels": 6, "coefficients": (2, 5)}


def small_network(kind: str, num_classes: int = 3, **fields: object) -> Network:
    """The network of a kind of `NETWORKS`, small."""
    module, _ = NETWORKS[kind]
    names = {field.name for field in dataclasses.fields(module)}
    few = {name: value for name, value in FEW.items() if name in names}
    return module(num_classes=num_classes, **{**few, **fields})
