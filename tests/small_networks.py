"""Small networks of every kind, which compile quickly."""

import dataclasses

from avjax.models.network import Network
from avjax.models.networks import NETWORKS

# Values of size fields, for networks that have them.
SIZES = {"stage_repeats": (1, 1, 1), "num_mels": 6, "coefficients": (2, 5)}


def small_network(kind: str, num_classes: int = 3, **fields: object) -> Network:
    """Returns a small network of a kind in `NETWORKS`."""
    module, _ = NETWORKS[kind]
    names = {field.name for field in dataclasses.fields(module)}
    sizes = {name: value for name, value in SIZES.items() if name in names}
    return module(num_classes=num_classes, **{**sizes, **fields})
