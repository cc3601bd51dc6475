"""Continuous batching by the rules of vLLM's V1 scheduler.

One step: running sequences first, each as many tokens as it lacks; then, if nothing was preempted,
the waiting ones in order, until the token budget, the seats or the blocks run out.  The head of the
queue is never skipped.  When blocks run out under a running sequence, the last admitted one is
preempted: its blocks are freed, and it goes back to the front of the queue to be computed anew.

Sequences that decode live in a `DecodeGroup`, so a step that only decodes is a leap: one decision for
as many steps as nothing can change.  Whatever does not go smoothly (blocks short, budget short) takes
the sequence-by-sequence way of `_plan_each`; both ways make the same decisions.
"""

from __future__ import annotations

from operator import attrgetter

from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.seating import Seating
from llmsim.schedulers.sequence import Sequence

# With pipeline stages a leap is at most this long, and is made only when the free blocks would carry all
# that run so far: then no decision can depend on blocks that a leap has reserved.
PIPELINE_LEAP = 64

_BY_ADMISSION = attrgetter("order")


class ContinuousBatching(Seating):
    """vLLM V1: chunked prefill, recompute preemption, head-of-line blocking.

    Args:
        options: the engine's options; batch limits, policy, watermark and thresholds are read here.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
    """

    def next_batch(self) -> Batch | None:
        """Decide the next step, or the next steps."""
        group = self._absorb()
        batch = self._plan_group(group) or self._plan_each(group)
        if self._throttle.on:
            self._throttle.count(batch, len(self.waiting) > 0)
        if not batch.count and not batch.chunks:
            return batch if batch.preempted else None
        if batch.decodes is not None:
            group.batch = batch
            if self._pipelined:
                self._group = DecodeGroup(self.pool)
        batch.take_seats(self._partial)
        self._last = batch
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come."""
        group = batch.decodes
        if group is not None and group.batch is batch:
            batch.ending += group.retire()
            if self._pipelined:
                self._lay_by(group)
        finished = [sequence for sequence in batch.ending if not sequence.gone]
        if self._pipelined:
            for sequence in batch.sampling:
                if sequence.slot is batch and not sequence.done:
                    sequence.slot = None
                    self._idle.append(sequence)
        if len(finished) > 1:
            finished.sort(key=_BY_ADMISSION)
        ahead = self._last if finished and self.pool.caches else None
        not_begun = 0 if ahead is None else ahead.not_begun(batch)
        self.pool.free += not_begun
        for sequence in finished:
            if sequence in self.running:
                del self.running[sequence]
                # The last token is never computed.
                self.pool.release(sequence, sequence.total - 1)
            else:
                self.waiting.drop(sequence)
        self.pool.free -= not_begun
        return finished

    def _lay_by(self, group: DecodeGroup) -> None:
        """Keep a group that came out of the pipeline for the next batch."""
        if self._group.count:
            self._idle += group.dissolve()
        else:
            self._group = group

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a leap in flight."""
        assert batch.decodes is not None
        batch.decodes.advance(steps - batch.steps)
        self._throttle.take_back(batch.steps - steps)
        batch.steps = steps

    def _absorb(self) -> DecodeGroup:
        """Bring the books up to date with the last batch; return the group that can decode now."""
        group = self._group
        last = self._last
        self._last = None
        if last is not None:
            if last.decodes is group and group.batch is last:
                last.ending += group.retire()
            if not self._pipelined:
                for sequence in last.sampling:
                    if sequence.slot is last and not sequence.done:
                        group.join(sequence)
        if self._idle:
            for sequence in sorted(self._idle, key=_BY_ADMISSION):
                if sequence in self.running:
                    group.join(sequence)
            self._idle.clear()
        if len(self._partial) > 1:
            self._partial = dict.fromkeys(sorted(self._partial, key=_BY_ADMISSION))
        return group

    def _plan_group(self, group: DecodeGroup) -> Batch | None:
        """Let all that decode take one token each; answer None if that cannot go smoothly."""
        budget = self._budget - group.count
        cap = self._cap() if self._long or self._most_chunk else 0
        taken = group.taken(group.clock, 1) if group.count else 0
        if budget < 0 or taken > self.pool.free or (group.windows and group.count and not group.steps_that_fit(1)):
            return None
        chunks: list[tuple[Sequence, int]] = []
        throttled = self._throttle.holds(group.count > 0)
        if self._partial and not throttled:
            continued = self._continue_chunks(budget, cap, taken)
            if continued is None:
                return None
            chunks = continued
            budget -= sum(tokens for _, tokens in chunks)
        if group.count:
            batch = Batch(chunks, group)
            self.pool.free -= taken
            group.clock += 1
            if self.name_outputs and not self._ahead:
                for sequence in group.members:
                    self.pool.name(sequence, sequence.base + group.clock)
        else:
            batch = Batch(chunks)
        if self.waiting and not throttled:
            self._admit_some(batch, chunks, budget, cap)
        if group.count and not chunks and self.leap:
            more = self._more_steps(group)
            if more:
                group.advance(more)
                batch.steps += more
        return batch

    def _continue_chunks(self, budget: int, cap: int, taken: int) -> list[tuple[Sequence, int]] | None:
        """Give prompts under way their next chunks; None if the order of service would matter."""
        wants = {sequence: min(sequence.remaining, cap) if cap else sequence.remaining for sequence in self._partial}
        if sum(wants.values()) > budget:
            last = next(reversed(self._partial))
            if len(wants) > 1 or last is not next(reversed(self.running)):
                return None
            wants[last] = budget
        pool = self.pool
        plan = []
        free = pool.free - taken
        for sequence, tokens in wants.items():
            if not tokens:
                continue
            held = pool.held(sequence.computed + tokens, sequence.computed)
            free -= held - sequence.blocks
            plan.append((sequence, tokens, held))
        if free < 0 or (pool.windows and plan):
            return None
        for sequence, tokens, held in plan:
            pool.free -= held - sequence.blocks
            sequence.blocks = held
            pool.name(sequence, self._known(sequence, tokens))
        return [(sequence, tokens) for sequence, tokens, _ in plan]

    def _more_steps(self, group: DecodeGroup) -> int:
        """Return for how many steps after the one planned nothing can change from within."""
        steps = group.until_change()
        if self._pipelined:
            if self._remembers:
                return 0  # what is in the cache depends on the order in which all stages take blocks
            blocks = self.pool.copies * len(self.running) * (-(-PIPELINE_LEAP // self.pool.block_size) + 1)
            if self.waiting or self._partial or self._idle or self._throttle.on or blocks > self.pool.free:
                return 0
            return min(steps, PIPELINE_LEAP - 1)
        if self._throttle.on and (self.waiting or self._partial) and self._throttle.holds(decodes=True):
            if self._partial and self._ahead:
                return 0  # a seat that falls free behind the step formed ahead may end the waiting
            steps = min(steps, self._throttle.steps_left())
        if self.waiting and self.pool.windows and len(self.running) < self._seats:
            return 0  # what falls behind a window frees blocks, so the head of the queue may get in at any step
        return group.steps_that_fit(steps) if steps else 0

    def _plan_each(self, group: DecodeGroup) -> Batch:
        """Plan the step one running sequence after the other, preempting where blocks are short."""
        for sequence in group.dissolve():
            self._partial[sequence] = None
        ready = self._partial
        self._partial = {}
        batch = Batch([])
        budget = self._budget
        cap = self._cap()
        scheduled: dict[Sequence, int] = {}
        throttled = self._throttle.holds(any(sequence.generated for sequence in ready))
        # A victim may stand anywhere in the walk, which therefore looks whether each one is still there.
        for sequence in sorted(ready, key=_BY_ADMISSION):
            if sequence not in ready or (throttled and not sequence.generated):
                continue
            if budget <= 0:
                break
            tokens = min(sequence.remaining, budget, cap or budget)
            budget += self._allocate(sequence, tokens, ready, scheduled, batch)
            if sequence in ready:
                scheduled[sequence] = tokens
                budget -= tokens
            elif not self._by_priority:
                break
        batch.chunks = list(scheduled.items())
        if not batch.preempted and not throttled:
            self._admit_some(batch, batch.chunks, budget, cap)
            scheduled = dict(batch.chunks)
        self._partial = {sequence: None for sequence in ready if sequence not in scheduled}
        batch.interrupted = [*batch.preempted, *(sequence for sequence in self._partial if sequence.generated)]
        return batch

    def _allocate(
        self, sequence: Sequence, tokens: int, ready: dict[Sequence, None], scheduled: dict[Sequence, int], batch: Batch
    ) -> int:
        """Find blocks for ``tokens`` tokens, preempting others or, last, the sequence itself.

        Returns the tokens that victims scheduled in this step give back to the budget.
        """
        refund = 0
        while not self._takes_blocks(sequence, tokens):
            victim = self._victim()
            self._preempt(victim)
            batch.preempted = [*batch.preempted, victim]
            ready.pop(victim, None)
            refund += scheduled.pop(victim, 0)
            if victim is sequence:
                break
        return refund

    def _takes_blocks(self, sequence: Sequence, tokens: int) -> bool:
        """Take the blocks for ``tokens`` more tokens, if they are free."""
        if not self.pool.extend(sequence, tokens):
            return False
        self.pool.name(sequence, self._known(sequence, tokens))
        return True
