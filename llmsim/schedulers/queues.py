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

    def pop(self) -> Sequence:
        """Return the first sequence and let it go."""
        ...

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        ...

    def __len__(self) -> int:
        """Count the sequences that wait."""
        ...


class ArrivalOrder:
    """First come, first served; the preempted go to the front."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        self._queue: deque[Sequence] = deque()

    def add(self, sequence: Sequence) -> bool:
        """Append; first only when nobody else waits."""
        self._queue.append(sequence)
        return len(self._queue) == 1

    def put_back(self, sequence: Sequence) -> None:
        """Prepend."""
        self._queue.appendleft(sequence)

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        return self._queue[0]

    def pop(self) -> Sequence:
        """Return the first sequence and let it go."""
        return self._queue.popleft()

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        self._queue.remove(sequence)

    def __len__(self) -> int:
        """Count the sequences that wait."""
        return len(self._queue)


class PriorityOrder:
    """The lowest priority number first; ties by arrival, then by the request's id as text, as in vLLM."""

    __slots__ = ("_heap",)

    def __init__(self) -> None:
        self._heap: list[tuple[int, float, str, Sequence]] = []

    def add(self, sequence: Sequence) -> bool:
        """Insert by rank; say whether it is now the first."""
        request = sequence.request
        heappush(self._heap, (request.priority, request.arrival_s, request.id, sequence))
        return self._heap[0][3] is sequence

    def put_back(self, sequence: Sequence) -> None:
        """Insert by rank, like a newcomer."""
        self.add(sequence)

    def head(self) -> Sequence:
        """Return the first sequence and keep it."""
        return self._heap[0][3]

    def pop(self) -> Sequence:
        """Return the first sequence and let it go."""
        return heappop(self._heap)[3]

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        self._heap = [entry for entry in self._heap if entry[3] is not sequence]
        heapify(self._heap)

    def __len__(self) -> int:
        """Count the sequences that wait."""
        return len(self._heap)


QUEUES: dict[str, type[ArrivalOrder] | type[PriorityOrder]] = {"fcfs": ArrivalOrder, "priority": PriorityOrder}
