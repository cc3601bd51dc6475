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

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.queues import QUEUES, WaitingQueue
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.throttle import PrefillThrottle

# With pipeline stages a leap is at most this long, and is made only when the free blocks would carry all
# that run so far: then no decision can depend on blocks that a leap has reserved.
PIPELINE_LEAP = 64

_BY_ADMISSION = attrgetter("order")
_BY_IMPORTANCE = attrgetter("importance")


class ContinuousBatching:
    """vLLM V1: chunked prefill, recompute preemption, head-of-line blocking.

    Args:
        options: the engine's options; batch limits, policy, watermark and thresholds are read here.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
    """

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True) -> None:
        self.pool = pool
        self.leap = leap
        self.waiting: WaitingQueue = QUEUES[options.scheduling_policy]()
        self.running: dict[Sequence, None] = {}
        self._by_priority = options.scheduling_policy == "priority"
        self._budget = options.max_num_scheduled_tokens or options.max_num_batched_tokens
        self._batched = options.max_num_batched_tokens
        self._seats = min(options.max_num_seqs, options.max_num_active_seqs or options.max_num_seqs)
        self._chunked = options.enable_chunked_prefill
        self._long = options.long_prefill_token_threshold
        self._adaptive = options.long_prefill_token_threshold_adaptive
        self._reserve_prompt = options.scheduler_reserve_full_isl
        self._watermark = int(options.watermark * (pool.blocks + 1))
        # Only a single stage computes the next token of a sequence right after the last: with more
        # stages a sequence waits for its token to come out at the far end.
        self._pipelined = options.pipeline_parallel_size > 1
        self._ahead = options.async_scheduling
        self._group = DecodeGroup(pool)
        self._idle: list[Sequence] = []  # to join the next group (pipelines)
        self._partial: dict[Sequence, None] = {}  # admitted, prompt not yet computed, in running order
        self._last: Batch | None = None
        self._admissions = 0
        self._throttle = PrefillThrottle(options.prefill_schedule_interval)
        self._remembers = isinstance(pool, PrefixCache)
        self.name_outputs = False  # whether blocks that output fills are findable before their sequence ends

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it matters if it is first in line and finds a seat, or ends the leaps of a pipeline."""
        return self.waiting.add(sequence) and (self._pipelined or len(self.running) < self._seats)

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
        for sequence, tokens in batch.chunks:
            sequence.slot = batch
            if tokens < sequence.remaining:
                self._partial[sequence] = None
            else:
                self._partial.pop(sequence, None)
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
        not_begun = self._not_begun() if self.pool.caches and finished and self._last is not batch else 0
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

    def _not_begun(self) -> int:
        """Return the blocks that the leap formed ahead has reserved for steps after its first.

        They are still free when the batch before it settles, and what they hold is still cached.
        """
        ahead = self._last
        if ahead is None or ahead.decodes is None or ahead.steps == 1:
            return 0
        group = ahead.decodes
        return group.taken(group.clock - ahead.steps + 1, ahead.steps - 1)

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
        cap = self._cap() if self._long else 0
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
            pool.name(sequence, sequence.computed + tokens)
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

    def _cap(self) -> int:
        """Return the most tokens of one prompt in this step, 0 for no limit (the long-prefill threshold)."""
        present = len(self.running) + len(self.waiting)
        if not self._long or present <= 1:
            return 0
        return max(self._long, self._batched // present) if self._adaptive else self._long

    def _admit_some(self, batch: Batch, chunks: list[tuple[Sequence, int]], budget: int, cap: int) -> None:
        """Admit from the front of the queue until the budget, the seats or the blocks run out."""
        while self.waiting and budget > 0 and len(self.running) < self._seats:
            sequence = self.waiting.head()
            tokens, hits = self._admissible(sequence, budget, cap)
            if not tokens:
                return
            self._admit(sequence, tokens, hits)
            batch.admitted = [*batch.admitted, sequence]
            chunks.append((sequence, tokens))
            budget -= tokens

    def _admissible(self, sequence: Sequence, budget: int, cap: int) -> tuple[int, int]:
        """Return how many tokens of the head of the queue can start now, 0 for none, and its cached blocks."""
        if sequence.done:
            return 0, 0  # preempted with its last token on the way: it ends where it is
        pool = self.pool
        hits, lying_free = pool.match(sequence)
        found = hits * pool.block_size
        tokens = sequence.total - found
        if cap and tokens > cap:
            tokens = cap
        if tokens > budget:
            if not self._chunked and not self._long:
                return 0, 0
            tokens = budget
        # Cached blocks need not be allocated, but those that lie free are taken out of the free ones.
        spare = pool.free - (self._watermark if self.running else 0) + hits - lying_free
        if self._reserve_prompt and pool.needed(sequence.total) > spare:
            return 0, 0
        return (tokens, hits) if pool.held(found + tokens, found) <= spare else (0, 0)

    def _admit(self, sequence: Sequence, tokens: int, hits: int) -> None:
        """Seat the head of the queue with blocks for its first chunk."""
        pool = self.pool
        self.waiting.take()
        self._admissions += 1
        sequence.order = self._admissions
        self.running[sequence] = None
        sequence.given = sequence.total
        found = 0
        if hits:
            pool.take(sequence, hits)
            found = sequence.computed = hits * pool.block_size
        sequence.found = found
        if not sequence.preemptions:
            sequence.cached_tokens = found
        sequence.blocks = pool.held(found + tokens, found)
        pool.free -= sequence.blocks - hits
        pool.name(sequence, min(found + tokens, sequence.total))

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
        pool = self.pool
        refund = 0
        while True:
            held = pool.held(sequence.computed + tokens, sequence.computed)
            # What falls behind a window is freed before the new tokens are allocated.
            if held - sequence.blocks <= pool.free:
                pool.free -= held - sequence.blocks
                sequence.blocks = held
                pool.name(sequence, sequence.computed + tokens)
                return refund
            victim = self._victim()
            self._preempt(victim)
            batch.preempted = [*batch.preempted, victim]
            ready.pop(victim, None)
            refund += scheduled.pop(victim, 0)
            if victim is sequence:
                return refund

    def _victim(self) -> Sequence:
        """Return who must give way: the last admitted, or by priority the least important and latest.

        By priority the order must be strict, or two that do not fit together would preempt each other for ever.
        """
        if not self._by_priority:
            return next(reversed(self.running))
        return max(self.running, key=_BY_IMPORTANCE)

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone, or that has ended before anybody could foresee it."""
        sequence.gone = True
        if sequence in self.running:
            self._unseat(sequence)
        else:
            self.waiting.drop(sequence)

    def _unseat(self, sequence: Sequence) -> None:
        """Take a running sequence out of wherever it is, and free its blocks."""
        slot = sequence.slot
        if isinstance(slot, DecodeGroup):
            slot.cross()
            slot.leave(sequence)
        sequence.slot = None
        del self.running[sequence]
        self._partial.pop(sequence, None)
        if self._idle:
            self._idle = [other for other in self._idle if other is not sequence]
        # With a step formed ahead, the last scheduled token is on its way, unless it was known at admission.
        known = max(sequence.computed - 1, sequence.given) if self._ahead else sequence.computed
        self.pool.release(sequence, min(known, sequence.computed))

    def _preempt(self, sequence: Sequence) -> None:
        """Free all blocks of a sequence; it will be computed anew, prompt and output."""
        group = sequence.slot
        self._unseat(sequence)
        if sequence.done and isinstance(group, DecodeGroup) and group.batch is not None:
            group.batch.ending.append(sequence)  # its last token is on the way through the pipeline
        sequence.computed = 0
        sequence.preemptions += 1
        self.waiting.put_back(sequence)
