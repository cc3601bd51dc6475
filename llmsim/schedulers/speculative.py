"""Continuous batching with speculative decoding: vLLM's V1 rules, where a decoding sequence asks for its drafts too.

A sequence that decodes computes ``1 + k`` tokens in a step: its last one and ``k`` drafts.  What is rejected is
taken back, so it has its accepted tokens and one more, which the target model gives in any case.  A sequence has no
drafts in the step that completes its prompt, and tokens beyond its length are cut.

With asynchronous scheduling a step is decided before the acceptance of the last one is known.  vLLM then counts all
drafts of that step as computed, takes blocks accordingly, and puts the count right when the step has run; a sequence
that the step in flight ends only if drafts are accepted is scheduled once more, for nothing.  Both is done here; that
the acceptance of a step is drawn as it is decided changes neither.

Source: vLLM, ``Scheduler.schedule``, ``update_from_output`` and ``AsyncScheduler`` (vllm/v1/core/sched), from memory
of versions before 0.33; no recorded decisions cover speculation.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from llmsim.engine_options import EngineOptions
from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.acceptance import Acceptance, rising_rates
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.verify_group import Verification, VerifyGroup

_BY_ADMISSION = attrgetter("order")


class SpeculativeBatching(ContinuousBatching):
    """vLLM V1 with drafts.  It decides step by step.

    Args:
        options: the engine's options, with `speculation`.
        pool: the blocks of the engine.
        leap: without effect.
        seed: seed of the acceptance streams.

    Raises:
        ScenarioError: the options say nothing of drafts.
        InfeasibleError: there is more than one pipeline stage.
    """

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True, seed: int = 0) -> None:
        super().__init__(options, pool, leap=False)
        speculation = options.speculation
        if speculation is None:
            raise ScenarioError("scheduler: speculative is chosen by engine.speculative_config, which says nothing")
        if options.pipeline_parallel_size > 1:
            raise InfeasibleError("speculative_config: drafts are not modelled with pipeline stages")
        self.drafts = speculation.tokens
        self._slots = speculation.draft_slots
        self._rereads = speculation.rereads_last_block
        self._seed = seed
        self._rising = rising_rates(speculation.rates)
        self._acceptances: dict[Sequence, Acceptance] = {}
        self._verify = VerifyGroup(
            pool,
            drafts=speculation.tokens,
            lookahead=speculation.lookahead,
            longest=options.max_model_len,
            acceptance=self._acceptance,
        )
        group: Any = self._verify  # stands in for the group of plain decoding
        self._group = group
        self._late: dict[Sequence, float] = {}  # members that missed a step: when their last token came
        self._previous: Batch | None = None
        self._in_flight = 0

    def _acceptance(self, sequence: Sequence) -> Acceptance:
        """Return the draws of a sequence, which outlive its preemptions."""
        acceptance = self._acceptances.get(sequence)
        if acceptance is None:
            acceptance = self._acceptances[sequence] = Acceptance(self._seed, sequence.request.id, self._rising)
        return acceptance

    # ------------------------------------------------------------------ what the engine asks

    def next_batch(self) -> Batch | None:
        """Decide the next step."""
        batch = super().next_batch()
        if batch is not None and not batch.count and not batch.chunks and not self._in_flight:
            # All that ran has given way to its own drafts: the next step, which takes its place, is planned at once.
            again = super().next_batch()
            if again is not None:
                again.preempted = [*batch.preempted, *again.preempted]
                again.interrupted = [*batch.interrupted, *again.interrupted]
                batch = again
        if batch is not None and (batch.count or batch.chunks):
            self._previous = batch
            self._in_flight += 1
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come."""
        self._in_flight -= 1
        finished = super().settle(batch, steps)
        if self._verify.batch is batch:
            self._verify.landed()
        for sequence in finished:
            self._acceptances.pop(sequence, None)
            self._late.pop(sequence, None)
        return finished

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone, or that has ended before anybody could foresee it."""
        super().remove(sequence)
        self._acceptances.pop(sequence, None)

    # ------------------------------------------------------------------ plans

    def _tokens_left(self) -> int:
        """Return the token budget of a step: that of the engine, less the room that the draft's pass needs.

        The room is kept for everybody who may be seated; vLLM counts it as it schedules, which differs only in a
        step that is full.  Those who are scheduled for nothing take their part.
        """
        seated = min(self._seats, len(self.running) + len(self.waiting))
        return max(1, min(self._budget, self._batched - self._slots * seated)) - self._verify.doubtful[1]

    def _plan_group(self, group: Any) -> Batch | None:
        """Let all that decode verify all their drafts; answer None if that cannot go smoothly."""
        verify = self._verify
        budget = self._tokens_left()
        cap = self._cap() if self._long or self._most_chunk else 0
        taken = 0
        if verify.count:
            queries = verify.wants()
            takes = verify.takes(queries)
            taken = int(takes.sum())
            budget -= queries * verify.count if isinstance(queries, int) else int(queries.sum())
            at_once = int(np.maximum(takes, 0).sum()) if verify.windows else taken
            if at_once > self.pool.free or 0 < cap <= self.drafts:
                return None
        if budget < 0:
            return None
        throttled = self._throttle.holds(verify.count > 0)
        chunks: list[tuple[Sequence, int]] = []
        if self._partial and not throttled:
            continued = self._continue_chunks(budget, cap, taken)
            if continued is None:
                return None
            chunks = continued
            budget -= sum(tokens for _, tokens in chunks)
        wasted = verify.doubtful
        if verify.count:
            batch = Batch(chunks, group)
            verify.held[: verify.count] += takes
            self.pool.free -= taken
            self._go(batch, queries)
        else:
            batch = Batch(chunks)
            batch.verified = Verification(self.drafts)
        assert batch.verified is not None
        batch.verified.wasted = wasted
        if self.waiting and not throttled:
            self._admit_some(batch, chunks, budget, cap)
        return batch

    def _go(self, batch: Batch, queries: Any) -> None:
        """Verify ``queries`` tokens of each member in ``batch``."""
        done, batch.contexts = self._verify.verify(queries, ahead=self._ahead)
        batch.verified = done
        batch.count = done.rows
        if self._late:
            back = [sequence for sequence in done.sequences if sequence in self._late]
            done.late = [self._late.pop(sequence) for sequence in back]
        batch.regular = done.rows - len(done.late)

    def _plan_each(self, group: Any) -> Batch:
        """Plan the step one running sequence after the other, preempting where blocks are short."""
        verify = self._verify
        ready = self._partial
        ready.update(dict.fromkeys(verify.sequences))
        self._partial = {}
        wasted = verify.doubtful
        batch = Batch([])
        budget = self._tokens_left()
        cap = self._cap()
        scheduled: dict[Sequence, int] = {}
        throttled = self._throttle.holds(any(sequence.generated for sequence in ready))
        for sequence in sorted(ready, key=_BY_ADMISSION):
            if sequence not in ready or (throttled and not sequence.generated and sequence.slot is not verify):
                continue
            if budget <= 0:
                break
            tokens = min(self._lacks(sequence), budget, cap or budget)
            budget += self._allocate(sequence, tokens, ready, scheduled, batch)
            if sequence in ready:
                scheduled[sequence] = tokens
                budget -= tokens
            elif not self._by_priority:
                break
        batch = self._with_members(batch, group, scheduled)
        assert batch.verified is not None
        batch.verified.wasted = wasted
        if not batch.preempted and not throttled:
            self._admit_some(batch, batch.chunks, budget, cap)
            scheduled |= dict(batch.chunks)
        self._partial = {
            sequence: None for sequence in ready if sequence not in scheduled and sequence.slot is not verify
        }
        batch.interrupted = [*batch.preempted, *(sequence for sequence in self._partial if sequence.generated)]
        return batch

    def _lacks(self, sequence: Sequence) -> int:
        """Return the tokens that a running sequence would compute in a step."""
        verify = self._verify
        return verify.wants_of(sequence) if sequence.slot is verify else sequence.remaining

    def _with_members(self, batch: Batch, group: Any, scheduled: dict[Sequence, int]) -> Batch:
        """Return a batch like ``batch``, with what is scheduled of the members verified and of others as chunks."""
        verify = self._verify
        queries = np.zeros(verify.count, dtype=np.int64)
        chunks = []
        for sequence, tokens in scheduled.items():
            if sequence.slot is verify:
                queries[sequence.base] = tokens
            else:
                chunks.append((sequence, tokens))
        if not queries.any():
            planned = Batch(chunks)
            planned.verified = Verification(self.drafts)
        else:
            planned = Batch(chunks, group)
            self._go(planned, queries)
        end_s = getattr(self._previous, "end_s", None)
        if end_s is not None:
            for sequence in verify.sequences:
                if sequence not in scheduled:
                    self._late.setdefault(sequence, end_s)
        planned.preempted = batch.preempted
        return planned

    # ------------------------------------------------------------------ blocks

    def _takes_blocks(self, sequence: Sequence, tokens: int) -> bool:
        """Take blocks as for a plain sequence, or for a member with its drafts and the lookahead behind them."""
        verify, pool = self._verify, self.pool
        if sequence.slot is not verify:
            return super()._takes_blocks(sequence, tokens)
        taken = verify.takes_one(sequence, tokens)
        if taken > pool.free:
            return False
        pool.free -= taken
        verify.held[sequence.base] += taken
        return True

    def _unseat(self, sequence: Sequence) -> None:
        """Take a running sequence out of wherever it is, and free its blocks."""
        verify = self._verify
        if sequence.slot is not verify:
            super()._unseat(sequence)
            return
        coming = int(verify.coming[sequence.base])
        verify.leave(sequence)
        late_s = self._late.pop(sequence, None)
        if late_s is not None:
            sequence.last_token_s = late_s
        del self.running[sequence]
        known = max(sequence.computed - coming, sequence.given) if self._ahead else sequence.computed
        self.pool.release(sequence, min(known, sequence.computed))

    def _match(self, sequence: Sequence) -> tuple[int, int]:
        """Return the cached blocks of a sequence's beginning that it can use, and how many of them lie free.

        A draft that works on the target's hidden states needs those of the last block found, so that one is
        computed anew.  Whoever holds a block holds those before it, so if any lies free, it is the last.
        """
        hits, lying_free = super()._match(sequence)
        if not self._rereads or not hits:
            return hits, lying_free
        return hits - 1, max(lying_free - 1, 0)
