"""Orca: iteration-level scheduling with reserved memory (Yu et al., OSDI 2022, Algorithm 1).

Each iteration takes up to `max_num_seqs` requests in order of arrival: one token of each that runs, and the whole
prompt of each newcomer beside them (selective batching; nothing is cut into chunks, and there is no budget of
tokens).  A request is admitted when as many slots, one a token, can be reserved as it can ever have tokens, its
prompt and its longest answer; it keeps them until it ends, so nothing is ever preempted.  The first that
cannot be admitted stops the selection.
"""

from __future__ import annotations

from typing import ClassVar

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.decoding import DecodingScheduler, Reserved
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request


class Orca(DecodingScheduler):
    """Iteration-level scheduling: whole prompts beside decodes, memory for the longest answer from the start.

    The cache counts in slots of one token (Orca has no blocks); layers with windows keep all of them too.

    Args:
        options: the engine's options; `max_num_seqs` is the largest batch.
        pool: the blocks of the engine; all their tokens together are Orca's ``n_slots``.
        leap: whether decisions may stand for more than one step.
        reserve_tokens: slots that every request reserves, such as `max_model_len`; null: prompt and answer of each.

    Raises:
        InfeasibleError: there are pipeline stages.
        ScenarioError: a setting makes no sense, or requests are to be served by priority.
    """

    title: ClassVar[str] = "orca"

    def __init__(
        self, options: EngineOptions, pool: BlockPool, *, leap: bool = True, reserve_tokens: int | None = None
    ) -> None:
        super().__init__(options, pool, leap=leap)
        if options.scheduling_policy != "fcfs":
            raise ScenarioError(
                f"scheduler orca: serves in order of arrival only (got scheduling_policy {options.scheduling_policy!r})"
            )
        self._slots = pool.blocks // pool.copies * pool.block_size
        if reserve_tokens is not None and not 1 <= reserve_tokens <= self._slots:
            raise ScenarioError(
                f"scheduler.reserve_tokens: must be 1 to {self._slots}, the tokens that the cache holds "
                f"(got {reserve_tokens})"
            )
        self._each = reserve_tokens
        self._reserved = 0
        self.group = Reserved(pool)

    def refusal(self, request: Request) -> str | None:
        """Say why a request can never be admitted, None if it can."""
        tokens = request.prompt_tokens + request.output_tokens
        if self._each is not None and tokens > self._each:
            return f"prompt and output of {tokens} tokens are more than reserve_tokens {self._each}"
        if tokens > self._slots:
            return f"reserves {tokens} tokens of the KV cache, the engine has {self._slots}"
        return None

    def plan(self) -> Batch:
        """Return one token of each that runs, and the whole prompts of those who can be admitted."""
        batch = self.decode()
        assert batch is not None
        while self.waiting and len(self.running) < self.seats:
            head = self.waiting.head()
            if self._reserved + self._reservation(head) > self._slots:
                break
            self._reserve(self._reservation(head))
            self.admit(head, 0)
            batch.admitted = [*batch.admitted, head]
            batch.chunks.append((head, head.total))
        self.leap_on(batch)
        return batch

    def release(self, sequence: Sequence, known: int) -> None:
        """Give back the slots that a sequence has reserved."""
        self._reserve(-self._reservation(sequence))

    def _reservation(self, sequence: Sequence) -> int:
        request = sequence.request
        return self._each or request.prompt_tokens + request.output_tokens

    def _reserve(self, tokens: int) -> None:
        """Change the slots that are reserved; the pool shows the blocks that they come to."""
        pool = self.pool
        before = -(-self._reserved // pool.block_size)
        self._reserved += tokens
        pool.free -= (-(-self._reserved // pool.block_size) - before) * pool.copies
