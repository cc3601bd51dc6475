"""Gaps between arrivals with mean one: the shapes from which every renewal process is made."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Gaps(Protocol):
    """A distribution of gaps with mean 1; drawing n and then m gives the same as drawing n + m."""

    @property
    def label(self) -> str:
        """Name for a header, such as ``Gamma (CV 2.00)``."""
        ...

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Draw ``count`` gaps."""
        ...


@dataclass(frozen=True, slots=True)
class ExponentialGaps:
    """Gaps of a Poisson process.  They are not cut anywhere: a cap would raise the rate and lower the CV."""

    label: str = "Poisson"

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Draw by inversion, -ln(1 - u)."""
        return -np.log1p(-random.random(count))


@dataclass(frozen=True, slots=True)
class GammaGaps:
    """Gamma gaps of the given shape; CV = 1 / sqrt(shape).  vLLM calls the shape burstiness."""

    shape: float

    @property
    def label(self) -> str:
        """Name for a header."""
        return f"Gamma (CV {self.shape**-0.5:.2f})"

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Draw by NumPy's own method."""
        return random.standard_gamma(self.shape, count) / self.shape


@dataclass(frozen=True, slots=True)
class WeibullGaps:
    """Weibull gaps of the given shape; below 1 they are burstier than Poisson."""

    shape: float

    @property
    def label(self) -> str:
        """Name for a header."""
        return f"Weibull (CV {weibull_cv(self.shape):.2f})"

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Draw by inversion, (-ln(1 - u)) ** (1 / shape), divided by the mean."""
        standard = -np.log1p(-random.random(count))
        result: Floats = np.exp(np.log(np.maximum(standard, 1e-300)) / self.shape - math.lgamma(1.0 + 1.0 / self.shape))
        return result


@dataclass(frozen=True, slots=True)
class ConstantGaps:
    """Every gap is 1."""

    label: str = "constant"

    def draw(self, random: np.random.Generator, count: int) -> Floats:
        """Return ones."""
        return np.ones(count)


def weibull_cv(shape: float) -> float:
    """Return the coefficient of variation of a Weibull variable: sqrt(G(1 + 2/k) / G(1 + 1/k)^2 - 1)."""
    exponent = math.lgamma(1.0 + 2.0 / shape) - 2.0 * math.lgamma(1.0 + 1.0 / shape)
    return math.sqrt(max(math.expm1(min(exponent, 700.0)), 0.0))


def weibull_shape(cv: float) -> float:
    """Return the Weibull shape with the coefficient of variation ``cv``, to a relative 1e-12.

    Raises:
        ValueError: ``cv`` is outside 0.002 ... 1e6, where the shape means nothing.
    """
    if not 0.002 <= cv <= 1e6:
        raise ValueError(f"a Weibull CV must lie between 0.002 and 1e6 (got {cv:g})")
    low, high = math.log(0.02), math.log(1000.0)  # the CV falls with the shape
    for _ in range(100):
        middle = (low + high) / 2.0
        if weibull_cv(math.exp(middle)) > cv:
            low = middle
        else:
            high = middle
    return math.exp((low + high) / 2.0)
