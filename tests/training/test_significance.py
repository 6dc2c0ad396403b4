"""Intervals of accuracies and paired tests."""

import numpy as np
import pytest

from avjax.training.significance import accuracy_interval, mcnemar


def test_interval_of_one_speaker_is_binomial():
    """Two standard errors of 60 hits in 100 clips are 9.6 points."""
    low, high = accuracy_interval(np.arange(100) < 60, ["a"] * 100)
    assert low == pytest.approx(0.504, abs=0.02)
    assert high == pytest.approx(0.696, abs=0.02)
    assert accuracy_interval(np.arange(100) < 60, ["a"] * 100) == (low, high)


def test_speakers_who_differ_widen_the_interval():
    alike, different = np.arange(100) % 10 < 6, np.arange(100) < 60
    speakers = [f"speaker {n // 10}" for n in range(100)]
    narrow, wide = (accuracy_interval(hits, speakers) for hits in (alike, different))
    assert wide[1] - wide[0] > 2 * (narrow[1] - narrow[0])
    assert wide[0] <= 0.3 < 0.9 <= wide[1]


def test_certain_hits_have_no_spread():
    assert accuracy_interval(np.ones(7, bool), list("aabbccc")) == (1, 1)


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((0, 0), 1), ((3, 3), 1), ((1, 9), 22 / 1024), ((9, 1), 22 / 1024), ((0, 5), 2 / 32)],
)
def test_mcnemar_is_the_two_sided_binomial_test(counts, expected):
    assert mcnemar(*counts) == pytest.approx(expected, rel=1e-12)
