"""Rates that change in a known way: tables, the hours of a day, the days of a week."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAY_S = 86_400.0
_STEP_S = 300.0  # cosine profiles are cut into steps of five minutes


@dataclass(frozen=True, slots=True)
class RateTable:
    """A piecewise constant rate: ``durations`` in seconds, ``rates`` in requests per second, both [pieces]."""

    durations: Floats
    rates: Floats
    repeats: bool
    label: str

    def __post_init__(self) -> None:
        if not (self.mean_rate > 0.0 and (self.rates >= 0.0).all() and (self.durations > 0.0).all()):
            raise ValueError("rates must not be negative, nor all of them zero, and pieces must last some time")

    @property
    def mean_rate(self) -> float:
        """Mean over one round, in requests per second."""
        return float(np.dot(self.durations, self.rates) / self.durations.sum())

    def scaled_to(self, mean_rate: float) -> "RateTable":
        """Return the same table with another mean rate."""
        return RateTable(self.durations, self.rates * (mean_rate / self.mean_rate), self.repeats, self.label)

    def started_at(self, offset_s: float) -> "RateTable":
        """Return a repeating table turned so that it starts ``offset_s`` into its round."""
        offset = offset_s % float(self.durations.sum())
        ends = np.cumsum(self.durations)
        first = int(np.searchsorted(ends, offset, side="right"))
        left = ends[first] - offset
        durations = np.concatenate(([left], self.durations[first + 1 :], self.durations[: first + 1]))
        durations[-1] -= left
        rates = np.concatenate((self.rates[first:], self.rates[: first + 1]))
        keep = durations > 0.0
        return RateTable(durations[keep], rates[keep], self.repeats, self.label)

    def segments(self, seed: int) -> Iterator[tuple[Floats, Floats]]:
        """Yield the table once, or for ever when it repeats; ``seed`` is not used."""
        return repeat((self.durations, self.rates)) if self.repeats else iter([(self.durations, self.rates)])


def hourly(profile: Sequence[float], *, weekend: float = 1.0, label: str = "hourly profile") -> RateTable:
    """Return a table of mean rate 1 from relative rates for the 24 hours; days 5 and 6 times ``weekend``."""
    return _week(np.full(len(profile), DAY_S / len(profile)), np.asarray(profile, dtype=np.float64), weekend, label)


def cosine(*, peak_to_trough: float, peak_hour: float, weekend: float = 1.0, label: str = "diurnal") -> RateTable:
    """Return a table of mean rate 1 with rate proportional to exp(a cos(2 pi (h - peak_hour) / 24)).

    a = ln(peak_to_trough) / 2 makes the highest rate ``peak_to_trough`` times the lowest.
    """
    steps = round(DAY_S / _STEP_S)
    hours = (np.arange(steps) + 0.5) * (24.0 / steps)
    height = math.log(peak_to_trough) / 2.0
    rates = np.exp(height * np.cos(2.0 * math.pi * (hours - peak_hour) / 24.0))
    return _week(np.full(steps, _STEP_S), rates, weekend, label)


def _week(durations: Floats, rates: Floats, weekend: float, label: str) -> RateTable:
    if weekend != 1.0:
        rates = np.concatenate([rates] * 5 + [rates * weekend] * 2)
        durations = np.tile(durations, 7)
    return RateTable(durations, rates, True, label).scaled_to(1.0)
