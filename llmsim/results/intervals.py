"""Confidence intervals of means over independent replications: Student's t."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, inf, pi, sin, sqrt, tan

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
