"""SGD as PyTorch computes it, with a rate that steps by epoch; AdamW with a cosine rate."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from avjax.errors import InputError

GRADIENT_NORM = 5.0
ADAM_B2 = 0.99  # runs are a few thousand steps long


class DampenedTrace(NamedTuple):
    """State of `dampened_trace`: updates so far and the momentum buffer."""

    count: Int[Array, ""]  # type: ignore[assignment]  # hides tuple.count
    trace: Any


def dampened_trace(momentum: float, dampening: float) -> optax.GradientTransformation:
    """``buffer = momentum * buffer + (1 - dampening) * gradient``, the first one undampened.

    `optax.trace` has no dampening; scaling the gradient beforehand would dampen the first step too.
    """

    def init(params):
        return DampenedTrace(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(gradients, state, params=None):
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
