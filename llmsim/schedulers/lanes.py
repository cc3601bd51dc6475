"""A waiting queue with two lanes: those who can still be served in time come before those who cannot."""

from __future__ import annotations

from collections import deque

from llmsim.schedulers.sequence import Sequence

# While both lanes are taken, one admission in so many is from the late lane, so that nobody starves.
LATE_TURN = 8


class TwoLanes:
    """First come, first served in each lane; the preempted go to the front of the first one.

    Attributes:
        tokens: tokens of those in the first lane, with what the cache may hold of them.
        newest_s: arrival of the last one that came.
    """

    __slots__ = ("_in_time", "_late", "_since_late", "newest_s", "tokens")

    def __init__(self) -> None:
        self._in_time: deque[Sequence] = deque()
        self._late: deque[Sequence] = deque()
        self._since_late = 0
        self.tokens = 0
        self.newest_s = 0.0

    def add(self, sequence: Sequence) -> bool:
        """Append to the first lane; say whether it is now the first."""
        self._in_time.append(sequence)
        self.tokens += sequence.total
        self.newest_s = sequence.request.arrival_s
        return self.head() is sequence

    def put_back(self, sequence: Sequence) -> None:
        """Prepend to the first lane."""
        self._in_time.appendleft(sequence)
        self.tokens += sequence.total

    def _lane(self) -> deque[Sequence]:
        if not self._late or (self._in_time and self._since_late < LATE_TURN - 1):
            return self._in_time
        return self._late

    def head(self) -> Sequence:
        """Return who is next, and keep it."""
        return self._lane()[0]

    def take(self) -> Sequence:
        """Return who is next, and let it go."""
        lane = self._lane()
        self._since_late = 0 if lane is self._late else self._since_late + 1
        sequence = lane.popleft()
        if lane is self._in_time:
            self.tokens -= sequence.total
        return sequence

    def drop(self, sequence: Sequence) -> None:
        """Let go a sequence from anywhere in the queue."""
        if sequence in self._late:
            self._late.remove(sequence)
        else:
            self._in_time.remove(sequence)
            self.tokens -= sequence.total

    def first_in_time(self) -> Sequence | None:
        """Return the first one of the first lane."""
        return self._in_time[0] if self._in_time else None

    def give_up_first(self) -> None:
        """Move the first one of the first lane to the late lane."""
        sequence = self._in_time.popleft()
        self.tokens -= sequence.total
        self._late.append(sequence)

    def __len__(self) -> int:
        """Count the sequences that wait."""
        return len(self._in_time) + len(self._late)
