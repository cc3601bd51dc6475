"""SGLang's scheduler: prompts first, an estimate of what will be needed, and requests that are retracted.

Source: SGLang 0.5, ``managers/scheduler.py`` (``get_next_batch_to_run``, ``get_new_batch_prefill``,
``update_running_batch``), ``managers/schedule_policy.py`` (``PrefillAdder``), ``managers/schedule_batch.py``
(``retract_decode``, ``release_req``) and ``mem_cache/radix_cache.py``, from memory.

One step: if anybody who waits can be let in, prompts alone are computed, and nobody decodes; else all that run
decode.  Who waits is let in as long as its prompt, its answer and a part (``new_token_ratio``) of what is left of
all running answers fit into the cache; the first who does not closes the door, and it opens again only when
somebody ends or is retracted (``batch_is_full``).  As SGLang lets go of ended requests only when it forms a step
that decodes, one such step lies between an end and the next prompts.
"""

from __future__ import annotations

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.prefill_budget import MOST_NEW_TOKENS, NewTokenRatio, PrefillBudget
from llmsim.schedulers.prefill_order import PrefillOrder
from llmsim.schedulers.retraction import RetractingScheduler
from llmsim.schedulers.sequence import Sequence


class SGLangScheduling(RetractingScheduler):
    """SGLang 0.5, without speculation, and with one pipeline stage.

    Where the source would give up, this does not: a request that runs alone is always let in (SGLang would have cut
    its output length to fit); where mixed chunks leave no blocks, the chunk shrinks or waits, and is retracted
    last.  With the overlapped loop the token on its way to a retracted request is delivered (SGLang drops
    it and computes it again), and nobody takes part in a step after its last one (in SGLang it does, for nothing).
    Priorities only put the queue in order: nobody who runs has to make way for them
    (``--priority-scheduling-preemption-threshold`` is not modelled).  Windowed layers have no radix cache, and a step
    computes at most ``max_num_batched_tokens`` of a prompt there.

    Args:
        options: the engine's options: ``max_num_seqs`` is ``--max-running-requests``, ``block_size``
            ``--page-size``, ``enable_prefix_caching`` the opposite of ``--disable-radix-cache``, and
            ``async_scheduling`` that of ``--disable-overlap-schedule``.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        seed: of the order ``random``.
        schedule_policy: see `llmsim.schedulers.prefill_order.POLICIES`; ``priority`` is ``fcfs`` with
            ``enable_priority_scheduling``.
        chunked_prefill_size: tokens of a step with prompts, at least one page; -1 for no chunks; None for the
            engine's ``max_num_batched_tokens``, or no chunks if it has chunked prefill switched off.
        max_prefill_tokens: no other prompt is begun in a step beyond so many tokens.
        schedule_conservativeness: factor of the first ``new_token_ratio``.
        enable_mixed_chunk: whether those who run decode in a step with prompts too.
        enable_priority_scheduling: whether priorities count in ``fcfs`` and ``lof``.
        schedule_low_priority_values_first: whether the lower value goes first, and not the higher one.
        scheduler_recv_interval: steps that decode from one look for new requests to the next.

    Raises:
        InfeasibleError: there is more than one pipeline stage.
        ScenarioError: a setting is out of range, or the engine's ``scheduling_policy`` is ``priority``.
    """

    title = "sglang"
    waiting: PrefillOrder

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        seed: int = 0,
        schedule_policy: str = "fcfs",
        chunked_prefill_size: int | None = None,
        max_prefill_tokens: int = 16384,
        schedule_conservativeness: float = 1.0,
        enable_mixed_chunk: bool = False,
        enable_priority_scheduling: bool = False,
        schedule_low_priority_values_first: bool = False,
        scheduler_recv_interval: int = 1,
    ) -> None:
        ratio = NewTokenRatio(schedule_conservativeness)
        super().__init__(options, pool, ratio, leap=leap, interval=scheduler_recv_interval)
        self._prompted = False
        if options.scheduling_policy != "fcfs":
            raise ScenarioError(
                f"engine.scheduling_policy: sglang has orders of its own (got {options.scheduling_policy})\n"
                "hint: scheduler: {name: sglang, schedule_policy: priority}"
            )
        by_priority = enable_priority_scheduling or schedule_policy == "priority"
        direction = (-1 if schedule_low_priority_values_first else 1) if by_priority else 0
        self.waiting = PrefillOrder(schedule_policy, self.cache, priorities=direction, seed=seed)
        self._page = pool.block_size
        if by_priority and schedule_policy not in ("fcfs", "lof", "priority"):
            raise ScenarioError(
                f"scheduler.enable_priority_scheduling: only with schedule_policy fcfs or lof (got {schedule_policy})"
            )
        if max_prefill_tokens < 1:
            raise ScenarioError(f"scheduler.max_prefill_tokens: at least 1 (got {max_prefill_tokens})")
        self._chunk = self._chunk_size(options, chunked_prefill_size)
        self._most_prompt = max_prefill_tokens
        self._mixed = enable_mixed_chunk and self._chunk is not None

    def _chunk_size(self, options: EngineOptions, size: int | None) -> int | None:
        """Return the tokens of a step with prompts, None for no limit."""
        if size is None:
            size = max(options.max_num_batched_tokens, self._page) if options.enable_chunked_prefill else -1
        if size != -1 and size < self._page:
            raise ScenarioError(
                f"scheduler.chunked_prefill_size: at least one page of {self._page} tokens, or -1 for no chunks "
                f"(got {size})"
            )
        if self.pool.windows:  # the pool reckons with no larger ones
            most = max(self.pool.max_chunk, self._page)
            return most if size == -1 else min(size, most)
        return None if size == -1 else size

    # ------------------------------------------------------------------ a step

    def plan(self) -> Batch:
        """Return a batch of prompts if anybody can be let in, else one that decodes."""
        for sequence in self._poll.look(at_once=self._prompted or not self.running):
            self.waiting.add(sequence)
        self._prompted = False
        batch = self._prefill() or self._decode()
        if not batch.count and not batch.chunks and not batch.preempted:
            return self._prefill() or batch  # all that ran has been let go
        return batch

    def _prefill(self) -> Batch | None:
        """Return a batch of prompts, None if there is none to be had."""
        if (self._full or not self.waiting) and self._chunked is None:
            return None
        counted = self._running_requests()
        if counted >= self.seats and self._chunked is None:
            self._full = True
            return None
        self.waiting.order()
        decodes = self._stand_by() if self._mixed else 0
        if decodes is None:
            return None
        budget = self._budget(counted if self._mixed else 0, max(0, -(-decodes // self.pool.copies)) * self._page)
        chunks: list[tuple[Sequence, int]] = []
        if self._chunked is not None:
            self._continue(self._chunked, budget, chunks, decodes)
        admitted = self._admit_some(budget, chunks, counted)
        if not chunks:
            return None
        return self._form(chunks, admitted, counted)

    def _expected(self, sequence: Sequence) -> int:
        return min(sequence.target - self._output(sequence), MOST_NEW_TOKENS)

    def _budget(self, decodes: int, decode_tokens: int) -> PrefillBudget:
        """Return what a step may take in which ``decodes`` sequences take blocks of ``decode_tokens`` tokens."""
        reserved = sum(self._expected(one) for one in self.running if one is not self._chunked) * self.ratio.value
        reserved += max(0, decode_tokens - decodes)  # SGLang counts one token each, whatever the page
        return PrefillBudget(self._page, self._most_prompt, self._chunk, decodes=decodes, reserved=reserved)

    def _continue(
        self, sequence: Sequence, budget: PrefillBudget, chunks: list[tuple[Sequence, int]], decodes: int
    ) -> None:
        """Give the prompt under way its next chunk, as far as the blocks allow it beside those who decode."""
        tokens = budget.continued(sequence.remaining, self._free_tokens())
        if not self.pool.windows:
            tokens = min(tokens, (sequence.blocks + self.pool.free - decodes) * self._page - sequence.computed)
        while tokens > 0 and self._blocks_of(sequence, tokens) > self.pool.free - decodes:
            tokens //= 2
        if tokens > 0:
            chunks.append((sequence, tokens))
            budget.take(tokens, self._new_tokens(sequence) if tokens == sequence.remaining else 0)

    def _admit_some(self, budget: PrefillBudget, chunks: list[tuple[Sequence, int]], counted: int) -> list[Sequence]:
        """Let in from the front of the queue until one does not fit."""
        admitted: list[Sequence] = []
        under_way = self._chunked
        if under_way is not None and (not chunks or chunks[0][1] < under_way.remaining):
            return admitted
        while self.waiting:
            if len(chunks) >= self.seats - counted:
                self._full = True
            if self._full:
                break
            sequence = self.waiting.head()
            tokens = self._fitting(sequence, budget, chunks, alone=not (self.running or self._ended))
            if not tokens:
                break
            self.admit(sequence, sequence.blocks)
            admitted.append(sequence)
            self._unread[sequence] = None
            chunks.append((sequence, tokens))
            whole = tokens == sequence.remaining
            budget.take(tokens, self._new_tokens(sequence) if whole else 0)
            if budget.out_of_blocks(self._free_tokens()):
                self._full = True
                break
            if budget.out_of_tokens() or not whole:
                break
        return admitted

    def _new_tokens(self, sequence: Sequence) -> int:
        return min(max(sequence.target - sequence.generated, 0), MOST_NEW_TOKENS)

    def _free_tokens(self) -> int:
        return self.pool.free // self.pool.copies * self._page

    def _fitting(
        self, sequence: Sequence, budget: PrefillBudget, chunks: list[tuple[Sequence, int]], *, alone: bool
    ) -> int:
        """Return how many tokens of the head of the queue go into this step, 0 for none; it then uses its prefix."""
        if sequence.done:
            return 0  # retracted with its last token on the way: it ends where it is
        node = self.cache.match(sequence)
        wanted = sequence.total - node.end
        tokens = wanted + self._new_tokens(sequence)
        fits = alone or tokens < self._free_tokens() - budget.reserved
        if fits and chunks and budget.whole_pages(wanted) >= budget.prompt_left:
            return 0
        if fits:
            self.cache.hold(sequence, node)
            # What was found could have been evicted before, and cannot now.
            fits = alone or tokens < self._free_tokens() - budget.reserved
            first = budget.first(wanted)
            if fits and first:
                sequence.computed = node.end
                sequence.blocks = node.end // self._page * self.pool.copies
                return first
            self.cache.let_go(sequence)
        if not fits:
            self._full = True
        return 0

    def _form(self, chunks: list[tuple[Sequence, int]], admitted: list[Sequence], counted: int) -> Batch:
        """Return the batch of these prompts, with their blocks."""
        self.cache.make_room(sum(self._blocks_of(sequence, tokens) for sequence, tokens in chunks))
        self._allocate(chunks)
        self._chunked = next((one for one, tokens in chunks if tokens < one.remaining), None)
        self._counted = 0 if self._mixed else counted
        prompts = {one for one, _ in chunks}
        if self._mixed:
            decoding = [one for one in self._decoding() if one not in prompts]
            self.cache.make_room(self._blocks_for(decoding))
            batch = self._one_token_each(decoding)
            batch.chunks = chunks + batch.chunks
        else:
            batch = Batch(chunks)
            batch.interrupted = [one for one in self.stall() if one not in prompts]
        batch.admitted = admitted
        self._prompts, self._prompted = batch, True
        return batch
