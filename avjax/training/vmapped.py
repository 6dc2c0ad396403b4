"""One step of many models at once: a vmapped program over a leading axis of models.

The models share a network and a recipe. Each has parameters, statistics, clips and keys of its own,
and computes what it would compute alone; only the order of sums differs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from jaxtyping import Array, Int, Key

from avjax.models.ops import total
from avjax.training import metrics
from avjax.training.step import Batch, Recipe, TrainState, train_step


class Members(NamedTuple):
    """What tells the models of one program apart, besides their states.

    Attributes:
      keys: each model's own, as of a run alone.
      schedules: which of the learning rates' schedules each follows.
    """

    keys: Key[Array, "m"]
    schedules: Int[Array, "m"]


def stack(trees: Sequence[Any]) -> Any:
    """Puts the models' trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def member(tree: Any, number: Int[Array, ""]) -> Any:
    """One model's part of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[number], tree)


def members_step(
    states: TrainState,
    batch: Batch,
    members: Members,
    axis_name: str | None = None,
    *,
    net: nn.Module,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    schedules: Sequence[optax.Schedule],
    recipe: Recipe,
) -> tuple[TrainState, metrics.Sums]:
    """Updates every model on its own batch, as `avjax.training.step.train_step` would.

    A model all of whose rows are padding idles: its state stays as it is, counters included, and
    its sums are zeros. So models with fewer clips wait for those with more.

    Args:
      states: of m models, stacked.
      batch: as of `train_step`, each array ``[b, m, ...]``: rows first, for devices share rows.
      members: the models' keys and schedules.
      axis_name: mapped device axis, or None.
      net: the network of all models.
      optimizer: makes the optimizer that follows a schedule.
      schedules: the different learning rates by step: a model's epochs may be of fewer steps.
      recipe: of all models.

    Returns:
      The next states and the metric sums, stacked.
    """

    def one(state: TrainState, rows: Batch, own: Members) -> tuple[TrainState, metrics.Sums]:
        new, sums = train_step(
            state,
            rows,
            own.keys,
            axis_name,
            net=net,
            optimizer=optimizer(_choose(schedules, own.schedules)),
            recipe=recipe,
        )
        trains = total(rows["weight"].sum(), axis_name) > 0
        return (
            jax.tree.map(lambda after, before: jnp.where(trains, after, before), new, state),
            jax.tree.map(lambda x: jnp.where(trains, x, 0), sums),
        )

    return jax.vmap(one, in_axes=(0, 1, 0))(states, batch, members)


def _choose(schedules: Sequence[optax.Schedule], number: Int[Array, ""]) -> optax.Schedule:
    """The schedule of a number that only the running program knows."""
    if len(schedules) == 1:
        return schedules[0]
    return lambda step: jnp.stack([schedule(step) for schedule in schedules])[number]
