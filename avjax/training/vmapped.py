"""A training step of several runs at once, vmapped over a leading axis.

The runs share the network and the step's config. Each has its own parameters, statistics, clips and
keys, and computes the same as alone, up to the order of sums.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, Key

from avjax.models.network import Network
from avjax.models.ops import total
from avjax.training.step import Batch, StepConfig, StepSums, TrainState, train_step


class Runs(NamedTuple):
    """Key and schedule of each run.

    Attributes:
      keys: each run's random key.
      schedules: index of each run's learning rate schedule.
    """

    keys: Key[Array, "m"]
    schedules: Int[Array, "m"]


def stack(trees: Sequence[Any]) -> Any:
    """Stacks the runs' trees along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@jax.jit
def unstack(tree: Any, number: Int[Array, ""]) -> Any:
    """Returns one run's part of a stacked tree."""
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
) -> tuple[TrainState, StepSums]:
    """Trains every run on its own batch; see `avjax.training.step.train_step`.

    A run whose rows are all padding idles: its state, counters included, does not change, and its
    sums are zeros. Runs with fewer clips thus wait for runs with more.

    Args:
      states: the stacked states of m runs.
      batch: as for `train_step`, each array ``[b, m, ...]``: rows come first, to be sharded.
      runs: their keys and schedules.
      axis_name: mapped device axis, or None.
      net: the network of all runs.
      optimizer: makes the optimizer for a schedule.
      schedules: the distinct learning rate schedules; runs differ in steps per epoch.
      config: the step's config, the same for all runs.
      profile: preparation profile of all clips.

    Returns:
      The stacked states and metric sums.
    """

    def single(state: TrainState, rows: Batch, run: Runs) -> tuple[TrainState, StepSums]:
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
        has_clips = total(rows["weight"].sum(), axis_name) > 0
        return (
            jax.tree.map(lambda after, before: jnp.where(has_clips, after, before), new, state),
            jax.tree.map(lambda x: jnp.where(has_clips, x, 0), sums),
        )

    return jax.vmap(single, in_axes=(0, 1, 0))(states, batch, runs)


def _choose(schedules: Sequence[optax.Schedule], number: Int[Array, ""]) -> optax.Schedule:
    """Returns the schedule at a traced index."""
    if len(schedules) == 1:
        return schedules[0]
    return lambda step: jnp.stack([schedule(step) for schedule in schedules])[number]
