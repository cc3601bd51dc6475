"""Intervals of a series: quantiles of Beta, independent values, weights, dependence, and when there is none."""

import math

import numpy as np
import pytest

from llmsim.results.estimates import BATCHES, FEWEST, Series
from llmsim.results.intervals import beta_quantile, within_beta


@pytest.mark.parametrize("probability", [0.001, 0.025, 0.5, 0.975, 0.999])
def test_quantiles_of_beta_where_they_have_a_closed_form(probability):
    # With one shape 1 the distribution functions are x^a and 1 - (1 - x)^b; Beta(1/2, 1/2) is the arcsine law.
    assert beta_quantile(3.5, 1.0, probability) == pytest.approx(probability ** (1 / 3.5), rel=1e-9)
    assert beta_quantile(1.0, 7.0, probability) == pytest.approx(1 - (1 - probability) ** (1 / 7), rel=1e-9)
    assert beta_quantile(0.5, 0.5, probability) == pytest.approx(math.sin(math.pi * probability / 2) ** 2, rel=1e-9)


@pytest.mark.parametrize(("first", "second"), [(3, 5), (1, 20), (40, 2)])
@pytest.mark.parametrize("x", [0.01, 0.3, 0.9])
def test_beta_of_whole_shapes_is_a_binomial_tail(first, second, x):
    # Abramowitz and Stegun, 26.5.24: the chance of at least a successes among a + b - 1.
    trials = first + second - 1
    tail = sum(math.comb(trials, k) * x**k * (1 - x) ** (trials - k) for k in range(first, trials + 1))
    assert within_beta(first, second, x) == pytest.approx(tail, rel=1e-10)


@pytest.mark.parametrize("first", [0.3, 2.0, 50.0, 1e4, 3e6])
@pytest.mark.parametrize("second", [0.7, 30.0, 1e5])
@pytest.mark.parametrize("probability", [0.025, 0.975])
def test_quantiles_of_beta_are_found_everywhere(first, second, probability):
    x = beta_quantile(first, second, probability)
    assert within_beta(first, second, x) == pytest.approx(probability, abs=1e-6)


@pytest.mark.parametrize("wrong", [(0.0, 1.0, 0.5), (1.0, -1.0, 0.5), (1.0, 1.0, 0.0), (1.0, 1.0, 1.0)])
def test_quantiles_of_no_beta(wrong):
    with pytest.raises(ValueError, match="beta_quantile: needs shapes > 0"):
        beta_quantile(*wrong)


def lognormal(number: int, count: int) -> np.ndarray:
    return np.exp(np.random.default_rng([57, number]).normal(size=count))


def test_independent_values_are_worth_as_many_as_they_are():
    effective = [Series(lognormal(number, 2000)).percentile(50).effective for number in range(40)]
    # The estimate of the design effect is noisy and at least 1, so it is worth a third less at most, on the average.
    assert 0.65 * 2000 < np.mean(effective) <= 2000


def test_values_in_threes_are_worth_a_third():
    """Three times the same value adds nothing, so the design effect is 3, or a bit more: the larger of two."""
    tripled = [Series(np.repeat(lognormal(number, 4000), 3)) for number in range(60)]
    assert np.median([12_000 / series.percentile(50).effective for series in tripled]) == pytest.approx(3.0, rel=0.35)
    assert np.median([12_000 / series.mean().effective for series in tripled]) == pytest.approx(3.0, rel=0.35)


@pytest.mark.parametrize("count", [300, 3000])
def test_intervals_of_independent_values_hold_the_true_percentile(count):
    """Rather too often than too rarely: the design effect is noisy, and raised where it is below 1."""
    held = {50: 0, 90: 0, "mean": 0}
    for number in range(100):
        series = Series(lognormal(number, count))
        for name, true in ((50, 1.0), (90, math.exp(1.2815515655446004)), ("mean", math.exp(0.5))):
            estimate = series.mean() if name == "mean" else series.percentile(name)
            held[name] += estimate.low <= true <= estimate.high
    assert all(91 <= times <= 100 for times in held.values()), held


def test_weights_are_as_good_as_repetitions():
    random = np.random.default_rng(5)
    values, weights = random.exponential(size=4000), random.integers(1, 9, 4000)
    short, long = Series(values, weights), Series(np.repeat(values, weights))
    for percent in (50, 99):
        one, other = short.percentile(percent), long.percentile(percent)
        assert one.value == other.value
        # Values in one cell or the next: the cells' ends are the same up to a part of a value.
        assert (one.low, one.high) == pytest.approx((other.low, other.high), rel=0.02)
    assert short.mean().value == pytest.approx(long.mean().value)
    assert short.mean().low == pytest.approx(long.mean().low, rel=0.01)


def test_values_are_put_in_the_order_of_time():
    random = np.random.default_rng(6)
    slow = np.repeat(random.exponential(size=200), 20)  # comes in runs of twenty
    moments = np.arange(len(slow), dtype=float)
    mixed = random.permutation(len(slow))
    assert Series(slow[mixed], order=moments[mixed]).mean() == Series(slow).mean()
    assert Series(slow[mixed]).mean().effective > 3 * Series(slow).mean().effective


def test_an_interval_holds_its_estimate_and_is_wider_for_more_confidence():
    series = Series(lognormal(1, 1000))
    for percent in (10, 50, 90, 95, 99):
        narrow, wide = (series.percentile(percent, confidence=confidence) for confidence in (0.8, 0.99))
        assert wide.low < narrow.low < narrow.value < narrow.high < wide.high
    narrow, wide = (series.mean(confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_equal_values_have_an_interval_of_no_width():
    series = Series(np.full(500, 0.25))
    for estimate in (series.mean(), series.percentile(50), series.percentile(90)):
        assert (estimate.low, estimate.value, estimate.high) == (0.25, 0.25, 0.25)
    nothing = Series(np.zeros(500)).mean()  # nobody queued
    assert (nothing.low, nothing.high) == (0.0, 0.0)


def test_few_values_have_none():
    few = Series(np.arange(FEWEST - 1.0))
    assert not few.mean().estimable
    assert few.percentile(50).reason == "fewer than 20 values"
    assert math.isnan(Series(np.empty(0)).mean().value)
    assert Series(np.arange(1.0, 1.0 + FEWEST)).percentile(50).value == 10.5


@pytest.mark.parametrize("percent", [0, 99.9, 100])
def test_ends_of_a_series_have_none(percent):
    estimate = Series(lognormal(2, 1000)).percentile(percent)
    assert not estimate.estimable
    assert "independent values beyond it, and 2 are wanted" in estimate.reason


def test_a_series_that_drifts_is_worth_next_to_nothing():
    assert Series(np.arange(1.0, 10_001.0)).mean().effective < BATCHES
    assert not Series(np.arange(1.0, 10_001.0)).percentile(90).estimable
