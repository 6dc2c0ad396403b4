"""Metrics from the steps' sums over clips: independent of batching, divided once at the end."""

import jax
import numpy as np
from jax.typing import ArrayLike

from avjax.training.step import StepSums, Sums


def zeros(num_classes: int) -> Sums:
    """Returns the sums of no clips."""
    return Sums(np.zeros(()), np.zeros(()), np.zeros((num_classes, num_classes)))


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
