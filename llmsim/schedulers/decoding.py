"""What policies share that decide step by step: who waits, who runs, and a group that decodes and may leap.

A running sequence is in one of three places: in the `group` that decodes, in the batch planned last, or in
`partial`: its prompt is not computed yet, or it was left out of a step.  A policy says in `plan` what the next
step computes, with the parts that are here: `admit`, `decode`, `chunk`, `stall`, `preempt` and, for a step that
only decodes, `leap_on`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from operator import attrgetter
from typing import ClassVar

from llmsim.engine_options import EngineOptions
from llmsim.errors import InfeasibleError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.queues import ArrivalOrder, WaitingQueue
from llmsim.schedulers.sequence import Sequence

BY_ADMISSION = attrgetter("order")


class DecodingScheduler(ABC):
    """Queue, seats, and the books of who decodes; on one pipeline stage, with one or two batches in flight.

    Args:
        options: the engine's options; `max_num_seqs`, `max_num_active_seqs` and the stages are read here.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.

    Attributes:
        title: what messages call the policy.
        waiting, running: who waits, in the order of service, and who runs, in the order of admission.
        group: those who take one token in each step.
        partial: those who run outside of the group, in the order of admission.
        seats: how many may run at once.

    Raises:
        InfeasibleError: there is more than one pipeline stage.
    """

    title: ClassVar[str] = "of one's own"

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True) -> None:
        if options.pipeline_parallel_size > 1:
            raise InfeasibleError(
                f"scheduler {self.title}: pipeline stages are not modelled "
                f"(got pipeline_parallel_size {options.pipeline_parallel_size})\n"
                f"hint: tensor_parallel_size instead, or scheduler: continuous"
            )
        self.pool = pool
        self.leap = leap
        self.waiting: WaitingQueue = ArrivalOrder()
        self.running: dict[Sequence, None] = {}
        self.partial: dict[Sequence, None] = {}
        self.group = DecodeGroup(pool)
        self.seats = min(options.max_num_seqs, options.max_num_active_seqs or options.max_num_seqs)
        self._ahead = options.async_scheduling
        self._last: Batch | None = None
        self._admissions = 0

    @abstractmethod
    def plan(self) -> Batch:
        """Return what the next step computes; a batch without tokens when that is nothing."""

    # ------------------------------------------------------------------ what the engine asks

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it matters if it is first in line and finds a seat."""
        return self.waiting.add(sequence) and len(self.running) < self.seats

    def next_batch(self) -> Batch | None:
        """Decide the next step, or the next steps."""
        self._absorb()
        batch = self.plan()
        if batch.preempted and not batch.count and not batch.chunks:
            # All that ran has given way: the next step, which takes its place, is planned without it.
            again = self.plan()
            again.preempted = [*batch.preempted, *again.preempted]
            again.interrupted = [*batch.interrupted, *again.interrupted]
            batch = again
        if not batch.count and not batch.chunks:
            return batch if batch.preempted else None
        if batch.decodes is not None:
            batch.decodes.batch = batch
        batch.take_seats(self.partial)
        self._last = batch
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come."""
        group = self.group
        if batch.decodes is group and group.batch is batch:
            batch.ending += group.retire()
        finished = sorted((sequence for sequence in batch.ending if not sequence.gone), key=BY_ADMISSION)
        ahead = self._last if finished and self.pool.caches else None
        not_begun = 0 if ahead is None else ahead.not_begun(batch)
        self.pool.free += not_begun
        for sequence in finished:
            if sequence in self.running:
                del self.running[sequence]
                # The last token is never computed.
                self.release(sequence, sequence.total - 1)
            else:
                self.waiting.drop(sequence)  # preempted with its last token on the way
        self.pool.free -= not_begun
        return finished

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a leap in flight."""
        assert batch.decodes is not None
        batch.decodes.advance(steps - batch.steps)
        batch.steps = steps

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone, or that has ended before anybody could foresee it."""
        sequence.gone = True
        if sequence in self.running:
            self.unseat(sequence)
        else:
            self.waiting.drop(sequence)

    def _absorb(self) -> None:
        """Bring the books up to date with the last batch: who has got a token in it decodes from now on."""
        last, group = self._last, self.group
        self._last = None
        if last is None:
            return
        if last.decodes is group:
            last.ending += group.retire()
        for sequence in last.sampling:
            if sequence.slot is last and not sequence.done:
                group.join(sequence)

    # ------------------------------------------------------------------ parts of a plan

    def admit(self, sequence: Sequence, blocks: int) -> None:
        """Seat the head of the queue, which takes ``blocks`` blocks; it has computed what ``computed`` says."""
        self.waiting.take()
        self._admissions += 1
        sequence.order = self._admissions
        sequence.given = sequence.total
        sequence.found = sequence.computed
        if not sequence.preemptions:
            sequence.cached_tokens = sequence.computed
        self.running[sequence] = None
        self.partial[sequence] = None
        self.pool.free -= blocks - sequence.blocks
        sequence.blocks = blocks

    def decode(self, spare: int = 0) -> Batch | None:
        """Return a batch of one token for each of the group; None if that leaves fewer than ``spare`` blocks free."""
        group, pool = self.group, self.pool
        if not group.count:
            return Batch([])
        taken = group.taken(group.clock, 1)
        if taken + spare > pool.free or (group.windows and not group.steps_that_fit(1)):
            return None
        batch = Batch([], group)
        pool.free -= taken
        group.clock += 1
        return batch

    def leap_on(self, batch: Batch, spare: int = 0, *, most: int | None = None) -> None:
        """Let a batch that only decodes stand until a member ends or reaches a window, or blocks run short.

        Args:
            batch: the step just planned; nothing happens if it has chunks.
            spare: blocks that must be free after each step, and are needed again before the next.
            most: steps after the one planned, at most.
        """
        group = self.group
        if not self.leap or batch.chunks or batch.decodes is None:
            return
        if self.waiting and self.pool.windows and len(self.running) < self.seats and not isinstance(group, Reserved):
            return  # what falls behind a window frees blocks, so the head of the queue may get in at any step
        steps = group.until_change()
        if most is not None:
            steps = min(steps, most)
        self.pool.free -= spare
        if steps > 0:
            steps = group.steps_that_fit(steps)
        self.pool.free += spare
        if steps > 0:
            group.advance(steps)
            batch.steps += steps

    def stall(self) -> list[Sequence]:
        """Let nobody of the group decode in this step; return all who could have, for `Batch.interrupted`."""
        for sequence in self.group.dissolve():
            self.partial[sequence] = None
        self.order_partial()
        return [sequence for sequence in self.partial if sequence.generated]

    def order_partial(self) -> None:
        """Put those outside of the group into the order of their admission."""
        if len(self.partial) > 1:
            self.partial = dict.fromkeys(sorted(self.partial, key=BY_ADMISSION))

    def preempt(self, sequence: Sequence, batch: Batch, *, put_back: bool = True) -> None:
        """Free all blocks of a sequence, which is to be computed anew, prompt and output, and note it in ``batch``.

        It goes back to the front of the queue, unless the policy says that it will put it back itself.
        """
        self.unseat(sequence)
        sequence.computed = 0
        sequence.preemptions += 1
        batch.preempted = [*batch.preempted, sequence]
        batch.interrupted = [*batch.interrupted, sequence]
        if put_back:
            self.waiting.put_back(sequence)

    def unseat(self, sequence: Sequence) -> None:
        """Take a running sequence out of wherever it is, and free its blocks."""
        group = sequence.slot
        if isinstance(group, DecodeGroup):
            group.cross()
            group.leave(sequence)
        sequence.slot = None
        del self.running[sequence]
        self.partial.pop(sequence, None)
        # With a step formed ahead, the last scheduled token is on its way, unless it was known at admission.
        known = max(sequence.computed - 1, sequence.given) if self._ahead else sequence.computed
        self.release(sequence, min(known, sequence.computed))

    def release(self, sequence: Sequence, known: int) -> None:
        """Free the blocks of a sequence, of which ``known`` tokens are computed; nothing is kept for others."""
        self.pool.free += sequence.blocks
        sequence.blocks = 0


class Reserved(DecodeGroup):
    """A group whose members hold from their admission all blocks that they will ever need."""

    __slots__ = ()

    def join(self, sequence: Sequence) -> None:
        """Take in a sequence; its blocks stay as they are."""
        blocks, free = sequence.blocks, self.pool.free
        super().join(sequence)
        sequence.blocks, self.pool.free = blocks, free

    def leave(self, sequence: Sequence) -> None:
        """Let a member go; its blocks stay as they are."""
        blocks = sequence.blocks
        super().leave(sequence)
        sequence.blocks = blocks

    def taken(self, start: int, steps: int) -> int:
        """Return 0: no step takes blocks."""
        return 0

    def steps_that_fit(self, wanted: int) -> int:
        """Return ``wanted``: no step takes blocks."""
        return wanted
