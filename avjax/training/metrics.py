"""Metrics as sums over clips: independent of batching, divided once at the end."""

from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from avjax.models.network import cross_entropy


class Sums(NamedTuple):
    """Sums over clips; `confusion[i, j]` counts clips of class i predicted as j."""

    loss: Float[Array | np.ndarray, ""]
    count: Float[Array | np.ndarray, ""]  # type: ignore[assignment]  # hides tuple.count
    confusion: Float[Array | np.ndarray, "k k"]


class StepSums(NamedTuple):
    """A training step's `Sums`, and its largest absolute gradient, NaN if one is NaN."""

    loss: Float[Array | np.ndarray, "*steps"]
    count: Float[Array | np.ndarray, "*steps"]  # type: ignore[assignment]  # hides tuple.count
    confusion: Float[Array | np.ndarray, "*steps k k"]
    largest_gradient: Float[Array | np.ndarray, "*steps"]


def zeros(num_classes: int) -> Sums:
    """Returns the sums of no clips."""
    return Sums(np.zeros(()), np.zeros(()), np.zeros((num_classes, num_classes)))


def sums(logits: Float[Array, "b k"], labels: Int[Array, "b"], weight: Float[Array, "b"]) -> Sums:
    """Sums cross entropy, clips and confusions; each row counts ``weight`` times."""
    loss = cross_entropy(logits, labels)
    classes = logits.shape[-1]
    true = jax.nn.one_hot(labels, classes) * weight[:, None]
    predicted = jax.nn.one_hot(logits.argmax(-1), classes)
    return Sums((loss * weight).sum(), weight.sum(), true.T @ predicted)


def add(first: Sums, second: Sums | StepSums, *, steps: bool = False) -> Sums:
    """Adds two sums on the host, in float64 to stay exact over long epochs.

    With ``steps``, first sums ``second`` over its leading axis.
    """

    def wide(x: ArrayLike) -> np.ndarray:
        return np.asarray(x, np.float64)

    return jax.tree.map(
        lambda a, b: wide(a) + (wide(b).sum(0) if steps else wide(b)),
        first,
        Sums(second.loss, second.count, second.confusion),
    )


def summarise(totals: Sums) -> dict[str, float]:
    """Returns mean loss, accuracy (0..1) and macro F1.

    Macro F1 leaves out classes that neither occur nor are predicted.
    """
    confusion = np.asarray(totals.confusion, np.float64)
    count = float(totals.count)
    hits = np.diag(confusion)
    occurrences = confusion.sum(0) + confusion.sum(1)
    f1 = 2 * hits[occurrences > 0] / occurrences[occurrences > 0]
    return {
        "loss": float(totals.loss) / count,
        "accuracy": float(hits.sum()) / count,
        "macro_f1": float(f1.mean()),
    }
