"""Continuous batching in the order of a rank: who waits is served by it, and who must give way is found by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from heapq import heapify, heappop, heappush

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.orders.checks import no_priorities
from llmsim.schedulers.sequence import Sequence

Rank = tuple[float, float, int]


class RankedOrder(list[tuple[Rank, int, Sequence]]):
    """The lowest rank first; a rank is taken when a sequence comes, or comes back, and does not change while it waits.

    The list is a heap.
    """

    def __init__(self, rank: Callable[[Sequence], Rank]) -> None:
        super().__init__()
        self._rank = rank
        self._entries = 0

    def add(self, sequence: Sequence) -> bool:
        """Insert by rank; say whether it is now the first."""
        self._entries += 1
        heappush(self, (self._rank(sequence), self._entries, sequence))
        return self[0][2] is sequence

    def put_back(self, sequence: Sequence) -> None:
        """Insert by rank, like a newcomer."""
        self.add(sequence)

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        return self[0][2]

    def take(self) -> Sequence:
        """Return the first sequence and let it go."""
        return heappop(self)[2]

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        self[:] = [entry for entry in self if entry[2] is not sequence]
        heapify(self)


class RankedBatching(ContinuousBatching, ABC):
    """The steps of `ContinuousBatching` in the order of `rank`, the lowest first.

    Nobody who runs gives way to a newcomer.  Only when blocks run out, the running sequence of the highest rank
    is preempted, and goes back to its rank in the queue.  A rank must tell any two sequences apart, and may change
    only as tokens are generated: so whoever runs with the lowest rank is never preempted while others run, and two
    that do not fit together cannot preempt each other for ever.

    Args:
        options: the engine's options, as for `ContinuousBatching`; ``scheduling_policy`` must be ``fcfs``.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
    """

    name = "ranked"

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True) -> None:
        no_priorities(self.name, options)
        super().__init__(options, pool, leap=leap)
        self.waiting = RankedOrder(self.rank)
        self._by_priority = True  # a victim may be anyone

    @abstractmethod
    def rank(self, sequence: Sequence) -> Rank:
        """Return the rank of a sequence: what the order is by, then arrival (seconds, number)."""

    def _victim(self) -> Sequence:
        """Return the running sequence of the highest rank."""
        return max(self.running, key=self.rank)
