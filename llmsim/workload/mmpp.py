"""Markov-modulated Poisson processes: a hidden mood that sets the rate and changes at random."""

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmsim.random import stream

Floats = NDArray[np.float64]

_CHUNK = 1024


@dataclass(frozen=True, slots=True)
class Mmpp:
    """A Poisson process whose rate is ``rates[state]``, in requests per second.

    With ``step_s`` the state may change at every multiple of it, with probabilities ``transition[from, to]``;
    without, ``transition`` is a generator: rates of change per second, rows that add up to 0.
    """

    rates: Floats
    transition: Floats
    step_s: float | None
    label: str = "MMPP"

    def __post_init__(self) -> None:
        states = len(self.rates)
        if self.transition.shape != (states, states):
            raise ValueError(f"transition must be {states} x {states}, as there are {states} rates")
        if (self.rates < 0.0).any() or not self.mean_rate > 0.0:
            raise ValueError("rates must not be negative, nor all of them zero")

    @property
    def stationary(self) -> Floats:
        """Share of time in each state, [states]."""
        states = len(self.rates)
        flow = self.transition - np.eye(states) if self.step_s is not None else self.transition
        system = np.vstack([flow.T, np.ones(states)])
        share = np.linalg.lstsq(system, np.concatenate([np.zeros(states), [1.0]]), rcond=None)[0]
        share = np.clip(share, 0.0, None)
        return np.asarray(share / share.sum())

    @property
    def mean_rate(self) -> float:
        """Mean rate in requests per second."""
        return float(self.stationary @ self.rates)

    def scaled_to(self, mean_rate: float) -> "Mmpp":
        """Return the process with another mean rate: more users, whose moods change at the same pace."""
        return Mmpp(self.rates * (mean_rate / self.mean_rate), self.transition, self.step_s, self.label)

    def segments(self, seed: int) -> Iterator[tuple[Floats, Floats]]:
        """Yield (durations, rates) for ever, from a state drawn from the stationary distribution."""
        random = stream(seed, "arrivals", "state")
        state = bisect_right(np.cumsum(self.stationary)[:-1].tolist(), random.random())
        jump = self.transition if self.step_s is not None else _jumps(self.transition)
        rows = [np.cumsum(row)[:-1].tolist() for row in jump]
        stays = None if self.step_s is not None else -1.0 / np.diag(self.transition)
        while True:
            states = np.empty(_CHUNK, dtype=np.int64)
            draws = random.random((_CHUNK, 2))
            for i, draw in enumerate(draws[:, 0].tolist()):
                states[i] = state
                state = bisect_right(rows[state], draw)
            if stays is None:
                durations = np.full(_CHUNK, self.step_s)
            else:
                durations = np.maximum(-np.log1p(-draws[:, 1]) * stays[states], 1e-12)
            yield durations, self.rates[states]


def from_stays(rates: Floats, mean_stay_s: Floats, label: str = "MMPP") -> Mmpp:
    """Return the process that stays ``mean_stay_s[state]`` on average and then goes to any other state alike."""
    states = len(rates)
    leave = 1.0 / mean_stay_s
    generator = np.tile(leave[:, None] / (states - 1), (1, states))
    np.fill_diagonal(generator, -leave)
    return Mmpp(rates, generator, None, label)


def checked_transition(rows: list[list[float]], *, generator: bool) -> Floats:
    """Return the matrix with its rounding errors removed.

    Raises:
        ValueError: a row does not add up to 1 (generator: 0), or has an entry of the wrong sign.
    """
    matrix = np.array(rows, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError("must be a square matrix")
    off_diagonal = matrix[~np.eye(len(matrix), dtype=bool)]
    if (off_diagonal < 0.0).any() or (not generator and (np.diag(matrix) < 0.0).any()):
        raise ValueError("entries must not be negative")
    sums = matrix.sum(axis=1)
    if generator:
        if (np.abs(sums) > 0.005 * np.abs(np.diag(matrix))).any() or (np.diag(matrix) >= 0.0).any():
            raise ValueError("every row of a generator adds up to 0, its diagonal is negative")
        return matrix - np.diag(sums)
    if (np.abs(sums - 1.0) > 0.005).any():
        raise ValueError("every row adds up to 1")
    return np.asarray(matrix / sums[:, None])


def _jumps(generator: Floats) -> Floats:
    jump = generator.copy()
    np.fill_diagonal(jump, 0.0)
    return np.asarray(jump / jump.sum(axis=1, keepdims=True))
