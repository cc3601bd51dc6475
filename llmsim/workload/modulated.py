"""Arrivals whose rate moves: a process of rate one on a clock that runs as fast as the rate is high."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Segments = Iterable[tuple[Floats, Floats]]  # (durations in seconds, rates in requests per second), piece by piece


def running_sums(chunks: Iterable[Floats], start: float = 0.0) -> Iterator[Floats]:
    """Yield the cumulative sums of all ``chunks``, the same to the last bit however the values are cut."""
    last = start
    for chunk in chunks:
        sums = np.cumsum(np.concatenate(([last], chunk)))[1:]  # cumsum adds from left to right
        if len(sums):
            last = float(sums[-1])
            yield sums


def time_change(unit_times: Iterable[Floats], segments: Segments) -> Iterator[Floats]:
    """Yield the moments at which the integral of a piecewise constant rate reaches each of ``unit_times``.

    With unit Poisson times this is exactly the Poisson process with that rate; with other unit-mean
    renewal times the gaps keep their shape while the rate moves.  Ends with the segments, if they end.
    """
    pieces = iter(segments)
    times, integral, rates = np.zeros(1), np.zeros(1), np.zeros(0)  # knots, one more than rates
    for wanted in unit_times:
        while integral[-1] <= wanted[-1]:
            piece = next(pieces, None)
            if piece is None:
                inside = wanted[wanted < integral[-1]]
                if len(inside):
                    yield _inverse(inside, times, integral, rates)
                return
            durations, piece_rates = piece
            times = np.concatenate((times, next(running_sums([durations], float(times[-1])))))
            integral = np.concatenate((integral, next(running_sums([durations * piece_rates], float(integral[-1])))))
            rates = np.concatenate((rates, piece_rates))
        yield _inverse(wanted, times, integral, rates)
        done = int(np.searchsorted(integral, wanted[-1], side="right")) - 1
        times, integral, rates = times[done:], integral[done:], rates[done:]


def _inverse(wanted: Floats, times: Floats, integral: Floats, rates: Floats) -> Floats:
    # The last knot at or below a wanted value starts a segment with a rate above zero, because the
    # next knot lies above it; flat pieces (rate 0) are jumped over.
    at = np.searchsorted(integral, wanted, side="right") - 1
    result: Floats = times[at] + (wanted - integral[at]) / rates[at]
    return result
