"""vLLM's V0 scheduler, as of versions 0.6.3 to 0.7: prompts first, and alone.

Without chunked prefill a step either computes whole prompts, as many from the front of the queue as the budget,
the seats and the blocks allow, and nobody decodes; or, when no prompt can start, everybody decodes.  So a steady
stream of prompts holds up those who decode.  With chunked prefill a step serves first all that decode, then the
prompt under way, then new prompts, each cut to what is left of the budget.

Blocks follow the rule of `llmsim.schedulers.watermark`.  Who is preempted is computed anew, and comes to the front
of the queue after the admissions of that step.

Source: ``Scheduler._schedule_default``, ``_schedule_chunked_prefill``, ``_schedule_running``,
``_schedule_prefills`` (vllm/core/scheduler.py), from memory.  Two things are different here.  A preempted sequence
that has grown into the watermark is admitted when it is alone; V0 ends it as ignored.  With prefix caching
(off by default in V0), cached blocks are evicted in the order of V1, and two prompts of one step do not share.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.watermark import SPARE, WatermarkScheduler


class VllmV0(WatermarkScheduler):
    """vLLM V0: prompts before decodes, or beside them with chunked prefill.

    Args:
        options: the engine's options; limits, chunked prefill and prefix caching are read here.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        watermark: part of all blocks that an admission leaves free.

    Raises:
        InfeasibleError: there are pipeline stages, or layers with windows.
        ScenarioError: V0 would not start with these limits, or a setting makes no sense.
    """

    title: ClassVar[str] = "vllm_v0"

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True, watermark: float = 0.01) -> None:
        super().__init__(options, pool, leap=leap, watermark=watermark)
        self._budget = options.max_num_batched_tokens
        self._chunked = options.enable_chunked_prefill
        self._caches = options.enable_prefix_caching and isinstance(pool, PrefixCache)
        self._check(options)

    def _check(self, options: EngineOptions) -> None:
        """Refuse the limits with which V0 does not start (``SchedulerConfig._verify_args``)."""
        if self._budget < options.max_num_seqs:
            raise ScenarioError(
                f"scheduler vllm_v0: max_num_batched_tokens must be at least max_num_seqs {options.max_num_seqs} "
                f"(got {self._budget})"
            )
        if not self._chunked and self._budget < options.max_model_len:
            raise ScenarioError(
                f"scheduler vllm_v0: without chunked prefill max_num_batched_tokens must be at least max_model_len "
                f"{options.max_model_len} (got {self._budget})\nhint: enable_chunked_prefill: true"
            )
        if self._chunked and self._caches and self._budget % self.pool.block_size:
            raise ScenarioError(
                f"scheduler vllm_v0: with chunked prefill and prefix caching max_num_batched_tokens must be a multiple "
                f"of block_size {self.pool.block_size} (got {self._budget})"
            )

    def plan(self) -> Batch:
        """Return prompts alone, or what runs (with chunked prefill, and new prompts beside it)."""
        batch = None if self._chunked else self._prompts()
        if batch is None:
            batch = self.serve(self._budget)
            if self._chunked:
                self.admit_some(batch, self._budget - batch.tokens)
            for sequence in batch.preempted:
                self.waiting.put_back(sequence)
            self.leap_on(batch, SPARE)
        if self._caches:
            # What a step computes is found from the next one on.
            for sequence, tokens in batch.chunks:
                self.pool.name(sequence, sequence.computed + tokens)
        return batch

    def _prompts(self) -> Batch | None:
        """Return the prompts that can start now, or None; while they are computed nobody decodes."""
        if not self.waiting or len(self.running) >= self.seats:
            return None
        if not self.startable(self.waiting.head(), self._budget, whole=True):
            return None
        batch = Batch([])
        batch.interrupted = self.stall()
        self.admit_some(batch, self._budget, whole=True)
        return batch

    def serve_each(self, batch: Batch, ready: deque[Sequence], budget: int) -> None:
        """Fill a batch with what runs, in the order of admission; the last not served yet gives way to the others."""
        while ready:
            tokens = self.cut(ready[0].remaining, budget)
            if not tokens:
                return
            sequence = ready.popleft()
            if self.go_on(sequence, tokens, ready, batch):
                batch.chunks.append((sequence, tokens))
                budget -= tokens

    def give_way(self, sequence: Sequence, batch: Batch) -> None:
        """Preempt a sequence; it goes back to the queue when the step has been planned."""
        self.preempt(sequence, batch, put_back=False)

    def cut(self, tokens: int, left: int) -> int:
        """Return how many tokens may be computed; with prefix caching, chunks end with blocks."""
        if tokens <= left:
            return tokens
        return left // self.pool.block_size * self.pool.block_size if self._caches else left

    # ------------------------------------------------------------------ prefix caching

    def found(self, sequence: Sequence) -> int:
        """Return the tokens of a sequence's beginning that are cached."""
        return self.pool.match(sequence)[0] * self.pool.block_size if self._caches else 0

    def begin(self, sequence: Sequence) -> None:
        """Admit the head of the queue with what is cached of it."""
        if self._caches:
            hits, _ = self.pool.match(sequence)
            self.pool.take(sequence, hits)
            sequence.blocks = hits
            sequence.computed = hits * self.pool.block_size
        super().begin(sequence)

    def release(self, sequence: Sequence, known: int) -> None:
        """Free the blocks of a sequence; with prefix caching, what is computed can be found again."""
        if self._caches:
            self.pool.release(sequence, known)
        else:
            super().release(sequence, known)
