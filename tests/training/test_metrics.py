"""Metrics equal values computed by hand."""

import jax.numpy as jnp
import numpy as np

from avjax.training import metrics
from avjax.training.step import sum_metrics

LOGITS = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]))
LABELS = jnp.array([0, 1, 1, 0])
WEIGHT = jnp.array([1.0, 1.0, 1.0, 0.0])  # the last row is padding


def test_summary_of_three_clips():
    summary = metrics.summarise(sum_metrics(LOGITS, LABELS, WEIGHT))
    np.testing.assert_allclose(summary["loss"], -np.log([0.7, 0.8, 0.3]).mean(), rtol=1e-6)
    np.testing.assert_allclose(summary["accuracy"], 2 / 3, rtol=1e-6)
    # Classes 0 and 1 have F1 2/3 each; class 2 is neither a label nor predicted.
    np.testing.assert_allclose(summary["macro_f1"], 2 / 3, rtol=1e-6)


def test_confusion_has_true_classes_in_rows():
    confusion = sum_metrics(LOGITS, LABELS, WEIGHT).confusion
    np.testing.assert_array_equal(confusion, [[1, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_sums_do_not_depend_on_batching():
    expected = sum_metrics(LOGITS, LABELS, WEIGHT)
    actual = metrics.zeros(3)
    for rows in (slice(0, 1), slice(1, 4)):
        actual = metrics.add(actual, sum_metrics(LOGITS[rows], LABELS[rows], WEIGHT[rows]))
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_long_epochs_are_summed_in_float64():
    totals = metrics.zeros(2)._replace(count=np.float64(2**24))
    totals = metrics.add(totals, metrics.zeros(2)._replace(count=np.float32(1)))
    assert totals.count == 2**24 + 1
