"""Intervals of means: tabulated quantiles, exactness, coverage."""

from __future__ import annotations

import numpy as np
import pytest

from llmsim.results.intervals import mean_interval, student_t, within_t

# Two-sided 95 % and 99 % points of Student's distribution, as every statistics book prints them.
TABLE = {
    1: (12.706, 63.657), 2: (4.303, 9.925), 3: (3.182, 5.841), 4: (2.776, 4.604), 5: (2.571, 4.032), 9: (2.262, 3.250),
    10: (2.228, 3.169), 19: (2.093, 2.861), 30: (2.042, 2.750), 120: (1.980, 2.617),
}  # fmt: skip


@pytest.mark.parametrize("degrees", TABLE)
def test_quantiles_are_those_of_the_tables(degrees):
    assert student_t(degrees) == pytest.approx(TABLE[degrees][0], abs=6e-4)
    assert student_t(degrees, confidence=0.99) == pytest.approx(TABLE[degrees][1], abs=6e-4)


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 7, 12, 51])
def test_quantile_and_probability_are_inverse(degrees):
    for confidence in (0.1, 0.5, 0.9, 0.999):
        assert within_t(student_t(degrees, confidence=confidence), degrees) == pytest.approx(confidence, abs=1e-12)


def test_an_interval_by_hand():
    # mean 2, s = 1, n = 3, t(2) = 4.3027: half width 4.3027 / sqrt(3) = 2.4841
    interval = mean_interval([1.0, 2.0, 3.0])
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((2.0, -0.48414, 4.48414), abs=1e-4)
    assert interval.excludes(5.0)
    assert not interval.excludes(0.0)


def test_one_value_says_nothing_about_its_error():
    interval = mean_interval([7.0])
    assert (interval.estimate, interval.low, interval.high) == (7.0, -np.inf, np.inf)


def test_intervals_cover_as_often_as_they_say():
    draws = np.random.default_rng(5).normal(3.0, 2.0, size=(4000, 5))
    covered = sum(not mean_interval(row).excludes(3.0) for row in draws)
    # 95 % of 4,000 with a binomial deviation of 14: four of them are 1.4 %.
    assert 0.936 <= covered / 4000 <= 0.964


@pytest.mark.parametrize(("degrees", "confidence"), [(0, 0.95), (3, 0.0), (3, 1.0)])
def test_nonsense_is_refused(degrees, confidence):
    with pytest.raises(ValueError, match="student_t"):
        student_t(degrees, confidence=confidence)
    with pytest.raises(ValueError, match="no values"):
        mean_interval([])
