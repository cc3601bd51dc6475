"""Waiting queues: who is served first."""

from __future__ import annotations

from collections import deque
from heapq import heapify, heappop, heappush
from typing import Protocol

from llmsim.schedulers.sequence import Sequence


class WaitingQueue(Protocol):
    """Sequences that wait for their admission, in the order in which they will be tried."""

    def add(self, sequence: Sequence) -> bool:
        """Take in a newcomer; say whether it is now the first."""
        ...

    def put_back(self, sequence: Sequence) -> None:
        """Take back a sequence that was preempted."""
        ...

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        ...

    def take(self) -> Sequence:
        """Return the first sequence and let it go."""
        ...

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        ...

    def __len__(self) -> int:
        """Count the sequences that wait."""
        ...


class ArrivalOrder(deque[Sequence]):
    """First come, first served; the preempted go to the front."""

    def add(self, sequence: Sequence) -> bool:
        """Append; first only when nobody else waits."""
        self.append(sequence)
        return len(self) == 1

    def put_back(self, sequence: Sequence) -> None:
        """Prepend."""
        self.appendleft(sequence)

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        return self[0]

    def take(self) -> Sequence:
        """Return the first sequence and let it go."""
        return self.popleft()

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        self.remove(sequence)


class PriorityOrder(list[tuple[int, float, int, str, Sequence]]):
    """The lowest priority number first; ties by arrival, then by the request's id as text, as in vLLM.

    The list is a heap.
    """

    def add(self, sequence: Sequence) -> bool:
        """Insert by rank; say whether it is now the first."""
        heappush(self, (*sequence.importance, sequence.request.id, sequence))
        return self[0][4] is sequence

    def put_back(self, sequence: Sequence) -> None:
        """Insert by rank, like a newcomer."""
        self.add(sequence)

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        return self[0][4]

    def take(self) -> Sequence:
        """Return the first sequence and let it go."""
        return heappop(self)[4]

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        self[:] = [entry for entry in self if entry[4] is not sequence]
        heapify(self)


QUEUES: dict[str, type[ArrivalOrder] | type[PriorityOrder]] = {"fcfs": ArrivalOrder, "priority": PriorityOrder}
