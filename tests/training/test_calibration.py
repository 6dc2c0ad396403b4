"""Temperatures and calibration errors, against closed forms and a grid."""

import numpy as np
import pytest

from avjax.training.calibration import (
    HIGHEST,
    LOWEST,
    calibration_error,
    fit_temperature,
    log_tempered,
    mean_loss,
    reliability,
    tempered,
)


def drawn(temperature, clips=4000, classes=5):
    """Returns logits and labels drawn with the probabilities of the tempered logits."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0, 2, (clips, classes))
    edges = tempered(logits, temperature).cumsum(1)
    return logits, (rng.uniform(size=(clips, 1)) > edges).sum(1).clip(0, classes - 1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_of_the_draws_is_found(temperature):
    logits, labels = drawn(temperature)
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.1)


@pytest.mark.parametrize("clips", [3, 10, 200])
def test_no_other_temperature_is_likelier(clips):
    logits, labels = drawn(2.0, clips)
    fitted = fit_temperature(logits.astype(np.float32), labels)
    losses = [
        mean_loss(log_tempered(logits, t), labels) for t in np.geomspace(LOWEST, HIGHEST, 400)
    ]
    assert mean_loss(log_tempered(logits, fitted), labels) <= min(losses) + 1e-9
    assert fit_temperature(logits.astype(np.float32), labels) == fitted


def test_temperature_of_two_classes_in_closed_form():
    """Of clips with the same margin, a share p is right: the margin over T is the logit of p."""
    logits = np.tile([[4.0, 0.0]], (10, 1))
    labels = np.array([0] * 8 + [1] * 2)
    assert fit_temperature(logits, labels) == pytest.approx(4 / np.log(0.8 / 0.2), rel=1e-12)


def test_sets_that_have_no_best_temperature_get_a_bound():
    logits = np.array([[3.0, 1.0, 0.0], [0.0, 0.5, 0.0]])
    assert fit_temperature(logits, np.array([0, 1])) == pytest.approx(LOWEST)
    assert fit_temperature(logits, np.array([2, 0])) == pytest.approx(HIGHEST)
    assert fit_temperature(logits[:1], np.array([0])) == pytest.approx(LOWEST)
    assert fit_temperature(np.ones((2, 3)), np.array([0, 2])) == 1


def test_tempered_probabilities():
    logits = np.array([[0.0, np.log(2)], [1000.0, 0.0], [-1e5, -1e5]])
    expected = [[1 / 3, 2 / 3], [1, 0], [0.5, 0.5]]
    np.testing.assert_allclose(tempered(logits, 1.0), expected, atol=1e-12)
    by_clip = tempered(logits, np.array([0.5, np.nan, 3.0]))
    np.testing.assert_allclose(by_clip, [[0.2, 0.8], [np.nan] * 2, [0.5, 0.5]])
    log_probabilities = np.log([[0.1, 0.9], [0.5, 0.5]])  # as of an ensemble
    np.testing.assert_allclose(tempered(log_probabilities, 1.0), np.exp(log_probabilities))
    assert tempered(np.zeros((0, 3)), 2.0).shape == (0, 3)


def test_loss_of_a_hopeless_clip_is_not_cut():
    logits = np.array([[3000.0, 0.0], [0.0, 0.0]])
    loss = mean_loss(log_tempered(logits, 2.0), np.array([1, 0]))
    assert loss == pytest.approx((1500 + np.log(2)) / 2)


def test_calibration_error_is_the_weighted_gap():
    """Three clips of confidence 0.9, one of them wrong, and one of 0.6, which is right."""
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.4, 0.6]])
    labels = np.array([0, 1, 1, 1])
    expected = (3 * abs(0.9 - 2 / 3) + abs(0.6 - 1)) / 4
    assert calibration_error(probabilities, labels) == pytest.approx(expected)
    assert calibration_error(probabilities, labels, bins=1) == pytest.approx(0.825 - 0.75)
    counts, confidence, accuracy = reliability(probabilities, labels, 10)
    assert counts.tolist() == [0, 0, 0, 0, 0, 1, 0, 0, 3, 0]
    assert (confidence[8], accuracy[8]) == (pytest.approx(0.9), pytest.approx(2 / 3))
    assert np.isnan(accuracy[0])


def test_calibrated_draws_have_a_small_error():
    logits, labels = drawn(3.0)
    raw, fitted = (tempered(logits, t) for t in (1.0, fit_temperature(logits, labels)))
    assert calibration_error(fitted, labels) < 0.02 < 0.2 < calibration_error(raw, labels)
