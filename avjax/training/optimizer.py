"""SGD as PyTorch computes it, with a rate that steps by epoch; AdamW with a cosine rate."""

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
      name: `sgd` (PyTorch's, with a rate that steps) or `adamw` (with a cosine rate).
      learning_rate: the highest.
      milestones: of `sgd`, epochs from which the rate is a tenth of what it was.
      momentum: of `sgd`, share of the buffer kept.
      dampening: of `sgd`, share of the gradient left out of the buffer.
      weight_decay: L2 factor of `sgd`; of `adamw` the share of the rate by which kernels shrink.
      warmup_epochs: of `adamw`, over which the rate rises from 0.

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
        """The learning rate by step.

        Raises:
          InputError: the warm-up leaves no epoch to the cosine.
        """
        if self.name == "adamw":
            return cosine_schedule(
                self.learning_rate, self.warmup_epochs, num_epochs, steps_per_epoch
            )
        return step_schedule(self.learning_rate, self.milestones, steps_per_epoch)

    def optimizer(self, schedule: optax.Schedule, trained: Any) -> optax.GradientTransformation:
        """The optimizer that follows a schedule; see `sgd` for ``trained``."""
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
    """State of `dampened_trace`: updates so far and the momentum buffer."""

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    trace: Any


def dampened_trace(momentum: float, dampening: float) -> optax.GradientTransformation:
    """``buffer = momentum * buffer + (1 - dampening) * gradient``, the first one undampened.

    `optax.trace` has no dampening; scaling the gradient beforehand would dampen the first step too.
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
    """Learning rate by step: ``base``, times 0.1 from the first step of each milestone epoch.

    Epochs count from 1, as in the reference (`utils.py`): milestone 40 acts from the 40th epoch on.
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
    """PyTorch's SGD: decay added to the gradient, dampened momentum, then the learning rate.

    Args:
      learning_rate: constant or schedule by step.
      momentum: share of the buffer kept.
      dampening: share of the gradient left out of the buffer.
      weight_decay: L2 factor added to the gradient.
      trained: tree of booleans like the parameters; those marked False are left untouched, decay
        included, as PyTorch skips parameters without a gradient.
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
    """Learning rate by step: from 0 to ``peak`` over the first epochs, then a half cosine to 0.

    Raises:
      InputError: the warm-up leaves no epoch to the cosine.
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
    """AdamW on gradients clipped to a global norm of 5; only matrices and kernels decay.

    Args:
      learning_rate: constant or schedule by step.
      weight_decay: share of the learning rate by which kernels shrink in a step.
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
    labels = jax.tree.map(lambda used: "trained" if used else "unused", trained)
    return optax.partition({"trained": chain, "unused": optax.set_to_zero()}, labels)
