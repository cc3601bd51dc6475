"""Running statistics of a trace in bounded memory: counts of lengths, gaps, bursts, and blocks seen before."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmsim.workload.request import Prefix

Ints = NDArray[np.int64]


@dataclass(slots=True)
class TokenCounts:
    """How often each length occurs; percentiles are exact, as `numpy.percentile` gives them (linear)."""

    counts: Ints = field(default_factory=lambda: np.zeros(1024, dtype=np.int64))
    total: int = 0
    rows: int = 0
    longer: dict[int, int] = field(default_factory=dict)  # lengths that no table should be as long as

    _MOST = 1 << 22

    def add(self, lengths: Ints) -> None:
        """Count ``lengths``, whole numbers that are not negative."""
        self.total += int(lengths.sum())
        self.rows += len(lengths)
        for length in lengths[lengths >= self._MOST].tolist():
            self.longer[length] = self.longer.get(length, 0) + 1
        lengths = lengths[lengths < self._MOST]
        if len(lengths) and int(lengths.max()) >= len(self.counts):
            grown = np.zeros(2 * int(lengths.max()) + 1, dtype=np.int64)
            grown[: len(self.counts)] = self.counts
            self.counts = grown
        found = np.bincount(lengths)
        self.counts[: len(found)] += found

    def percentile(self, percent: float) -> float:
        """Return the percentile."""
        values = np.flatnonzero(self.counts)
        counts = self.counts[values]
        if self.longer:
            longer = np.array(sorted(self.longer.items()), dtype=np.int64)
            values, counts = np.concatenate((values, longer[:, 0])), np.concatenate((counts, longer[:, 1]))
        ends = np.cumsum(counts)
        rank = percent / 100.0 * (self.rows - 1)
        low = int(rank)
        below, above = (values[np.searchsorted(ends, min(r, self.rows - 1), side="right")] for r in (low, low + 1))
        return float(below + (above - below) * (rank - low))

    @property
    def mean(self) -> float:
        """Mean length."""
        return self.total / self.rows

    @property
    def smallest(self) -> int:
        """Shortest length."""
        return int(self.percentile(0.0))

    @property
    def largest(self) -> int:
        """Longest length."""
        return int(self.percentile(100.0))


@dataclass(slots=True)
class Windows:
    """Requests in each full window of ``width_s`` from the first request on; windows without any count too."""

    width_s: float
    sum_counts: int = 0
    sum_squares: int = 0
    peak: int = 0
    _open: int = 0
    _open_count: int = 0

    def add(self, times_ns: Ints) -> None:
        """Count arrivals, in order of time, in nanoseconds from the first one."""
        at = times_ns // round(self.width_s * 1e9)
        numbers, counts = np.unique(at, return_counts=True)
        if int(numbers[0]) == self._open:
            counts[0] += self._open_count
        else:
            self._close(np.array([self._open_count]))
        self._close(counts[:-1])
        self._open, self._open_count = int(numbers[-1]), int(counts[-1])

    def _close(self, counts: Ints) -> None:
        self.sum_counts += int(counts.sum())
        self.sum_squares += int((counts * counts).sum())
        self.peak = max(self.peak, int(counts.max(initial=0)))

    def dispersion(self, span_s: float) -> float | None:
        """Return variance (n - 1) over mean of the counts, None with fewer than two full windows in ``span_s``.

        The window in which the trace ends is left out, as it is not full.
        """
        windows = int(span_s / self.width_s)
        if windows < 2 or not self.sum_counts:
            return None
        mean = self.sum_counts / windows
        return (self.sum_squares - windows * mean * mean) / (windows - 1) / mean

    def peak_rate(self) -> float:
        """Return the most requests in a window, the open one included, in requests per second."""
        return max(self.peak, self._open_count) / self.width_s


@dataclass(slots=True)
class Gaps:
    """Moments of the gaps between arrivals."""

    last_ns: int | None = None
    gaps: int = 0
    distinct: int = 0
    total_s: float = 0.0
    squares: float = 0.0
    longest_s: float = 0.0
    shortest_s: float = np.inf  # among the gaps that are not zero

    def add(self, times_ns: Ints) -> None:
        """Count arrivals, in order of time, in nanoseconds."""
        before = times_ns[:1] if self.last_ns is None else np.array([self.last_ns])
        gaps = np.diff(np.concatenate((before, times_ns)))
        if self.last_ns is None:
            self.distinct, gaps = 1, gaps[1:]
        self.last_ns = int(times_ns[-1])
        self.distinct += int((gaps > 0).sum())
        seconds = gaps / 1e9
        self.gaps += len(seconds)
        self.total_s += float(seconds.sum())
        self.squares += float(np.dot(seconds, seconds))
        self.shortest_s = min(self.shortest_s, float(seconds[gaps > 0].min(initial=np.inf)))
        self.longest_s = max(self.longest_s, float(seconds.max(initial=0.0)))

    @property
    def cv(self) -> float | None:
        """Coefficient of variation, None without a gap."""
        if not self.gaps or self.total_s <= 0.0:
            return None
        mean = self.total_s / self.gaps
        return float(np.sqrt(max(self.squares / self.gaps - mean * mean, 0.0)) / mean)


@dataclass(slots=True)
class PrefixReuse:
    """Leading blocks of prompts that a cache without end would already hold."""

    block_tokens: int = 0
    blocks: int = 0
    hit_blocks: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    _seen: set[int] = field(default_factory=set)

    def add(self, prefix: Prefix, prompt_tokens: int) -> None:
        """Look one prompt up, and remember it.  A last block that is partial counts only as long as it is."""
        seen = self._seen
        hits = 0
        asked = prefix.hash_ids[: -(-prompt_tokens // prefix.block_tokens)]
        for identifier in asked:
            if identifier not in seen:
                break
            hits += 1
        seen.update(prefix.hash_ids[hits:])
        self.block_tokens = prefix.block_tokens
        self.blocks += len(asked)
        self.hit_blocks += hits
        self.cached_tokens += min(hits * prefix.block_tokens, prompt_tokens)
        self.prompt_tokens += prompt_tokens

    @property
    def unique_blocks(self) -> int:
        """Blocks that differ."""
        return len(self._seen)

    @property
    def hit_ratio(self) -> float:
        """Share of all blocks that would be hit."""
        return self.hit_blocks / self.blocks if self.blocks else 0.0
