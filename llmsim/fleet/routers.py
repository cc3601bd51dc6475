"""Routers: a callable that picks a replica for a request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from llmsim.workload.request import Request

if TYPE_CHECKING:
    import numpy as np


class Replica(Protocol):
    """What a router sees of an engine."""

    replica: int
    load: int


Router = Callable[[Request, Sequence[Replica]], Replica]


class RoundRobin:
    """One replica after the other, in order."""

    def __init__(self, random: np.random.Generator | None = None) -> None:
        self._next = 0

    def __call__(self, request: Request, replicas: Sequence[Replica]) -> Replica:
        """Return the next replica."""
        chosen = replicas[self._next % len(replicas)]
        self._next += 1
        return chosen


class LeastRequests:
    """The replica with the fewest requests that wait or run; the first of those that tie."""

    def __init__(self, random: np.random.Generator | None = None) -> None:
        pass

    def __call__(self, request: Request, replicas: Sequence[Replica]) -> Replica:
        """Return the least loaded replica."""
        return min(replicas, key=_load)


class RandomChoice:
    """Any replica, each with the same chance, from a random stream of its own."""

    def __init__(self, random: np.random.Generator | None = None) -> None:
        assert random is not None
        self._random = random

    def __call__(self, request: Request, replicas: Sequence[Replica]) -> Replica:
        """Return a replica drawn at random."""
        return replicas[int(self._random.random() * len(replicas))]


def _load(replica: Replica) -> int:
    return replica.load


# A router is made once a run: ROUTERS[name](stream of random numbers).
ROUTERS: dict[str, Callable[[np.random.Generator], Router]] = {
    "round_robin": RoundRobin,
    "least_requests": LeastRequests,
    "random": RandomChoice,
}
