"""One step of several runs at once: a vmapped program over a leading axis of runs.

The runs share a network and a step's config. Each has parameters, statistics, clips and keys of its
own, and computes what it would compute alone; only the order of sums differs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from avjax.models.network import Network
from avjax.models.ops import total
from avjax.training import metrics
from avjax.training.step import Batch, StepConfig, TrainState, train_step


class Runs(NamedTuple):
    """What tells the runs of one program apart, besides their states.

    Attributes:
      keys: each run's key.
      schedules: which of the learning rates' schedules each follows.
    """

    keys: Key[Array, "m"]
    schedules: Int[Array, "m"]


def stack(trees: Sequence[Any]) -> Any:
    """Puts the runs' trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def unstack(tree: Any, number: Int[Array, ""]) -> Any:
    """One run's part of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[number], tree)


def vmapped_step(
    states: TrainState,
    batch: Batch,
    runs: Runs,
    axis_name: str | None = None,
    *,
    net: Network,
    optimizer: Callable[[optax.Schedule], optax.GradientTransformation],
    schedules: Sequence[optax.Schedule],
    config: StepConfig,
    profile: str,
) -> tuple[TrainState, metrics.Sums]:
    """Updates every run on its own batch, as `avjax.training.step.train_step` would.

    A run all of whose rows are padding idles: its state stays as it is, counters included, and its
    sums are zeros. So runs with fewer clips wait for those with more.

    Args:
      states: of m runs, stacked.
      batch: as of `train_step`, each array ``[b, m, ...]``: rows first, for devices share rows.
      runs: their keys and schedules.
      axis_name: mapped device axis, or None.
      net: the network of all runs.
      optimizer: makes the optimizer that follows a schedule.
      schedules: the different learning rates by step: a run's epochs may be of fewer steps.
      config: of all runs.
      profile: of all clips.

    Returns:
      The next states and the metric sums, stacked.
    """

    def one(state: TrainState, rows: Batch, run: Runs) -> tuple[TrainState, metrics.Sums]:
        new, sums = train_step(
            state,
            rows,
            run.keys,
            axis_name,
            net=net,
            optimizer=optimizer(_choose(schedules, run.schedules)),
            config=config,
            profile=profile,
        )
        trains = total(rows["weight"].sum(), axis_name) > 0
        return (
            jax.tree.map(lambda after, before: jnp.where(trains, after, before), new, state),
            jax.tree.map(lambda x: jnp.where(trains, x, 0), sums),
        )

    return jax.vmap(one, in_axes=(0, 1, 0))(states, batch, runs)


def _choose(schedules: Sequence[optax.Schedule], number: Int[Array, ""]) -> optax.Schedule:
    """The schedule of a number that only the running program knows."""
    if len(schedules) == 1:
        return schedules[0]
    return lambda step: jnp.stack([schedule(step) for schedule in schedules])[number]
