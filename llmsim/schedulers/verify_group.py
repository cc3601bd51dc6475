"""Sequences that decode with drafts: arrays over the batch, one row for each, brought up to date once a step."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmsim.kvcache.blocks import BlockPool

if TYPE_CHECKING:
    from llmsim.schedulers.acceptance import Acceptance
    from llmsim.schedulers.batch import Batch
    from llmsim.schedulers.sequence import Sequence

Integers = NDArray[np.int64]

# Draws lie ready for this many steps; a row is filled again when they are used up.
READY = 32
FIRST_ROWS = 16


class Verification:
    """What a step verifies, and what comes of it.

    Attributes:
        rows: sequences that are verified.
        tokens: what they compute, drafts included.
        longest: attended tokens of the longest.
        accepted: how many of them accept 0, 1, ... drafts: [drafts + 1].
        given: tokens that reach their clients; those beyond a request's length are cut.
        sequences, each, queries: who is verified, and the tokens given to and computed of each: [rows].
        late: when those who missed a step had their last token, seconds.
        wasted: (sequences, tokens, attended tokens) of those that had ended before anybody could know.
    """

    __slots__ = ("accepted", "each", "given", "late", "longest", "queries", "rows", "sequences", "tokens", "wasted")

    def __init__(self, drafts: int) -> None:
        self.rows = self.tokens = self.longest = self.given = 0
        self.accepted: Integers = np.zeros(drafts + 1, dtype=np.int64)
        self.sequences: Many[Sequence] = ()
        self.each: Integers = np.zeros(0, dtype=np.int64)
        self.queries: Many[int] = ()
        self.late: list[float] = []
        self.wasted = (0, 0, 0)


class VerifyGroup:
    """Sequences that are verified together, and the blocks they take from ``pool``.

    Args:
        pool: the blocks of the engine.
        drafts: drafts of a sequence and step, at most.
        lookahead: tokens beyond a step's for which blocks are taken.
        longest: the context window: no draft is made for a token behind it.
        acceptance: returns the draws of a sequence.

    Attributes:
        batch: the batch by which the group was scheduled last.
        doubtful: (sequences, tokens, attended tokens) of those that the last step has ended by accepted drafts, as
            a scheduler that decides before the step has run schedules them: once more.
        computed, left, held: tokens computed, output tokens that are left, and blocks of each member, [capacity]; the
            first ``count`` entries are in use.
        slack: rejected drafts of the step in flight, which the scheduler does not know of yet.
        turns: the verification of each whose draw is the first that does not lie ready.
        coming: tokens of the step in flight.
    """

    __slots__ = (
        "_acceptance", "_column", "_drafts", "_finishing", "_furthest", "_longest", "_longest_now", "_lookahead",
        "_ready", "_table", "batch", "clock", "coming", "computed", "count", "doubtful", "held", "left", "pool",
        "sequences", "slack", "turns", "version", "windows",
    )  # fmt: skip

    computed: Integers
    left: Integers
    held: Integers
    slack: Integers
    turns: Integers
    coming: Integers

    def __init__(
        self,
        pool: BlockPool,
        *,
        drafts: int,
        lookahead: int,
        longest: int,
        acceptance: Callable[[Sequence], Acceptance],
    ) -> None:
        self.pool = pool
        self.windows = pool.windows
        self.sequences: list[Sequence] = []
        self.count = self.version = self.clock = 0
        self.batch: Batch | None = None
        self.doubtful = (0, 0, 0)
        self._acceptance = acceptance
        self._drafts = drafts
        self._lookahead = lookahead
        self._longest = longest
        self._longest_now = 0
        self._furthest = 0
        self._finishing: list[Sequence] = []
        self._column = 0
        self._table = np.zeros((6, 0), dtype=np.int64)
        self._ready = np.zeros((0, READY), dtype=np.int64)
        self._grow(FIRST_ROWS)

    def _grow(self, rows: int) -> None:
        """Make room for ``rows`` sequences."""
        table, ready = self._table, self._ready
        self._table = np.zeros((6, rows), dtype=np.int64)
        self._table[:, : table.shape[1]] = table
        self._ready = np.zeros((rows, READY), dtype=np.int64)
        self._ready[: len(ready)] = ready
        self.computed, self.left, self.held, self.slack, self.turns, self.coming = self._table

    # ------------------------------------------------------------------ members

    @property
    def members(self) -> Many[Sequence]:
        """Who is in the group, in no order."""
        return self.sequences

    def served(self) -> Many[Sequence]:
        """Return who gets tokens from the step scheduled last."""
        batch = self.batch
        return batch.verified.sequences if batch is not None and batch.verified is not None else ()

    def join(self, sequence: Sequence) -> None:
        """Take in a sequence that has computed all but its last token; its window blocks fall free."""
        if self.windows:
            held = self.pool.held(sequence.computed, sequence.computed - 1)
            self.pool.free += sequence.blocks - held
            sequence.blocks = held
        row = self.count
        if row == self._table.shape[1]:
            self._grow(2 * row)
        sequence.slot = self
        sequence.base = row
        self.sequences.append(sequence)
        acceptance = self._acceptance(sequence)
        ahead = READY - self._column
        self._table[:, row] = (
            sequence.computed, sequence.target - sequence.generated, sequence.blocks, 0, acceptance.turn + ahead, 0
        )  # fmt: skip
        if ahead:
            self._ready[row, self._column :] = acceptance.counts(acceptance.turn, ahead)
        self.count = row + 1

    def leave(self, sequence: Sequence) -> None:
        """Let a member go; its own counters are brought up to date."""
        row = sequence.base
        self.update(sequence)
        sequence.blocks = int(self.held[row])
        sequence.slot = None
        self._acceptance(sequence).turn = int(self.turns[row]) - (READY - self._column)
        last = self.count - 1
        moved = self.sequences.pop()
        if row != last:
            self.sequences[row] = moved
            moved.base = row
            self._table[:, row] = self._table[:, last]
            self._ready[row] = self._ready[last]
        self.count = last

    def update(self, sequence: Sequence) -> None:
        """Bring a member's own counters up to date with what has been scheduled."""
        row = sequence.base
        generated = sequence.target - int(self.left[row])
        if generated != sequence.generated:
            sequence.total += generated - sequence.generated
            sequence.generated = generated
            # Its last tokens come with the last batch of the group, as far as that has been placed.
            sequence.last_token_s = getattr(self.batch, "end_s", None)
        sequence.computed = int(self.computed[row])

    def retire(self) -> Many[Sequence]:
        """Let go of all members whose last token has been scheduled."""
        if not self._finishing:
            return ()
        retired = [sequence for sequence in self._finishing if sequence.slot is self]
        self._finishing = []
        for sequence in retired:
            self.leave(sequence)
        return retired

    def cross(self) -> None:
        """Do nothing: windows are looked at anew in every step."""

    # ------------------------------------------------------------------ what the price needs

    def attended(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return zeros; `verify` says what a step attends to."""
        nothing = (0,) * (1 + len(self.windows))
        return nothing, nothing

    def longest(self) -> int:
        """Return the attended tokens of the longest member, as if the step after the scheduled one were asked for."""
        return self._longest_now + 1

    # ------------------------------------------------------------------ one step

    def wants(self) -> Integers | int:
        """Return the tokens that each member would compute, its last one and its drafts: [count], or one for all."""
        queries = self._drafts + 1
        self._furthest = furthest = int(self.computed[: self.count].max())
        if furthest + queries < self._longest:
            return queries
        return np.minimum(queries, self._longest - 1 - self.computed[: self.count])

    def wants_of(self, sequence: Sequence) -> int:
        """Return the tokens that one member would compute."""
        return min(self._drafts + 1, self._longest - 1 - int(self.computed[sequence.base]))

    def takes(self, queries: Integers | int) -> Integers:
        """Return the blocks that each member takes for ``queries`` tokens: [count]; windows give some back.

        A scheduler that decides ahead of the step in flight takes them for all drafts of that one (`slack`).
        """
        count, size, copies = self.count, self.pool.block_size, self.pool.copies
        computed = self.computed[:count]
        end = computed + self.slack[:count]
        end += queries + self._lookahead
        if self._furthest + 2 * (self._drafts + 1) + self._lookahead > self._longest:
            end = np.minimum(end, self._longest)
        end += size - 1
        needed = end // size
        if copies > 1:
            needed *= copies
        needed -= self.held[:count]
        if not self.windows:
            return np.asarray(np.maximum(needed, 0))
        for window, of_window in self.windows:
            needed -= of_window * (np.maximum(computed - (window - 1), 0) // size)
        return needed

    def takes_one(self, sequence: Sequence, queries: int) -> int:
        """Return the blocks that one member takes for ``queries`` tokens."""
        row = sequence.base
        computed = int(self.computed[row])
        end = min(computed + int(self.slack[row]) + queries + self._lookahead, self._longest)
        taken = self.pool.held(end, computed) - int(self.held[row])
        return taken if self.windows else max(taken, 0)

    def verify(self, queries: Integers | int, *, ahead: bool) -> tuple[Verification, tuple[int, ...]]:
        """Verify ``queries`` tokens of each member, 0 for those that miss the step: [count], or all of each.

        Blocks have been taken.  ``ahead`` says that the next step is decided before this one has run.

        Returns:
            what is verified, and the attended tokens: of layers that attend to everything, and of each window.
        """
        count = self.count
        accepted = self._ready[:count, self._column]
        if isinstance(queries, int):
            done = self._verification(queries)
            rejected = queries - 1 - accepted
            attended = self.computed[:count] + queries
        else:
            taking = queries > 0
            missing = np.flatnonzero(~taking)
            accepted = np.minimum(accepted, queries - 1)
            rejected = np.where(taking, queries - 1 - accepted, 0)
            attended = np.where(taking, self.computed[:count] + queries, 0)
            done = self._part(queries, taking, int(attended.max()))
            if len(missing):
                self._hold(missing)
        self._longest_now = done.longest
        contexts = [int(attended.sum())]
        contexts += [int(np.minimum(attended, window).sum()) for window, _ in self.windows]
        each = accepted + 1
        left = self.left[:count]
        np.minimum(each, left, out=each)
        if isinstance(queries, int):
            done.each, done.accepted = each, np.bincount(accepted, minlength=self._drafts + 1)
        else:
            done.each, done.accepted = each[taking], np.bincount(accepted[taking], minlength=self._drafts + 1)
        done.given = int(each.sum())
        left -= each
        self.computed[:count] += each
        if ahead:
            self.slack[:count] = rejected
            self.coming[:count] = each
        self.doubtful = (0, 0, 0)
        ended = np.flatnonzero(left == 0)
        if len(ended):
            self._finishing = [self.sequences[row] for row in ended]
            if ahead:
                # Whoever had one token left is known to end; the others might have gone on.
                self._doubt(ended[each[ended] > 1])
        self._column += 1
        if self._column == READY:
            self._refill()
        self.clock += 1
        return done, tuple(contexts)

    def _verification(self, queries: int) -> Verification:
        """Return what is verified when all members compute ``queries`` tokens."""
        done = Verification(self._drafts)
        done.rows = count = self.count
        done.tokens = count * queries
        done.longest = self._furthest + queries
        done.sequences = self.sequences.copy()
        done.queries = [queries] * count
        return done

    def _part(self, queries: Integers, taking: NDArray[np.bool_], longest: int) -> Verification:
        """Return what is verified when members compute ``queries`` tokens, and some none."""
        done = Verification(self._drafts)
        done.rows = int(taking.sum())
        done.tokens = int(queries.sum())
        done.longest = longest
        done.sequences = [self.sequences[row] for row in np.flatnonzero(taking)]
        done.queries = queries[taking].tolist()
        return done

    def _doubt(self, rows: Integers) -> None:
        """Remember those whose end cannot be foreseen: with one token a step they would go on."""
        if len(rows):
            queries = np.minimum(self._drafts + 1, np.maximum(self._longest - 1 - self.computed[rows], 1))
            self.doubtful = (len(rows), int(queries.sum()), int((self.computed[rows] + queries).sum()))

    def _hold(self, rows: Integers) -> None:
        """Keep the draws of those that miss a step for the next one."""
        ready, column = self._ready, self._column
        if column + 1 < READY:
            ready[rows, column + 1 :] = ready[rows, column : READY - 1]
        self.turns[rows] -= 1

    def _refill(self) -> None:
        """Lay the next draws of all members ready."""
        self._column = 0
        for row, sequence in enumerate(self.sequences):
            turn = int(self.turns[row])
            self._ready[row] = self._acceptance(sequence).counts(turn, READY)
            self.turns[row] = turn + READY
        self.version += 1

    def landed(self) -> None:
        """Take note that the step in flight has run: what was rejected is known."""
        self.slack[: self.count] = 0
        self.coming[: self.count] = 0
        self.doubtful = (0, 0, 0)
