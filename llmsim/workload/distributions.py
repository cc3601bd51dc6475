"""How long a prompt or an output is: distributions by their quantile function, one uniform draw a value."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmsim.workload.normal import normal_quantile

Floats = NDArray[np.float64]


class Distribution(Protocol):
    """A distribution of lengths in tokens."""

    def quantile(self, uniform: Floats) -> Floats:
        """Return the value below which each share ``uniform`` in [0, 1) lies."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same."""

    value: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return the value."""
        return np.full(len(uniform), self.value)


@dataclass(frozen=True, slots=True)
class Uniform:
    """Whole numbers from ``low`` to ``high``, both included, all alike."""

    low: int
    high: int

    def quantile(self, uniform: Floats) -> Floats:
        """Return whole numbers."""
        return np.floor(self.low + uniform * (self.high - self.low + 1))


@dataclass(frozen=True, slots=True)
class Lognormal:
    """exp of a normal variable with mean ``mu`` and standard deviation ``sigma`` (natural logarithm)."""

    mu: float
    sigma: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return the quantile."""
        return np.asarray(np.exp(self.mu + self.sigma * normal_quantile(uniform)))

    @classmethod
    def from_mean(cls, mean: float, sd: float) -> "Lognormal":
        """Return the lognormal with this mean and standard deviation in tokens."""
        variance = math.log1p((sd / mean) ** 2)
        return cls(math.log(mean) - variance / 2.0, math.sqrt(variance))


@dataclass(frozen=True, slots=True)
class Normal:
    """A normal variable; cut it with ``min``."""

    mean: float
    sd: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return the quantile."""
        return self.mean + self.sd * normal_quantile(uniform)


@dataclass(frozen=True, slots=True)
class Geometric:
    """Whole numbers from 1 on: every further one comes with the same probability, 1 - 1 / ``mean``."""

    mean: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return whole numbers."""
        if self.mean <= 1.0:
            return np.ones(len(uniform))
        return np.maximum(np.ceil(np.log1p(-uniform) / math.log1p(-1.0 / self.mean)), 1.0)


@dataclass(frozen=True, slots=True)
class Exponential:
    """An exponential variable."""

    mean: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return the quantile."""
        return -self.mean * np.log1p(-uniform)


@dataclass(frozen=True, slots=True)
class Mixture:
    """One of several distributions, chosen with probability ``weights`` (they add up to 1)."""

    weights: tuple[float, ...]
    parts: tuple[Distribution, ...]

    def quantile(self, uniform: Floats) -> Floats:
        """Return a value of the part into whose share the draw falls, taken from where in the share it falls."""
        edges = np.concatenate(([0.0], np.cumsum(self.weights)))
        edges[-1] = 1.0
        part = np.clip(np.searchsorted(edges, uniform, side="right") - 1, 0, len(self.parts) - 1)
        result = np.empty(len(uniform))
        for i, distribution in enumerate(self.parts):
            mine = part == i
            inside = (uniform[mine] - edges[i]) / (edges[i + 1] - edges[i])
            result[mine] = distribution.quantile(np.clip(inside, 0.0, 1.0 - 2.0**-53))
        return result


@dataclass(frozen=True, slots=True)
class Shifted:
    """Another distribution, and ``offset`` tokens that always come with it."""

    distribution: Distribution
    offset: float

    def quantile(self, uniform: Floats) -> Floats:
        """Return the quantile."""
        return self.offset + self.distribution.quantile(uniform)


@dataclass(frozen=True, slots=True)
class QuantileTable:
    """Values at given percentages from 0 to 100, straight lines of the logarithm between them."""

    percent: Floats
    values: Floats

    def quantile(self, uniform: Floats) -> Floats:
        """Return the quantile, exp of the line between the logarithms."""
        return np.asarray(np.exp(np.interp(uniform * 100.0, self.percent, np.log(self.values))))


@dataclass(frozen=True, slots=True)
class Empirical:
    """Given values with given probabilities; ``cumulative`` ends with 1."""

    values: Floats
    cumulative: Floats

    def quantile(self, uniform: Floats) -> Floats:
        """Return one of the values."""
        at = np.searchsorted(self.cumulative, uniform, side="right")
        return self.values[np.minimum(at, len(self.values) - 1)]

    @classmethod
    def from_weights(cls, values: Floats, weights: Floats) -> "Empirical":
        """Return the distribution in which each value has its share of the ``weights``."""
        cumulative = np.cumsum(weights)
        return cls(values, cumulative / cumulative[-1])


@dataclass(frozen=True, slots=True)
class ConditionalTable:
    """Outputs by prompt: a quantile table for each of several ranges of prompt length.

    ``edges`` [ranges + 1] in prompt tokens; ``percent`` [points]; ``values`` [ranges, points] in output tokens.
    """

    edges: Floats
    percent: Floats
    values: Floats

    def quantile(self, uniform: Floats, prompts: Floats) -> Floats:
        """Return an output for each prompt."""
        row = np.searchsorted(self.edges[1:-1], prompts, side="right")
        result = np.empty(len(uniform))
        for i in range(len(self.values)):
            mine = row == i
            result[mine] = QuantileTable(self.percent, self.values[i]).quantile(uniform[mine])
        return result


@dataclass(frozen=True, slots=True)
class Length:
    """Whole tokens from a distribution: rounded, then brought between ``low`` and ``high``."""

    distribution: Distribution
    low: int = 1
    high: int | None = None

    def tokens(self, uniform: Floats) -> NDArray[np.int64]:
        """Return one length for each draw."""
        return whole_tokens(self.distribution.quantile(uniform), self.low, self.high)


def whole_tokens(values: Floats, low: int, high: int | None) -> NDArray[np.int64]:
    """Return ``values`` rounded to whole tokens and brought between ``low`` and ``high``."""
    limit = 2.0**53 if high is None else float(high)
    return np.clip(np.rint(values), low, limit).astype(np.int64)
