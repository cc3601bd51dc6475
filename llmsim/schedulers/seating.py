"""Who sits in an engine and who waits: admissions, victims, and how a sequence leaves its seat.

The rules are those of vLLM's V1 scheduler.  Who plans the steps of those who sit is told in `continuous`.
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

_BY_IMPORTANCE = attrgetter("importance")


class Seating:
    """The seats, the waiting queue and the blocks of one engine.

    A policy with another order gives `waiting` another queue and says in `_victim` who must give way.

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
        self._most_chunk = options.max_chunk_tokens or 0
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

    def _cap(self) -> int:
        """Return the most tokens of one prompt in this step, 0: no limit (long-prefill threshold, budget of a rank)."""
        present = len(self.running) + len(self.waiting)
        most = self._most_chunk
        if not self._long or present <= 1:
            return most
        long = max(self._long, self._batched // present) if self._adaptive else self._long
        return min(long, most) if most else long

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
        hits, lying_free = self._match(sequence)
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

    def _match(self, sequence: Sequence) -> tuple[int, int]:
        """Return the cached blocks of a sequence's beginning that it can use, and how many of them lie free."""
        return self.pool.match(sequence)

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

    def _known(self, sequence: Sequence, tokens: int) -> int:
        """Return how many tokens can be found again once ``tokens`` more of a sequence are scheduled.

        With a step formed ahead its last token is still on the way, and a block is named when all its tokens are
        known (vLLM V1's `KVCacheManager.allocate_slots` caps at `request.num_tokens`).
        """
        after = sequence.computed + tokens
        return min(after, max(sequence.given, sequence.computed)) if self._ahead else after

    def _victim(self) -> Sequence:
        """Return who must give way: the last admitted, or by priority the least important and latest.

        By priority the order must be strict, or two that do not fit together would preempt each other for ever.
        """
        if not self._by_priority:
            return next(reversed(self.running))
        return max(self.running, key=_BY_IMPORTANCE)

    def _preempt(self, sequence: Sequence) -> None:
        """Free all blocks of a sequence; it will be computed anew, prompt and output."""
        group = sequence.slot
        self._unseat(sequence)
        if sequence.done and isinstance(group, DecodeGroup) and group.batch is not None:
            group.batch.ending.append(sequence)  # its last token is on the way through the pipeline
        sequence.computed = 0
        sequence.preemptions += 1
        self.waiting.put_back(sequence)

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
