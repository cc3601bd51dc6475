"""Finding where a rule stops to hold: galloping until it is bracketed, then halving the bracket."""

from __future__ import annotations

from math import isclose, sqrt
from typing import Literal

# How far from the start a search without an end goes: ten steps of four are a factor of a million.
GALLOP = 4.0
MOST_STEPS = 10

Outcome = Literal["found", "never", "always"]


class Bisection:
    """The search for the highest value at which a rule holds that holds below some point and nowhere above it.

    `ask` names the next value to look at, None when the search is over; `tell` takes what came of it.  Between both
    anything may be done, so many searches can go side by side.  It ends after at most 2 x `MOST_STEPS` values
    and as many halvings as the tolerance takes, whatever the answers are.

    Args:
        start: the first value.
        low: the lowest value looked at; None: the start divided by a million (1 for whole numbers).
        high: the highest value looked at; None: the start times a million.
        tolerance: the search ends when its bracket is no wider than this share of its lower end.
        whole: whether values are whole numbers; a bracket of two neighbours is narrow enough.
    """

    def __init__(
        self,
        start: float,
        *,
        low: float | None = None,
        high: float | None = None,
        tolerance: float = 0.02,
        whole: bool = False,
    ) -> None:
        far = GALLOP**MOST_STEPS
        self.low = low if low is not None else 1.0 if whole else start / far
        self.high = high if high is not None else start * far
        self.tolerance = tolerance
        self.whole = whole
        self.holds: float | None = None
        self.fails: float | None = None
        self._start = min(max(start, self.low), self.high)

    def ask(self) -> float | None:
        """Return the value to look at next, None when the search is over."""
        if self.holds is None and self.fails is None:
            return self._start
        if self.fails is None:
            assert self.holds is not None
            return None if self._is(self.holds, self.high) else self._rounded(min(self.holds * GALLOP, self.high))
        if self.holds is None:
            return None if self._is(self.fails, self.low) else self._rounded(max(self.fails / GALLOP, self.low))
        if self.fails - self.holds <= max(self.tolerance * self.holds, 1.0 if self.whole else 0.0):
            return None
        middle = self._rounded(sqrt(self.holds * self.fails))
        # Where rounding leaves nothing in between, nothing finer can be asked.
        return middle if self.holds < middle < self.fails else None

    def tell(self, value: float, holds: bool) -> None:
        """Take in whether the rule holds at ``value``."""
        if holds:
            self.holds = value if self.holds is None else max(value, self.holds)
        else:
            self.fails = value if self.fails is None else min(value, self.fails)

    @property
    def outcome(self) -> Outcome:
        """Whether the rule holds up to a point, never (down to the lowest value), or always (up to the highest)."""
        if self.holds is None:
            return "never"
        return "always" if self.fails is None else "found"

    def _is(self, value: float, end: float) -> bool:
        return isclose(value, end, rel_tol=1e-9)

    def _rounded(self, value: float) -> float:
        """Return a value that can be read, and that searches with another history may come upon too."""
        if value in (self.low, self.high):
            return value
        if not self.whole:
            return float(f"{value:.6g}")
        whole = float(round(value))
        if self.holds is not None and self.fails is not None:
            whole = min(max(whole, self.holds + 1), self.fails - 1)
        return min(max(whole, self.low), self.high)
