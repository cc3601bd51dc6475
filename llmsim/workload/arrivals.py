"""When requests come: arrival processes, drawn in chunks that may be cut anywhere without changing a draw."""

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, repeat
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmsim.random import stream
from llmsim.workload.gaps import Gaps
from llmsim.workload.modulated import Segments, running_sums, time_change
from llmsim.workload.normal import normal_quantile

Floats = NDArray[np.float64]

CHUNK = 4096


class Arrivals(Protocol):
    """A process of arrivals."""

    @property
    def label(self) -> str:
        """Name and rate for a header, such as ``Poisson 8.00 req/s``."""
        ...

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield arrival times in seconds, in order; at least ``count`` of them unless the process ends."""
        ...


class Modulation(Protocol):
    """A rate that moves (`llmsim.workload.rates`, `llmsim.workload.mmpp`)."""

    @property
    def label(self) -> str:
        """Name for a header."""
        ...

    @property
    def mean_rate(self) -> float:
        """Mean rate in requests per second."""
        ...

    def segments(self, seed: int) -> Segments:
        """Yield (durations, rates)."""
        ...


def times(arrivals: Arrivals, seed: int, count: int | None) -> Iterator[float]:
    """Yield the first ``count`` arrival times (None: all), one by one."""
    single = (time for chunk in arrivals.chunks(seed, count) for time in chunk.tolist())
    return single if count is None else islice(single, count)


@dataclass(frozen=True, slots=True)
class Renewal:
    """Independent gaps at a constant rate in requests per second; the first arrival comes after the first gap."""

    gaps: Gaps
    rate: float
    chunk: int = CHUNK

    @property
    def label(self) -> str:
        """Name and rate."""
        return f"{self.gaps.label} {self.rate:.2f} req/s"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield arrival times for ever."""
        return running_sums(gaps / self.rate for gaps in _unit_gaps(self.gaps, seed, self.chunk))


@dataclass(frozen=True, slots=True)
class RampedRenewal:
    """Gaps whose rate moves from ``start_rate`` to ``end_rate`` over the requests, as `vllm bench serve` ramps up.

    Request i of n has the rate start + (end - start) * i / (n - 1), or, ``exponential``,
    start * (end / start) ** (i / (n - 1)).
    """

    gaps: Gaps
    start_rate: float
    end_rate: float
    strategy: str
    chunk: int = CHUNK

    @property
    def label(self) -> str:
        """Name and rates."""
        return f"{self.gaps.label}, {self.strategy} ramp {self.start_rate:.2f} to {self.end_rate:.2f} req/s"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield ``count`` arrival times.

        Raises:
            ValueError: ``count`` is None; a ramp needs to know how long it is.
        """
        if count is None:
            raise ValueError("a ramp needs the number of requests")
        rates = ramp(self.start_rate, self.end_rate, self.strategy, count)
        pieces = (rates[start : start + self.chunk] for start in range(0, count, self.chunk))
        draws = _unit_gaps(self.gaps, seed, self.chunk)
        return running_sums(gaps[: len(piece)] / piece for gaps, piece in zip(draws, pieces, strict=False))


@dataclass(frozen=True, slots=True)
class Modulated:
    """Gaps of one shape on a clock that runs with a moving rate; Poisson gaps give the Poisson process exactly."""

    gaps: Gaps
    rate: Modulation
    chunk: int = CHUNK

    @property
    def label(self) -> str:
        """Name and mean rate."""
        shape = "" if self.gaps.label == "Poisson" else f" x {self.gaps.label}"
        return f"{self.rate.label}{shape}, mean {self.rate.mean_rate:.2f} req/s"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield arrival times, for ever or to the end of the rate table."""
        unit_times = running_sums(_unit_gaps(self.gaps, seed, self.chunk))
        return time_change(unit_times, self.rate.segments(seed))


@dataclass(frozen=True, slots=True)
class AllAtOnce:
    """Every request arrives at time 0."""

    label: str = "all at once"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield zeros for ever."""
        return repeat(np.zeros(CHUNK))


@dataclass(frozen=True, slots=True)
class Batches:
    """Poisson moments at which a geometric number of requests (mean ``mean_batch``) arrives together."""

    gaps: Gaps
    rate: float
    mean_batch: float
    chunk: int = CHUNK

    @property
    def label(self) -> str:
        """Name, rate of requests and size of batches."""
        return f"{self.gaps.label} batches of {self.mean_batch:g} on average, {self.rate:.2f} req/s"

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield arrival times for ever."""
        moments = Renewal(self.gaps, self.rate / self.mean_batch, self.chunk).chunks(seed, None)
        random = stream(seed, "arrivals", "batch")
        for chunk in moments:
            yield np.repeat(chunk, geometric(random.random(len(chunk)), self.mean_batch))


@dataclass(frozen=True, slots=True)
class MarkovRenewal:
    """Lognormal gaps whose (mu, sigma) depend on a state that changes from gap to gap; cut at ``gap_cap_s``.

    ``pace`` divides every gap, so it multiplies the rate.
    """

    mu: Floats
    sigma: Floats
    transition: Floats
    gap_cap_s: float
    pace: float = 1.0
    chunk: int = CHUNK

    @property
    def label(self) -> str:
        """Name and number of states."""
        return f"Markov renewal ({len(self.mu)} states)" + ("" if self.pace == 1.0 else f" x {self.pace:g}")

    def chunks(self, seed: int, count: int | None) -> Iterator[Floats]:
        """Yield arrival times for ever."""
        return running_sums(gaps / self.pace for gaps in self._gaps(seed))

    def _gaps(self, seed: int) -> Iterator[Floats]:
        moves, draws = stream(seed, "arrivals", "state"), stream(seed, "arrivals")
        rows = [np.cumsum(row)[:-1].tolist() for row in self.transition]
        state = 0
        while True:
            states = np.empty(self.chunk, dtype=np.int64)
            for i, move in enumerate(moves.random(self.chunk).tolist()):
                states[i] = state = bisect_right(rows[state], move)
            normal = normal_quantile(draws.random(self.chunk))
            yield np.minimum(np.exp(self.mu[states] + self.sigma[states] * normal), self.gap_cap_s)


def ramp(start: float, end: float, strategy: str, count: int) -> Floats:
    """Return the rate of each of ``count`` requests under vLLM's ``linear`` or ``exponential`` ramp-up."""
    progress = np.arange(count) / max(count - 1, 1)
    if strategy == "linear":
        return start + (end - start) * progress
    return np.asarray(start * (end / start) ** progress)


def geometric(uniform: Floats, mean: float) -> NDArray[np.int64]:
    """Return numbers 1, 2, ... with P(n) = p (1 - p)^(n - 1) and p = 1 / ``mean``, by inversion."""
    if mean <= 1.0:
        return np.ones(len(uniform), dtype=np.int64)
    return 1 + np.floor(np.log1p(-uniform) / math.log1p(-1.0 / mean)).astype(np.int64)


def _unit_gaps(gaps: Gaps, seed: int, chunk: int) -> Iterator[Floats]:
    random = stream(seed, "arrivals")
    while True:
        yield gaps.draw(random, chunk)
