"""Optimizers: PyTorch's SGD with a step schedule, and AdamW with a cosine schedule."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from avjax.errors import InputError

GRADIENT_NORM = 5.0
ADAM_B2 = 0.99  # runs are a few thousand steps long


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate.

    Attributes:
      name: `sgd` (PyTorch's, step schedule) or `adamw` (cosine schedule).
      learning_rate: peak learning rate.
      milestones: `sgd`: epochs at which the learning rate drops to a tenth.
      momentum: `sgd`: decay of the momentum buffer.
      dampening: `sgd`: the buffer adds ``1 - dampening`` times the gradient.
      weight_decay: `sgd`: L2 factor; `adamw`: decoupled weight decay of kernels.
      warmup_epochs: `adamw`: epochs of linear warm-up from 0.

    Raises:
      InputError: an unknown name, or a value out of range.
    """

    name: str = "sgd"
    learning_rate: float = 0.04
    milestones: tuple[int, ...] = (40, 55, 65, 70, 200, 250)
    momentum: float = 0.9
    dampening: float = 0.9
    weight_decay: float = 1e-3
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        if self.name not in ("sgd", "adamw"):
            raise InputError(f"unknown optimizer {self.name!r}; choose one of sgd, adamw")
        for name in ("learning_rate", "weight_decay"):
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise InputError(f"config.optimizer.{name}={value}; choose 0 or more")
        for name in ("momentum", "dampening"):
            value = getattr(self, name)
            if not 0 <= value <= 1:
                raise InputError(f"config.optimizer.{name}={value}; choose a share from 0 to 1")
        if any(epoch < 1 for epoch in self.milestones):
            raise InputError(f"config.optimizer.milestones={self.milestones}; epochs count from 1")
        if self.warmup_epochs < 0:
            raise InputError(
                f"config.optimizer.warmup_epochs={self.warmup_epochs}; choose 0 or more"
            )

    def schedule(self, num_epochs: int, steps_per_epoch: int) -> optax.Schedule:
        """Returns the learning rate schedule.

        Raises:
          InputError: the warm-up leaves no epoch for the cosine decay.
        """
        if self.name == "adamw":
            return cosine_schedule(
                self.learning_rate, self.warmup_epochs, num_epochs, steps_per_epoch
            )
        return step_schedule(self.learning_rate, self.milestones, steps_per_epoch)

    def optimizer(self, schedule: optax.Schedule, trained: Any) -> optax.GradientTransformation:
        """Returns the optimizer with this schedule; see `sgd` for ``trained``."""
        if self.name == "adamw":
            return adamw(schedule, weight_decay=self.weight_decay, trained=trained)
        return sgd(
            schedule,
            momentum=self.momentum,
            dampening=self.dampening,
            weight_decay=self.weight_decay,
            trained=trained,
        )


class DampenedTrace(NamedTuple):
    """State of `dampened_trace`: number of updates and the momentum buffer."""

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    trace: Any


def dampened_trace(momentum: float, dampening: float) -> optax.GradientTransformation:
    """Computes ``buffer = momentum * buffer + (1 - dampening) * gradient``, first step undampened.

    `optax.trace` has no dampening, and scaling the gradient would also dampen the first step.
    """

    def init(params: Any) -> DampenedTrace:
        return DampenedTrace(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        gradients: Any, state: DampenedTrace, params: Any = None
    ) -> tuple[Any, DampenedTrace]:
        del params
        share = jnp.where(state.count == 0, 1.0, 1.0 - dampening)
        trace = jax.tree.map(
            lambda g, buffer: share.astype(g.dtype) * g + momentum * buffer, gradients, state.trace
        )
        return trace, DampenedTrace(state.count + 1, trace)

    return optax.GradientTransformation(init, update)


def step_schedule(base: float, milestones: Sequence[int], steps_per_epoch: int) -> optax.Schedule:
    """Returns a schedule that multiplies ``base`` by 0.1 at the start of each milestone epoch.

    Epochs count from 1, as in the reference (`utils.py`).
    """
    starts = [(epoch - 1) * steps_per_epoch for epoch in milestones]
    return optax.piecewise_constant_schedule(base, dict.fromkeys(starts, 0.1))


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float,
    dampening: float,
    weight_decay: float,
    trained: Any,
) -> optax.GradientTransformation:
    """PyTorch's SGD: L2 decay, dampened momentum, then the learning rate.

    Args:
      learning_rate: constant or schedule.
      momentum: see `dampened_trace`.
      dampening: see `dampened_trace`.
      weight_decay: L2 factor added to the gradient.
      trained: tree of booleans, like the parameters. False leaves a parameter untouched, even by
        weight decay: PyTorch skips parameters without a gradient.
    """
    chain = optax.chain(
        optax.add_decayed_weights(weight_decay),
        dampened_trace(momentum, dampening),
        optax.scale_by_learning_rate(learning_rate),
    )
    return _only_trained(chain, trained)


def cosine_schedule(
    peak: float, warmup_epochs: int, num_epochs: int, steps_per_epoch: int
) -> optax.Schedule:
    """Returns a schedule with linear warm-up from 0 to ``peak``, then cosine decay to 0.

    Raises:
      InputError: the warm-up leaves no epoch for the cosine decay.
    """
    if not 0 <= warmup_epochs < num_epochs:
        raise InputError(
            f"config.optimizer.warmup_epochs={warmup_epochs} of {num_epochs} epochs; choose fewer "
            "than config.num_epochs"
        )
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_epochs * steps_per_epoch, num_epochs * steps_per_epoch
    )


def adamw(
    learning_rate: optax.ScalarOrSchedule, *, weight_decay: float, trained: Any
) -> optax.GradientTransformation:
    """AdamW on gradients clipped to a global norm of 5; decays only matrices and kernels.

    Args:
      learning_rate: constant or schedule.
      weight_decay: decoupled weight decay, multiplied by the learning rate.
      trained: as in `sgd`.
    """
    chain = optax.chain(
        optax.clip_by_global_norm(GRADIENT_NORM),
        optax.adamw(
            learning_rate,
            b2=ADAM_B2,
            weight_decay=weight_decay,
            mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
        ),
    )
    return _only_trained(chain, trained)


def _only_trained(
    chain: optax.GradientTransformation, trained: Any
) -> optax.GradientTransformation:
    labels = jax.tree.map(lambda is_trained: "trained" if is_trained else "unused", trained)
    return optax.partition({"trained": chain, "unused": optax.set_to_zero()}, labels)
