"""Percentiles, mean and deviation of plain and of weighted samples, as numpy defines them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

ENOUGH_IN_THE_TAIL = 10  # samples that should lie beyond a percentile before one leans on it: 1000 for p99


@dataclass(frozen=True, slots=True)
class Summary:
    """Mean, standard deviation (of the population: ddof 0), median and percentiles of one sample."""

    count: int
    mean: float
    std: float
    median: float
    percentiles: tuple[float, ...]


def summarise(values: Floats, percents: Sequence[float], weights: Integers | None = None) -> Summary | None:
    """Return the summary of ``values`` [n], each counted ``weights`` [n] times, or None when there is nothing.

    The same figures as of ``np.repeat(values, weights)``, without making that array: the median and the
    percentiles bit for bit, mean and deviation within rounding.
    """
    count = len(values) if weights is None else int(weights.sum())
    if count == 0:
        return None
    median, *others = percentiles(values, (50, *percents), weights)
    mean = float(np.average(values, weights=weights))
    variance = float(np.average((values - mean) ** 2, weights=weights))
    return Summary(count=count, mean=mean, std=variance**0.5, median=median, percentiles=tuple(others))


def percentiles(values: Floats, percents: Sequence[float], weights: Integers | None = None) -> list[float]:
    """Return the ``percents`` (0..100) of ``values`` [n], each counted ``weights`` [n] times.

    Equal to ``np.percentile(np.repeat(values, weights), percents)``, method "linear": the percentile p of N
    values lies at position (N - 1) p / 100 of their sorted list, between two values on the line that joins them.

    Raises:
        ValueError: there are no values, or a percentage is outside 0..100.
    """
    if any(not 0 <= percent <= 100 for percent in percents):
        raise ValueError(f"percentiles: a percentage lies between 0 and 100 (got {list(percents)})")
    if weights is None:
        if len(values) == 0:
            raise ValueError("percentiles: no values")
        return [float(value) for value in np.percentile(values, list(percents))]
    order = np.argsort(values, kind="stable")
    ends = np.cumsum(weights[order])
    if len(ends) == 0 or ends[-1] == 0:
        raise ValueError("percentiles: no values")
    position = (ends[-1] - 1) * (np.asarray(percents, dtype=np.float64) / 100)
    below = np.floor(position)
    above = np.minimum(below + 1, ends[-1] - 1)
    low, high = (values[order[np.searchsorted(ends, index, side="right")]] for index in (below, above))
    fraction = position - below
    # Both forms of the line, as numpy has it: each is exact at its own end.
    line = np.where(fraction < 0.5, low + (high - low) * fraction, high - (high - low) * (1 - fraction))
    return [float(value) for value in line]


def thin(percents: Sequence[float], count: int) -> list[tuple[float, int]]:
    """Return those of ``percents`` that rest on too few of ``count`` samples, each with the count that it wants.

    A percentile wants `ENOUGH_IN_THE_TAIL` samples beyond it: below, one unlucky sample more or less moves it.
    """
    wanted = ((percent, round(ENOUGH_IN_THE_TAIL / (1 - percent / 100))) for percent in percents if 50 < percent < 100)
    return [(percent, enough) for percent, enough in wanted if count < enough]


def label(percent: float) -> str:
    """Return the name of a percentile as vLLM writes it in its keys, without the p: "99", "99.9"."""
    return str(int(percent)) if int(percent) == percent else str(percent)
