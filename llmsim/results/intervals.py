"""Confidence intervals of means over independent replications, Student's t; and the quantiles that others need."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, exp, inf, lgamma, log, log1p, pi, sin, sqrt, tan
from statistics import NormalDist

import numpy as np


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with the interval that holds the true value with the stated confidence.

    The ends are minus and plus infinity where one value, or none, was all there was.
    """

    estimate: float
    low: float
    high: float
    count: int

    def excludes(self, value: float) -> bool:
        """Say whether ``value`` lies outside of the interval."""
        return not self.low <= value <= self.high


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return the mean of independent ``values`` [n] and its interval: mean +- t s / sqrt(n), n - 1 degrees of freedom.

    Exact for normal values; the mean of a run of many requests is close to one.

    Raises:
        ValueError: there are no values, or the confidence is not between 0 and 1.
    """
    if not len(values):
        raise ValueError("mean_interval: no values")
    sample = np.asarray(values, dtype=np.float64)
    mean = float(sample.mean())
    if len(sample) == 1:
        student_t(1, confidence=confidence)
        return Interval(mean, -inf, inf, 1)
    half = student_t(len(sample) - 1, confidence=confidence) * float(sample.std(ddof=1)) / sqrt(len(sample))
    return Interval(mean, mean - half, mean + half, len(sample))


def student_t(degrees: int, *, confidence: float = 0.95) -> float:
    """Return the t for which a Student variable lies in [-t, t] with probability ``confidence``.

    Found by bisection of the closed form for whole ``degrees`` of freedom (Abramowitz and Stegun, 26.7.3 and 26.7.4).

    Raises:
        ValueError: the degrees are below 1, or the confidence is not between 0 and 1.
    """
    if degrees < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"student_t: needs degrees >= 1 and 0 < confidence < 1 (got {degrees}, {confidence})")
    low, high = 0.0, pi / 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        if _within(middle, degrees) < confidence:
            low = middle
        else:
            high = middle
    return sqrt(degrees) * tan(0.5 * (low + high))


def within_t(value: float, degrees: int) -> float:
    """Return the probability that a Student variable of ``degrees`` of freedom lies in [-value, value]."""
    return _within(atan(abs(value) / sqrt(degrees)), degrees)


def _within(angle: float, degrees: int) -> float:
    """Return the probability of [-t, t] for t = sqrt(degrees) tan(angle)."""
    square = cos(angle) ** 2
    odd = degrees % 2
    term = cos(angle) if odd else 1.0
    total = term if degrees > 1 else 0.0
    for power in range(2 + odd, degrees - 1, 2):
        term *= square * (power - 1) / power
        total += term
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def beta_quantile(first: float, second: float, probability: float) -> float:
    """Return the x below which a Beta variable with shapes ``first`` and ``second`` lies with ``probability``.

    Newton's steps, kept within a bracket, from the approximation of Abramowitz and Stegun, 26.5.22.

    Raises:
        ValueError: a shape is not positive, or the probability is not between 0 and 1.
    """
    if not (first > 0.0 and second > 0.0 and 0.0 < probability < 1.0):
        raise ValueError(f"beta_quantile: needs shapes > 0 and 0 < p < 1 (got {first}, {second}, {probability})")
    low, high, x = 0.0, 1.0, _near_beta(first, second, probability)
    scale = lgamma(first + second) - lgamma(first) - lgamma(second)
    for _ in range(100):
        error = within_beta(first, second, x) - probability
        low, high = (x, high) if error < 0.0 else (low, x)
        density = exp(scale + (first - 1.0) * log(x) + (second - 1.0) * log1p(-x))
        after = x - error / density if density > 0.0 else 0.5 * (low + high)
        if not low < after < high:
            after = 0.5 * (low + high)
        if abs(after - x) <= 1e-12 * x or high - low <= 1e-15:
            return after
        x = after
    return x


def within_beta(first: float, second: float, x: float) -> float:
    """Return the probability that a Beta variable is at most ``x``: the regularised incomplete beta function.

    Its continued fraction (Abramowitz and Stegun, 26.5.8), summed as Lentz does, on the side where it converges fast.
    """
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    scale = lgamma(first + second) - lgamma(first) - lgamma(second) + first * log(x) + second * log1p(-x)
    if x < (first + 1.0) / (first + second + 2.0):
        return exp(scale) * _fraction(first, second, x) / first
    return 1.0 - exp(scale) * _fraction(second, first, 1.0 - x) / second


def _fraction(first: float, second: float, x: float) -> float:
    """Return the continued fraction of the incomplete beta function."""
    above, below = 1.0, 1.0 / (1.0 - (first + second) * x / (first + 1.0))
    total = below
    for number in range(1, 100_000):
        place = first + 2 * number
        even = number * (second - number) * x / ((place - 1.0) * place)
        odd = -(first + number) * (first + second + number) * x / (place * (place + 1.0))
        for part in (even, odd):
            below = 1.0 / (1.0 + part * below)
            above = 1.0 + part / above
            total *= below * above
        if abs(below * above - 1.0) < 1e-13:
            break
    return total


def _near_beta(first: float, second: float, probability: float) -> float:
    """Return a value near the quantile of a Beta variable, strictly between 0 and 1."""
    if first > 1.0 and second > 1.0:
        normal = NormalDist().inv_cdf(probability)
        one, other = 1.0 / (2.0 * first - 1.0), 1.0 / (2.0 * second - 1.0)
        harmonic = 2.0 / (one + other)
        bend = (normal**2 - 3.0) / 6.0
        width = normal * sqrt(max(harmonic + bend, 0.0)) / harmonic
        turn = width + (one - other) * (bend + 5.0 / 6.0 - 2.0 / (3.0 * harmonic))
        # The formula has w for the upper tail: with minus signs there, the lower one.
        guess = first / (first + second * exp(min(-2.0 * turn, 700.0)))
    else:
        guess = first / (first + second)
    return min(max(guess, 1e-12), 1.0 - 1e-12)
