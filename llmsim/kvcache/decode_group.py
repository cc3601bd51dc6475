"""Sequences that decode together: what a leap over many steps needs to know, in O(1) of their number.

The group has a clock that counts its steps.  A member with `base` stands at `base + clock` computed
tokens, so nothing has to be touched when the clock moves.  Sums and histograms over the bases give the
attended tokens, the blocks that k steps take, and the step at which the cache runs out; the top of a
heap is the next finish.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Sequence as Many
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from llmsim.kvcache.blocks import BlockPool

if TYPE_CHECKING:
    from llmsim.schedulers.batch import Batch
    from llmsim.schedulers.sequence import Sequence


class WindowState:
    """What one window does to the group: who still grows into it, and who gives blocks back."""

    __slots__ = ("base_sum", "copies", "crossings", "growing", "saturated", "window")

    def __init__(self, window: int, copies: int, block_size: int) -> None:
        self.window = window
        self.copies = copies
        self.growing = 0
        self.base_sum = 0
        self.saturated = [0] * block_size
        self.crossings: list[tuple[int, int, Sequence]] = []


class DecodeGroup:
    """Sequences that each compute one token a step, and the blocks they take from ``pool``.

    Attributes:
        version: changes whenever members, or their growth, change: the name of an epoch.
        batch: the batch by which the group was scheduled last.
    """

    __slots__ = (
        "_finishes", "_longest", "_order", "_residues", "base_sum", "batch", "clock", "count", "members", "pool",
        "version", "windows",
    )  # fmt: skip

    def __init__(self, pool: BlockPool) -> None:
        self.pool = pool
        self.members: dict[Sequence, None] = {}
        self.clock = 0
        self.count = 0
        self.base_sum = 0
        self.version = 0
        self.batch: Batch | None = None
        self.windows = tuple(WindowState(window, copies, pool.block_size) for window, copies in pool.windows)
        self._residues = [0] * pool.block_size
        self._finishes: list[tuple[int, int, Sequence]] = []
        self._longest: list[tuple[int, int, Sequence]] = []
        self._order = 0

    # ------------------------------------------------------------------ members

    def join(self, sequence: Sequence) -> None:
        """Take in a sequence that has computed all but its last token; its window blocks fall free."""
        base = sequence.computed - self.clock
        sequence.base = base
        sequence.slot = self
        finish = self.clock + sequence.target - sequence.generated
        self._order += 1
        sequence.ticket = self._order
        self.members[sequence] = None
        self.count += 1
        self.base_sum += base
        self.version += 1
        block_size = self.pool.block_size
        self._residues[base % block_size] += 1
        heappush(self._finishes, (finish, self._order, sequence))
        heappush(self._longest, (-base, self._order, sequence))
        for state in self.windows:
            cross = state.window - base
            if cross > self.clock:
                state.growing += 1
                state.base_sum += base
                heappush(state.crossings, (cross, self._order, sequence))
            else:
                state.saturated[base % block_size] += 1
        if self.windows:
            held = self.pool.held(sequence.computed, sequence.computed - 1)
            self.pool.free += sequence.blocks - held
            sequence.blocks = held

    def leave(self, sequence: Sequence) -> None:
        """Let a member go; its own counters are brought up to date with the clock."""
        del self.members[sequence]
        base = sequence.base
        block_size = self.pool.block_size
        before = sequence.computed
        sequence.computed = computed = base + self.clock
        sequence.generated += computed - before
        sequence.total += computed - before
        if computed != before:
            sequence.blocks = self.pool.held(computed, computed - 1)
            # Its last token comes with the last batch of the group, as far as that has been placed.
            sequence.last_token_s = getattr(self.batch, "end_s", None)
        sequence.slot = None
        self.count -= 1
        self.base_sum -= base
        self.version += 1
        self._residues[base % block_size] -= 1
        for state in self.windows:
            if state.window - base > self.clock:
                state.growing -= 1
                state.base_sum -= base
            else:
                state.saturated[base % block_size] -= 1

    def _holds(self, sequence: Sequence, ticket: int) -> bool:
        """Say whether the heap entry of a joining still speaks of a member: who left and came back has a new one."""
        return sequence.slot is self and sequence.ticket == ticket

    def served(self) -> Iterable[Sequence]:
        """Return who gets a token from each of the steps scheduled last, in the order of joining."""
        return self.members

    def retire(self) -> Many[Sequence]:
        """Let go, in the order of their joining, of all members whose last token has been scheduled."""
        if self.windows:
            self.cross()
        finishes = self._finishes
        clock = self.clock
        if not finishes or finishes[0][0] > clock:
            return ()
        retired: list[Sequence] = []
        while finishes and finishes[0][0] <= clock:
            _, ticket, sequence = heappop(finishes)
            if self._holds(sequence, ticket):
                self.leave(sequence)
                retired.append(sequence)
        return retired

    def cross(self) -> None:
        """Move members that have outgrown a window from the growing ones to the saturated ones.

        Called before anybody joins or leaves, so that ``window - base > clock`` says who still grows.
        """
        for state in self.windows:
            crossings = state.crossings
            while crossings and crossings[0][0] <= self.clock:
                _, ticket, sequence = heappop(crossings)
                if self._holds(sequence, ticket):
                    state.growing -= 1
                    state.base_sum -= sequence.base
                    state.saturated[sequence.base % self.pool.block_size] += 1
                    self.version += 1

    def dissolve(self) -> Iterator[Sequence]:
        """Let every member go, in the order of their joining."""
        for sequence in list(self.members):
            self.leave(sequence)
            yield sequence
        self._finishes.clear()
        self._longest.clear()
        for state in self.windows:
            state.crossings.clear()

    # ------------------------------------------------------------------ what the price needs

    def attended(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the tokens attended in the next step, summed over members, and by how many they grow a step.

        The first figure is of layers that attend to everything; then comes one for each window, ascending.
        """
        ahead = self.clock + 1
        count = self.count
        full = self.base_sum + count * ahead
        if not self.windows:
            return (full,), (count,)
        contexts, growth = [full], [count]
        for state in self.windows:
            contexts.append(state.base_sum + state.growing * ahead + state.window * (count - state.growing))
            growth.append(state.growing)
        return tuple(contexts), tuple(growth)

    def longest(self) -> int:
        """Return the attended tokens of the longest member in the next step."""
        heap = self._longest
        while heap and not self._holds(heap[0][2], heap[0][1]):
            heappop(heap)
        return self.clock + 1 - heap[0][0] if heap else 0

    # ------------------------------------------------------------------ how far a leap may go

    def until_change(self) -> int:
        """Return the steps until a member finishes or reaches a window: the natural end of a leap, 0 if it is now."""
        finishes = self._finishes
        while True:
            finish, ticket, sequence = finishes[0]
            if sequence.slot is self and sequence.ticket == ticket:
                break
            heappop(finishes)
        steps = finish - self.clock
        for state in self.windows:
            crossings = state.crossings
            while crossings and not self._holds(crossings[0][2], crossings[0][1]):
                heappop(crossings)
            if crossings:
                steps = min(steps, crossings[0][0] - self.clock)
        return steps

    def taken(self, start: int, steps: int) -> int:
        """Return the blocks taken, less those given back, by ``steps`` steps from clock ``start``."""
        if steps == 1 and not self.windows:
            return self._residues[-start % self.pool.block_size] * self.pool.copies
        taken = self._matches(self._residues, -start, steps) * self.pool.copies
        for state in self.windows:
            taken -= state.copies * self._matches(state.saturated, state.window - 1 - start, steps)
        return taken

    def _matches(self, residues: list[int], first: int, steps: int) -> int:
        """Return the sum of ``residues[first], residues[first - 1], ...`` over ``steps`` steps, cyclic."""
        size = self.pool.block_size
        cycles, rest = divmod(steps, size)
        total = cycles * sum(residues) if cycles else 0
        if rest:
            low = (first - rest + 1) % size
            high = low + rest
            total += sum(residues[low:high]) if high <= size else sum(residues[low:]) + sum(residues[: high - size])
        return total

    def steps_that_fit(self, wanted: int) -> int:
        """Return how many of ``wanted`` steps the free blocks carry.

        A step is let through when the blocks it takes are free before it starts; what it gives back
        counts from the next one on.
        """
        pool = self.pool
        size = pool.block_size
        free = pool.free
        if pool.copies * self.count * ((wanted + size - 1) // size) <= free:
            return wanted
        fit = 0
        clock = self.clock
        if not self.windows:
            cycles = min(free // (pool.copies * self.count), wanted // size)
            fit = cycles * size
            free -= cycles * pool.copies * self.count
        while fit < wanted:
            takes = self._residues[-(clock + fit) % size] * pool.copies
            if takes > free:
                return fit
            free -= self.taken(clock + fit, 1)
            fit += 1
        return fit

    def advance(self, steps: int) -> None:
        """Schedule ``steps`` steps: take their blocks and move the clock (back, when negative)."""
        if steps >= 0:
            self.pool.free -= self.taken(self.clock, steps)
        else:
            self.pool.free += self.taken(self.clock + steps, -steps)
        self.clock += steps
