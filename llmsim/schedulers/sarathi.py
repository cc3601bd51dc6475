"""Sarathi-Serve: stall-free batching (Agrawal et al., OSDI 2024, Algorithm 3).

Every step serves all that decode first; what they leave of the token budget goes to the prompt under way, then
to new requests, each cut to what is left.  So no decode ever waits for a prompt, and a step never costs more
than the budget lets it.

Blocks follow the rule of `llmsim.schedulers.watermark`, as in the authors' repository, which grew out of vLLM:
``SarathiScheduler._schedule`` and ``SarathiBlockSpaceManager`` (github.com/microsoft/sarathi-serve, from memory).
Three things differ from `ContinuousBatching`: all decodes come before any prompt, the blocks of a whole prompt
are taken at its admission, and who is preempted may be admitted again in the same step.
"""

from __future__ import annotations

from collections import deque
from typing import ClassVar

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.watermark import SPARE, WatermarkScheduler


class Sarathi(WatermarkScheduler):
    """Decodes, then the prompt under way, then newcomers, within one budget of tokens.

    Args:
        options: the engine's options; `max_num_seqs` bounds the sequences that run.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        chunk_size: tokens a step (the paper's token budget, 512 or 2048 there); null: `max_num_batched_tokens`.
            Decodes are not held back by it, so with more sequences than that a step computes one token of each.
        watermark: part of all blocks that an admission leaves free.

    Raises:
        InfeasibleError: there are pipeline stages, or layers with windows.
        ScenarioError: a setting makes no sense.
    """

    title: ClassVar[str] = "sarathi"

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        chunk_size: int | None = None,
        watermark: float = 0.01,
    ) -> None:
        super().__init__(options, pool, leap=leap, watermark=watermark)
        if chunk_size is not None and chunk_size < 1:
            raise ScenarioError(f"scheduler.chunk_size: must be at least 1 (got {chunk_size})")
        self._budget = options.max_num_batched_tokens if chunk_size is None else chunk_size

    def plan(self) -> Batch:
        """Return all decodes, and the prompt tokens that fit beside them."""
        batch = self.serve(self._budget)
        self.admit_some(batch, self._budget - batch.tokens)
        self.leap_on(batch, SPARE)
        return batch

    def serve_each(self, batch: Batch, ready: deque[Sequence], budget: int) -> None:
        """Fill a batch with all decodes, then with prompts; who has been passed in the walk cannot be preempted."""
        prompts = []
        while ready:
            sequence = ready.popleft()
            if sequence.computed < sequence.given:
                prompts.append(sequence)
            elif self.go_on(sequence, 1, ready, batch):
                batch.chunks.append((sequence, 1))
        left = budget - len(batch.chunks)
        for sequence in prompts:
            if left <= 0:
                break
            tokens = min(sequence.remaining, left)
            batch.chunks.append((sequence, tokens))
            left -= tokens
