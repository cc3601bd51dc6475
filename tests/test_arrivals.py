"""Arrival processes: rate, CV and index of dispersion against theory, and independence of how draws are cut."""

import math
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from llmsim.workload.arrivals import (
    AllAtOnce,
    Batches,
    MarkovRenewal,
    Modulated,
    RampedRenewal,
    Renewal,
    geometric,
    ramp,
    times,
)
from llmsim.workload.gaps import ConstantGaps, ExponentialGaps, GammaGaps, WeibullGaps
from llmsim.workload.mmpp import Mmpp
from llmsim.workload.rates import RateTable, cosine

MMPP = Mmpp(np.array([2.0, 20.0]), np.array([[0.95, 0.05], [0.2, 0.8]]), 1.0)
TABLE = RateTable(np.array([10.0, 5.0, 20.0]), np.array([3.0, 0.0, 9.0]), True, "table")
PROCESSES = [
    Renewal(ExponentialGaps(), 8.0),
    Renewal(GammaGaps(0.25), 8.0),
    Renewal(WeibullGaps(0.6), 8.0),
    Renewal(ConstantGaps(), 8.0),
    RampedRenewal(ExponentialGaps(), 1.0, 20.0, "linear"),
    Modulated(ExponentialGaps(), MMPP),
    Modulated(GammaGaps(0.5), TABLE),
    Batches(ExponentialGaps(), 8.0, 5.0),
    MarkovRenewal(np.array([-3.0, 0.0]), np.array([0.5, 1.0]), np.array([[0.9, 0.1], [0.5, 0.5]]), 10.0),
]


def first(process, count, seed=0):
    return np.fromiter(times(process, seed, count), dtype=np.float64, count=count)


def windows(moments, width, skip=0.0):
    """Counts in full windows of ``width`` seconds after ``skip`` seconds."""
    edges = np.arange(skip, moments[-1], width)
    return np.histogram(moments, bins=edges)[0]


def dispersion_near(counts, theory, errors=4.5, groups=40):
    """Compare variance / mean over groups of windows, so that the spread between groups gives the tolerance."""
    counts = counts[: len(counts) // groups * groups].reshape(groups, -1)
    mean = counts.mean()
    estimates = ((counts - mean) ** 2).mean(axis=1) / mean
    return abs(estimates.mean() - theory) <= errors * estimates.std(ddof=1) / math.sqrt(groups)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.label)
def test_times_do_not_depend_on_the_size_of_chunks(process):
    usual = first(process, 3000)

    for chunk in (1, 7, 1000):
        assert (first(replace(process, chunk=chunk), 3000) == usual).all()


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.label)
def test_times_rise_and_depend_on_the_seed_alone(process):
    one, again, other = first(process, 3000), first(process, 3000), first(process, 3000, seed=1)

    assert (np.diff(one) >= 0.0).all()
    assert one[0] >= 0.0
    assert (one == again).all()
    assert process == Renewal(ConstantGaps(), 8.0) or (one != other).any()


@pytest.mark.parametrize(
    ("gaps", "cv"),
    [(ExponentialGaps(), 1.0), (GammaGaps(0.25), 2.0), (GammaGaps(4.0), 0.5), (WeibullGaps(2.0), 0.5227)],
)
def test_renewals_keep_the_rate_and_the_cv(gaps, cv):
    count, rate = 200_000, 8.0
    moments = first(Renewal(gaps, rate), count)
    steps = np.diff(moments)

    assert moments[-1] * rate / count == pytest.approx(1.0, abs=4.5 * cv / math.sqrt(count))
    assert steps.std() / steps.mean() == pytest.approx(cv, rel=0.03)


@pytest.mark.parametrize("shape", [0.25, 0.5, 1.0, 4.0])
def test_dispersion_of_gamma_renewals_is_that_of_renewal_theory(shape):
    # Cox, Renewal Theory (1962), section 4.5: an equilibrium renewal process with gaps of mean 1, variance s2 and
    # third central moment m3 has Var N(t) = s2 t + 1/6 + s2^2 / 2 - m3 / 3 + o(1); Gamma: m3 = 2 s2^2.
    variance, width = 1.0 / shape, 100.0
    theory = (variance * width + 1.0 / 6.0 + variance**2 / 2.0 - 2.0 * variance**2 / 3.0) / width
    moments = first(Renewal(GammaGaps(shape), 1.0), 600_000, seed=3)

    assert dispersion_near(windows(moments, width, skip=100.0), theory)


def test_constant_arrivals_are_evenly_spaced_and_start_after_one_gap():
    assert first(Renewal(ConstantGaps(), 4.0), 4).tolist() == [0.25, 0.5, 0.75, 1.0]


def test_all_at_once_is_at_zero():
    assert list(times(AllAtOnce(), 0, 5000)) == [0.0] * 5000


@pytest.mark.parametrize("width", [1, 10, 60])
def test_dispersion_of_a_markov_modulated_process_is_that_of_theory(width):
    # Counts are Poisson given the states: Var = mean + sum of covariances of the rates of all pairs of steps.
    share, rates = MMPP.stationary, MMPP.rates
    mean = share @ rates
    covariances = [
        share @ (rates * (np.linalg.matrix_power(MMPP.transition, lag) @ rates)) - mean**2 for lag in range(width)
    ]
    variance = width * covariances[0] + 2.0 * sum((width - lag) * covariances[lag] for lag in range(1, width))
    theory = 1.0 + variance / (width * mean)
    moments = first(Modulated(ExponentialGaps(), MMPP), 600_000, seed=5)

    assert MMPP.mean_rate == pytest.approx(0.8 * 2.0 + 0.2 * 20.0)
    assert dispersion_near(windows(moments, float(width)), theory)


def test_a_changing_rate_gives_poisson_counts_with_the_right_means():
    # Given the rate, hourly counts are independent Poisson variables: the sum of squared deviations over their
    # means is chi-squared with as many degrees of freedom as there are hours.
    table = cosine(peak_to_trough=10.0, peak_hour=15.0, weekend=0.5).scaled_to(1.0)
    moments = first(Modulated(ExponentialGaps(), table), 1_230_000, seed=1)
    hours = np.histogram(moments, bins=np.arange(0.0, 14 * 86_400.0 + 1, 3600.0))[0]
    expected = np.tile(table.rates.reshape(7 * 24, -1).mean(axis=1) * 3600.0, 2)
    chi_squared = ((hours - expected) ** 2 / expected).sum()

    assert len(hours) == 336
    assert chi_squared == pytest.approx(336.0, abs=4.5 * math.sqrt(2.0 * 336.0))
    assert hours[:24].max() / hours[:24].min() == pytest.approx(10.0, rel=0.15)
    assert hours[120:168].sum() / hours[:48].sum() == pytest.approx(0.5, rel=0.02)


def test_no_request_comes_while_the_rate_is_zero():
    moments = first(Modulated(GammaGaps(0.5), TABLE), 20_000) % 35.0

    assert not ((moments > 10.0) & (moments < 15.0)).any()
    assert (moments < 10.0).mean() == pytest.approx(30.0 / 210.0, abs=0.02)


def test_a_rate_table_that_does_not_repeat_ends():
    table = RateTable(np.array([100.0, 100.0]), np.array([5.0, 0.0]), False, "once")
    moments = list(times(Modulated(ExponentialGaps(), table), 0, None))

    assert len(moments) == pytest.approx(500, abs=4.5 * math.sqrt(500))
    assert max(moments) < 100.0


def test_dispersion_of_batches_is_twice_their_mean_less_one():
    # compound Poisson: E[B^2] / E[B], for geometric B on 1, 2, ... equal to 2 E[B] - 1
    moments = first(Batches(ExponentialGaps(), 10.0, 6.0), 400_000, seed=2)

    assert 400_000 / moments[-1] == pytest.approx(10.0, abs=4.5 * 10.0 * math.sqrt(11.0 / 400_000))
    assert dispersion_near(windows(moments, 20.0), 11.0)


def test_geometric_numbers_start_at_one():
    uniform = np.random.default_rng(0).random(200_000)
    sizes = geometric(uniform, 5.0)

    assert sizes.min() == 1
    assert (sizes == 1).mean() == pytest.approx(0.2, abs=0.004)
    assert sizes.mean() == pytest.approx(5.0, abs=4.5 * math.sqrt(20.0 / 200_000))
    assert (geometric(uniform, 1.0) == 1).all()


def test_markov_renewal_has_the_mean_gap_of_its_states():
    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2.0))

    process = MarkovRenewal(np.array([-3.0, 0.0]), np.array([0.5, 1.0]), np.array([[0.9, 0.1], [0.5, 0.5]]), 10.0)
    mean = 0.0
    for share, mu, sigma in ((5 / 6, -3.0, 0.5), (1 / 6, 0.0, 1.0)):
        cut = math.log(10.0)
        mean += share * math.exp(mu + sigma**2 / 2) * phi((cut - mu - sigma**2) / sigma)
        mean += share * 10.0 * (1.0 - phi((cut - mu) / sigma))
    steps = np.diff(first(process, 400_000))[:399_600].reshape(400, -1)
    batches = steps.mean(axis=1)

    assert abs(batches.mean() - mean) <= 4.5 * batches.std(ddof=1) / math.sqrt(len(batches))
    assert steps.max() <= 10.0 + 1e-6


def test_ramps_move_from_the_first_rate_to_the_last():
    assert ramp(1.0, 9.0, "linear", 5).tolist() == [1.0, 3.0, 5.0, 7.0, 9.0]
    assert ramp(1.0, 16.0, "exponential", 5).tolist() == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0])
    assert ramp(3.0, 9.0, "linear", 1).tolist() == [3.0]

    steps = np.diff(first(RampedRenewal(ConstantGaps(), 1.0, 9.0, "linear"), 5), prepend=0.0)
    assert steps.tolist() == pytest.approx([1.0, 1 / 3, 1 / 5, 1 / 7, 1 / 9])


def test_a_ramp_without_an_end_is_refused():
    with pytest.raises(ValueError, match="number of requests"):
        next(RampedRenewal(ConstantGaps(), 1.0, 9.0, "linear").chunks(0, None))


def test_an_added_request_moves_no_earlier_one():
    process = Renewal(GammaGaps(0.3), 5.0)

    assert list(islice(times(process, 9, None), 100)) == list(times(process, 9, 5000))[:100]
