"""How many drafts a request accepts: drawn from a stream of its own, verification by verification.

A request's n-th verification always meets the same draw, whatever the policy, the batch and preemptions make of
it.  One uniform number decides a verification: at least i drafts are accepted when it is below the i-th rate,
so higher rates never accept less (common random numbers).
"""

from __future__ import annotations

from collections.abc import Sequence as Many

import numpy as np
from numpy.typing import NDArray

from llmsim.random import stream

Integers = NDArray[np.int64]

DRAWN_AT_ONCE = 64


class Acceptance:
    """The accepted drafts of one request.

    Args:
        seed: seed of the run.
        request: id of the request.
        rising: the rates in rising order, as `rising_rates` gives them.

    Attributes:
        turn: verifications that are behind it.
    """

    __slots__ = ("_counts", "_generator", "_rising", "turn")

    def __init__(self, seed: int, request: str, rising: NDArray[np.float64]) -> None:
        self._generator = stream(seed, "acceptance", request)
        self._rising = rising
        self._counts: Integers = np.empty(0, dtype=np.int64)
        self.turn = 0

    def counts(self, start: int, number: int) -> Integers:
        """Return how many drafts verifications ``start`` to ``start + number`` (exclusive) accept: [number]."""
        while len(self._counts) < start + number:
            drawn = self._generator.random(DRAWN_AT_ONCE)
            rising = self._rising
            fresh = len(rising) - rising.searchsorted(drawn, side="right")
            self._counts = np.concatenate((self._counts, fresh)) if len(self._counts) else fresh
        return self._counts[start : start + number]


def rising_rates(rates: Many[float]) -> NDArray[np.float64]:
    """Return acceptance rates, which fall with the position, in rising order: an array."""
    return np.array(rates[::-1], dtype=np.float64)
