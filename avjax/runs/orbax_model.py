"""Models of earlier versions, which Orbax wrote."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict

from avjax.runs.checkpoints import CARD, open_manager

_VARIABLES = "variables"


def read_orbax_model(directory: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads arrays by path, and the stored card.

    Raises:
      Exception: Orbax and TensorStore raise many types if the model is damaged.
    """
    handlers = {_VARIABLES: ocp.StandardCheckpointHandler(), CARD: ocp.JsonCheckpointHandler()}
    manager = open_manager(directory.parent, handlers, write=False)
    try:
        step = int(directory.name)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
            manager.item_metadata(step)[_VARIABLES].tree,
        )
        args = {_VARIABLES: ocp.args.StandardRestore(like), CARD: ocp.args.JsonRestore()}
        restored = manager.restore(step, args=ocp.args.Composite(**args))
    finally:
        manager.close()
    return jax.device_get(flatten_dict(restored[_VARIABLES], sep="/")), restored[CARD]
