"""The block rule of vLLM V0, which Sarathi-Serve shares: whole prompts, a watermark, and one free block to go on.

A prompt is admitted when all its blocks are free and a watermark of 1 % of the cache stays free behind them; they
are taken at once, however its tokens are cut into chunks.  A running sequence goes on only while at least one
block is free, whether or not its next token needs one; else the last of those not served yet in this step gives
way, and when none is left, the sequence itself.  A prompt under way has its blocks, and asks for none.

Sources, from memory of the code: vLLM 0.6.3 to 0.7, ``SelfAttnBlockSpaceManager.can_allocate`` and
``can_append_slots`` (vllm/core/block_manager.py), ``BlockTable.get_num_blocks_touched_by_append_slots``;
Sarathi-Serve, ``BaseBlockSpaceManager.can_append_slot``.  Unsure: some versions of 0.6 and 0.7 may count a prompt
under way whose last block has room as one that touches a block.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

from llmsim.engine_options import EngineOptions
from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.decoding import DecodingScheduler
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request

# The block that must be free before a sequence decodes.
SPARE = 1


class WatermarkScheduler(DecodingScheduler):
    """Serves in order of arrival, under the block rule of vLLM V0 and a budget of tokens a step.

    Args:
        options: the engine's options.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        watermark: part of all blocks that an admission leaves free; rounded down to whole blocks.

    Raises:
        InfeasibleError: there are pipeline stages, or layers with windows.
        ScenarioError: the watermark is no part of the cache, or requests are to be served by priority.
    """

    def __init__(self, options: EngineOptions, pool: BlockPool, *, leap: bool = True, watermark: float = 0.01) -> None:
        super().__init__(options, pool, leap=leap)
        if pool.windows:
            raise InfeasibleError(
                f"scheduler {self.title}: layers with a sliding window are not modelled "
                f"(got windows of {', '.join(str(window) for window, _ in pool.windows)} tokens)\n"
                f"hint: scheduler: continuous"
            )
        if options.scheduling_policy != "fcfs":
            raise ScenarioError(
                f"scheduler {self.title}: serves in order of arrival only "
                f"(got scheduling_policy {options.scheduling_policy!r})"
            )
        if not 0 <= watermark < 1:
            raise ScenarioError(f"scheduler.watermark: must be at least 0 and below 1 (got {watermark})")
        self.watermark_blocks = int(watermark * pool.blocks)

    def refusal(self, request: Request) -> str | None:
        """Say why a request can never be admitted, None if it can (vLLM V0: ``AllocStatus.NEVER``)."""
        blocks = self.pool.held(request.prompt_tokens, 0)
        if self.pool.blocks - blocks >= self.watermark_blocks:
            return None
        return (
            f"its prompt needs {blocks} KV-cache blocks, the engine has {self.pool.blocks} "
            f"and keeps {self.watermark_blocks} free"
        )

    # ------------------------------------------------------------------ those who run

    def cut(self, tokens: int, left: int) -> int:
        """Return how many of ``tokens`` tokens the ``left`` ones of the budget let a sequence compute now."""
        return min(tokens, left)

    def serve(self, budget: int) -> Batch:
        """Let those who run decode and go on with their prompts, in order, preempting where blocks are short."""
        batch = self._serve_all(budget)
        if batch is None:
            self.stall()
            batch = Batch([])
            self.serve_each(batch, deque(self.partial), budget)
            served = {sequence for sequence, _ in batch.chunks}
            left_out = [one for one in self.partial if one.generated and one not in served]
            batch.interrupted = [*batch.interrupted, *left_out]
        return batch

    @abstractmethod
    def serve_each(self, batch: Batch, ready: deque[Sequence], budget: int) -> None:
        """Fill a batch with what runs, one sequence after the other; blocks are short."""

    def _serve_all(self, budget: int) -> Batch | None:
        """Return a batch for all who run; None if a block may be missing on the way."""
        group, pool = self.group, self.pool
        taken = group.taken(group.clock, 1) if group.count else 0
        left = max(0, budget - group.count)
        chunks = []
        for sequence in self.partial:
            tokens = self.cut(sequence.remaining, left)
            if not tokens:
                break
            left -= tokens
            taken += max(0, pool.held(sequence.computed + tokens, 0) - sequence.blocks)
            chunks.append((sequence, tokens))
        if (group.count or chunks) and taken + SPARE > pool.free:
            return None
        for sequence, tokens in chunks:
            self._hold(sequence, tokens)
        batch = self.decode(SPARE)
        assert batch is not None
        batch.chunks = chunks
        return batch

    def go_on(self, sequence: Sequence, tokens: int, rest: deque[Sequence], batch: Batch) -> bool:
        """Let a sequence compute ``tokens`` more tokens, preempting the last of ``rest`` until a block is free.

        Returns:
            whether it goes on; when ``rest`` is used up, it gives way itself.
        """
        # A prompt under way has all its blocks already, and appends none.
        touched = 0 if sequence.computed < sequence.given else SPARE
        while self.pool.free < touched:
            victim = rest.pop() if rest else sequence
            self.give_way(victim, batch)
            if victim is sequence:
                return False
        self._hold(sequence, tokens)
        return True

    def give_way(self, sequence: Sequence, batch: Batch) -> None:
        """Preempt a sequence."""
        self.preempt(sequence, batch)

    def _hold(self, sequence: Sequence, tokens: int) -> None:
        held = max(sequence.blocks, self.pool.held(sequence.computed + tokens, 0))
        self.pool.free -= held - sequence.blocks
        sequence.blocks = held

    # ------------------------------------------------------------------ those who wait

    def admit_some(self, batch: Batch, budget: int, *, whole: bool = False) -> None:
        """Admit from the front of the queue until the budget, the seats or the blocks run out.

        Args:
            batch: takes their first chunks.
            budget: tokens that are left in this step.
            whole: whether a prompt that is longer than what is left of the budget waits.
        """
        while self.waiting and budget > 0 and len(self.running) < self.seats:
            head = self.waiting.head()
            tokens = self.startable(head, budget, whole=whole)
            if not tokens:
                return
            self.begin(head)
            batch.admitted = [*batch.admitted, head]
            batch.chunks.append((head, tokens))
            budget -= tokens

    def startable(self, head: Sequence, budget: int, *, whole: bool) -> int:
        """Return how many tokens the head of the queue can start with, 0 for none."""
        blocks = self.pool.held(head.total, 0)
        # Preempted sequences may have grown into the watermark: they run alone.  (V0 would end them as ignored.)
        if self.pool.free - blocks < (self.watermark_blocks if self.running else 0):
            return 0
        tokens = head.total - self.found(head)
        return 0 if whole and tokens > budget else self.cut(tokens, budget)

    def found(self, sequence: Sequence) -> int:
        """Return the tokens of a sequence's beginning that need not be computed."""
        return 0

    def begin(self, sequence: Sequence) -> None:
        """Admit the head of the queue with all blocks of its known tokens."""
        self.admit(sequence, self.pool.held(sequence.total, 0))
