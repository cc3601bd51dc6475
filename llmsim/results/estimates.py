"""Intervals of the figures of one run: means and percentiles of a series whose values depend on their neighbours.

Requests that wait for each other are slow together, so a thousand of them say less than a thousand independent ones.
How much less is the *design effect*: the variance of a total, over what it would be if the values were independent.
``docs/metrics.md`` says what was measured of these intervals.

Sources: overlapping batch means, Meketon and Schmeiser, "Overlapping batch means: something for nothing?", Winter
Simulation Conference 1984; their lugsail correction, Vats and Flegal, "Lugsail lag windows for estimating time-average
covariance matrices", Biometrika 109 (2022), here with r = 2, c = 1/2; the interval of a proportion from an effective
sample size, Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts
estimated from survey data", Survey Methodology 24 (1998); that of a percentile from one of a proportion, Woodruff,
"Confidence intervals for medians and other position measures", JASA 47 (1952).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np

from llmsim.results.intervals import beta_quantile, student_t
from llmsim.results.percentiles import Floats, Integers, percentiles

BATCHES = 10  # long against the memory of a queue, and many enough for a variance
MOST_CELLS = 400
FEWEST = 2 * BATCHES  # values, below which there is no interval
ENOUGH_FOR_A_MEAN = 5.0  # independent values that a series is worth
ENOUGH_BEYOND = 2.0  # independent values beyond a percentile
TAIL = (90.0, 95.0)  # percentiles whose design effects are a floor for those further out
DEGREES = BATCHES - 1


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure of one run with its confidence interval; ``low`` and ``high`` are None where a ``reason`` says why.

    ``effective`` is the number of independent values that the series is worth.
    """

    value: float
    low: float | None
    high: float | None
    effective: float | None = None
    reason: str | None = None

    @property
    def estimable(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None


class Series:
    """Values in the order of time, each counted as often as its weight says.

    Args:
        values: [n]; seconds, or whatever is measured; not negative.
        weights: [n]; None: one each.
        order: [n], by which the values are sorted, such as moments; None: they are in order.
    """

    def __init__(self, values: Floats, weights: Integers | None = None, order: Floats | None = None) -> None:
        if order is not None:
            # What is in order already, as one replica's log is, sorts in a fraction of the time.
            place = np.argsort(order, kind="stable")
            values, weights = values[place], weights if weights is None else weights[place]
        self.values = values
        self.weights = weights
        self.count = len(values) if weights is None else int(weights.sum())
        counts = np.ones(len(values)) if weights is None else weights.astype(np.float64)
        self._counts = counts
        self._ends = np.concatenate(([0.0], np.cumsum(counts)))
        cells = min(MOST_CELLS, len(values) // FEWEST * FEWEST)
        self._edges = np.linspace(0.0, self._ends[-1], cells + 1)
        self._sorted: tuple[Floats, Integers | None] | None = None
        self._effects: dict[float, float] = {}

    def mean(self, *, confidence: float = 0.95) -> Estimate:
        """Return the mean with its interval: mean / (1 +- t s / mean), s its standard error, nine degrees of freedom.

        That is Student's interval of the reciprocal.  Near saturation a latency is the reciprocal of the spare
        capacity, and it is the latter that is a mean of many small things, so the interval reaches further up.
        """
        value = float(np.average(self.values, weights=self.weights)) if self.count else float("nan")
        if len(self.values) < FEWEST:
            return Estimate(value, None, None, reason=f"fewer than {FEWEST} values")
        deviations = self.values - value
        plain = float(np.average(deviations**2, weights=self.weights))
        if plain <= 0.0:
            return Estimate(value, value, value, effective=float(self.count))
        variance = max(self._variance_of_total(deviations) / self.count**2, plain / self.count)
        effective = plain / variance
        if effective < ENOUGH_FOR_A_MEAN:
            return Estimate(value, None, None, effective, _worth(effective, ENOUGH_FOR_A_MEAN))
        relative = student_t(DEGREES, confidence=confidence) * sqrt(variance) / value
        if relative >= 1.0:
            return Estimate(value, None, None, effective, "its standard error is too large")
        return Estimate(value, value / (1 + relative), value / (1 - relative), effective)

    def percentile(self, percent: float, *, confidence: float = 0.95) -> Estimate:
        """Return a percentile (0..100) with its interval: that between two other percentiles of the same series.

        The share of values beyond the true percentile is known, and how far the share in a run strays from it
        follows from the effective number of values.  Of the far end of a tail little is seen, so its design effect
        is taken to be at least that of the tail further in.  And a run with a light tail by luck has a low design
        effect as well; so for the outer end that is raised by two in as many as the independent values beyond.
        """
        value = self._at([percent])[0] if self.count else float("nan")
        if len(self.values) < FEWEST:
            return Estimate(value, None, None, reason=f"fewer than {FEWEST} values")
        share = percent / 100
        effect = max(self._effect(level) for level in {percent, *(level for level in TAIL if level < percent)})
        effective = self.count / effect
        beyond = effective * min(share, 1 - share)
        if beyond < ENOUGH_BEYOND:
            return Estimate(value, None, None, effective, _worth(beyond, ENOUGH_BEYOND, " beyond it"))
        # Korn and Graubard: as many values fewer as Student's t is wider than the normal.
        error = (1 - confidence) / 2
        sample = effective * (NormalDist().inv_cdf(1 - error) / student_t(DEGREES, confidence=confidence)) ** 2
        outer = sample / (1 + 2 / beyond)
        below, above = (sample, outer) if share >= 0.5 else (outer, sample)
        low = beta_quantile(share * below, (1 - share) * below, error)
        high = beta_quantile(share * above, (1 - share) * above, 1 - error)
        ends = self._at([100 * low, 100 * high])
        return Estimate(value, ends[0], ends[1], effective)

    def _at(self, percents: Sequence[float]) -> list[float]:
        if self._sorted is None:
            place = np.argsort(self.values, kind="stable")
            self._sorted = self.values[place], None if self.weights is None else self.weights[place]
        return percentiles(self._sorted[0], percents, self._sorted[1])

    def _effect(self, percent: float) -> float:
        """Return the design effect of the share of values above a percentile, at least 1."""
        if percent not in self._effects:
            above = (self.values > self._at([percent])[0]).astype(np.float64)
            share = float(np.average(above, weights=self.weights))
            plain = self.count * share * (1 - share)
            effect = self._variance_of_total(above - share) / plain if plain > 0 else 1.0
            self._effects[percent] = max(1.0, effect)
        return self._effects[percent]

    def _variance_of_total(self, deviations: Floats) -> float:
        """Return the variance of the total of ``deviations`` [n], whose weighted sum is zero."""
        totals = np.interp(self._edges, self._ends, np.concatenate(([0.0], np.cumsum(deviations * self._counts))))
        length = (len(totals) - 1) // BATCHES
        long, short = _overlapping(totals, length), _overlapping(totals, length // 2)
        # A batch misses the dependence that crosses its ends, half as much as one of half the length does.
        return max(long, 2 * long - short)


def rate(
    moments: Floats, amounts: Floats, start: float, end: float, *, value: float, confidence: float = 0.95
) -> Estimate:
    """Return a throughput with the interval of its long-run rate, from batch means over time.

    What came between ``start`` and ``end`` is counted in equal cells of time; the variance of the total follows from
    overlapping batches of a tenth of that time, as for a series.  The interval is Student's, around the rate between
    the two moments, and not around the ``value``, which may count a beginning and a drain.

    Args:
        moments: [n], when something was done; in any order.
        amounts: [n], how much.
        start: what was done before is not looked at.
        end: nor what was done after.
        value: the figure of the run.
        confidence: of the interval.
    """
    place = np.argsort(moments, kind="stable")
    moments, amounts = moments[place], amounts[place]
    first, last = np.searchsorted(moments, (start, end), side="right")
    count = int(last - first)
    if count < FEWEST or not end > start:
        return Estimate(value, None, None, reason=f"fewer than {FEWEST} of them before the run drains")
    cells = min(MOST_CELLS, count // FEWEST * FEWEST)
    sums = np.concatenate(([0.0], np.cumsum(amounts[first:last])))
    edges = np.linspace(start, end, cells + 1)
    totals = sums[np.searchsorted(moments[first:last], edges, side="right")]
    totals[-1] = total = float(sums[-1])
    if total <= 0:
        return Estimate(value, None, None, reason="there was none")
    length = cells // BATCHES
    deviations = totals - total * np.arange(cells + 1) / cells
    long, short = _overlapping(deviations, length), _overlapping(deviations, length // 2)
    variance = max(long, 2 * long - short)
    effective = total**2 / variance if variance > 0 else float(count)
    if effective < ENOUGH_FOR_A_MEAN:
        return Estimate(value, None, None, effective, _worth(effective, ENOUGH_FOR_A_MEAN))
    error = student_t(DEGREES, confidence=confidence) * sqrt(variance)
    return Estimate(value, max(0.0, total - error) / (end - start), (total + error) / (end - start), effective)


def _overlapping(totals: Floats, length: int) -> float:
    """Return the variance of the last of the running ``totals`` [cells + 1], by all batches of ``length`` cells."""
    sums = totals[length:] - totals[:-length]
    cells = len(totals) - 1
    return float(cells / length * np.mean(sums**2) * cells / (cells - length))


def _worth(effective: float, wanted: float, where: str = "") -> str:
    return f"worth {effective:.1f} independent values{where}, and {wanted:g} are wanted"
