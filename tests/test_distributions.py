"""Lengths: the mean and the quantiles of every distribution against theory."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from llmsim.random import stream
from llmsim.workload.distributions import (
    ConditionalTable,
    Empirical,
    Exponential,
    Fixed,
    Length,
    Lognormal,
    Mixture,
    Normal,
    QuantileTable,
    Shifted,
    Uniform,
)
from llmsim.workload.normal import normal_probability, normal_quantile

COUNT = 400_000
DRAWS = stream(0, "lengths").random(COUNT)


def test_the_normal_quantile_is_that_of_the_standard_library():
    probabilities = [1e-300, 1e-20, 1e-9, 0.001, 0.075, 0.3, 0.5, 0.7, 0.925, 0.999, 1 - 1e-12]
    expected = [NormalDist().inv_cdf(p) for p in probabilities]

    assert normal_quantile(np.array(probabilities)) == pytest.approx(expected, rel=1e-12)


def test_the_normal_quantile_is_finite_at_the_ends_and_inverts_the_distribution_function():
    ends = normal_quantile(np.array([0.0, 1.0]))
    values = np.linspace(-6.0, 6.0, 101)

    assert np.isfinite(ends).all()
    assert normal_quantile(normal_probability(values)) == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("distribution", "mean", "sd"),
    [
        (Fixed(128), 128.0, 0.0),
        (Uniform(10, 20), 15.0, math.sqrt(10.0)),
        (Lognormal(5.0, 0.5), math.exp(5.125), math.exp(5.125) * math.sqrt(math.expm1(0.25))),
        (Lognormal.from_mean(500.0, 600.0), 500.0, 600.0),
        (Normal(100.0, 15.0), 100.0, 15.0),
        (Exponential(300.0), 300.0, 300.0),
        (Shifted(Exponential(300.0), 50.0), 350.0, 300.0),
        (Mixture((0.25, 0.75), (Fixed(100), Normal(200.0, 10.0))), 175.0, math.sqrt(75 + 0.1875 * 100**2)),
        (Empirical.from_weights(np.array([1.0, 5.0]), np.array([3.0, 1.0])), 2.0, math.sqrt(3.0)),
    ],
)
def test_mean_and_spread_are_those_of_theory(distribution, mean, sd):
    values = distribution.quantile(DRAWS)

    assert values.mean() == pytest.approx(mean, abs=4.5 * sd / math.sqrt(COUNT) + 1e-9)
    assert values.std() == pytest.approx(sd, rel=0.03, abs=1e-9)


def test_lognormal_quantiles_are_those_of_theory():
    values = Lognormal(6.0, 1.2).quantile(np.array([0.5, 0.9, 0.99]))

    assert values == pytest.approx([math.exp(6.0 + 1.2 * NormalDist().inv_cdf(p)) for p in (0.5, 0.9, 0.99)])


def test_a_mixture_takes_each_part_as_often_as_its_weight_says():
    values = Mixture((0.2, 0.3, 0.5), (Fixed(1), Fixed(2), Fixed(3))).quantile(DRAWS)
    shares = [(values == value).mean() for value in (1, 2, 3)]

    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=4.5 * 0.5 / math.sqrt(COUNT))


def test_a_mixture_has_the_median_of_theory():
    # half of the weight lies below 100 and half above
    mixture = Mixture((0.5, 0.5), (Uniform(0, 99), Uniform(100, 199)))

    assert np.median(mixture.quantile(DRAWS)) == pytest.approx(100.0, abs=1.0)


def test_a_quantile_table_returns_its_own_values_and_lines_of_the_logarithm():
    table = QuantileTable(np.array([0.0, 50.0, 100.0]), np.array([10.0, 100.0, 100_000.0]))

    assert table.quantile(np.array([0.0, 0.5])) == pytest.approx([10.0, 100.0])
    assert table.quantile(np.array([0.25]))[0] == pytest.approx(math.sqrt(1000.0))
    assert np.percentile(table.quantile(DRAWS), 75) == pytest.approx(100.0 * math.sqrt(1000.0), rel=0.02)


def test_uniform_lengths_include_both_ends_alike():
    values, counts = np.unique(Uniform(3, 6).quantile(DRAWS), return_counts=True)

    assert values.tolist() == [3, 4, 5, 6]
    assert counts / COUNT == pytest.approx([0.25] * 4, abs=4.5 * math.sqrt(0.1875 / COUNT))


def test_lengths_are_whole_and_stay_between_their_bounds():
    tokens = Length(Lognormal(3.0, 2.0), low=5, high=100).tokens(DRAWS)

    assert tokens.dtype == np.int64
    assert tokens.min() == 5
    assert tokens.max() == 100


def test_every_length_has_one_token_at_least():
    assert Length(Normal(0.0, 1.0)).tokens(DRAWS).min() == 1


def test_a_conditional_table_follows_the_prompt():
    table = ConditionalTable(
        np.array([1.0, 100.0, 200.0]), np.array([0.0, 100.0]), np.array([[10.0, 10.0], [50.0, 50.0]])
    )
    prompts = np.array([1.0, 99.0, 100.0, 5000.0])

    assert table.quantile(np.full(4, 0.5), prompts).tolist() == pytest.approx([10.0, 10.0, 50.0, 50.0])
