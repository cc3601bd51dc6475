"""In-flight batching by the rules of TensorRT-LLM 1.x: a capacity scheduler, then a micro-batch scheduler.

The first says which requests may be active, by blocks; the second which of them compute in this step, by
tokens.  Under ``GUARANTEED_NO_EVICT`` a request starts only when the blocks of its whole life, prompt and
longest answer, fit beside those that all running ones have been promised, so nobody is ever paused.  Under
``MAX_UTILIZATION`` the blocks of the next step are enough; when they run short, the last request that has
started is paused, and computed anew in its old place in line.  Under ``STATIC_BATCH`` requests start only
when nobody generates.

Then generation requests take a token each, and context requests what is left: whole or not at all without
chunked prefill, else in chunks that are multiples of a block, one prompt after the other
(``FIRST_COME_FIRST_SERVED``) or all of them in turn (``EQUAL_PROGRESS``).  The blocks of a prompt are taken
with its first chunk, and can be reused once it has been computed as a whole.  A request whose next block
another one is just computing waits for it.

Source, from memory of TensorRT-LLM 1.0: ``cpp/tensorrt_llm/batch_manager/capacityScheduler.cpp``
(``GuaranteedNoEvictScheduler``, ``MaxUtilizationScheduler``, ``beneficialToSkip``),
``microBatchScheduler.cpp`` (``setCtxRequestsChunkSize``), ``kvCacheManager.cpp``
(``getRemainingBlocksToCompletion``, ``getNeededBlocksOneStep``); the PyTorch executor
(``_torch/pyexecutor/scheduler.py``) binds the same classes.  Not sure: since which version blocks that others
hold count for a newcomer (here they do).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from operator import attrgetter
from typing import Literal, get_args

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.capacity import Capacity
from llmsim.schedulers.orders.checks import no_priorities
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request

CapacityPolicy = Literal["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]
ChunkingPolicy = Literal["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"]

_BY_ADMISSION = attrgetter("order")


class InFlightBatching:
    """TensorRT-LLM: who may be active by blocks, then who computes by tokens.

    Args:
        options: the engine's options; ``max_num_seqs`` is TensorRT-LLM's ``max_batch_size``,
            ``max_num_batched_tokens`` its ``max_num_tokens``, ``enable_chunked_prefill`` its
            ``enable_chunked_context``, ``enable_prefix_caching`` its ``enable_block_reuse``, and
            ``async_scheduling`` its overlap scheduler.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        capacity_scheduler_policy: who may be active: whose whole life fits, whose next step fits, or nobody new
            while anybody generates.
        context_chunking_policy: who gets the tokens that are left for prompts; with chunked prefill alone.

    Raises:
        ScenarioError: a policy is unknown, a step may compute less than a block of a prompt, or the engine's
            ``scheduling_policy`` is ``priority``.
    """

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        capacity_scheduler_policy: CapacityPolicy = "GUARANTEED_NO_EVICT",
        context_chunking_policy: ChunkingPolicy = "FIRST_COME_FIRST_SERVED",
    ) -> None:
        no_priorities("tensorrt_llm", options)
        _known("capacity_scheduler_policy", capacity_scheduler_policy, get_args(CapacityPolicy))
        _known("context_chunking_policy", context_chunking_policy, get_args(ChunkingPolicy))
        self.pool = pool
        self.leap = leap
        self._budget = options.max_num_scheduled_tokens or options.max_num_batched_tokens
        self._chunked = options.enable_chunked_prefill
        self._unit = pool.block_size
        if self._chunked and self._budget < self._unit:
            raise ScenarioError(
                f"engine.max_num_batched_tokens: tensorrt_llm needs at least block_size, {self._unit}, the unit "
                f"of chunks (got {self._budget})"
            )
        self._equal = context_chunking_policy == "EQUAL_PROGRESS"
        self._static = capacity_scheduler_policy == "STATIC_BATCH"
        self._evicts = capacity_scheduler_policy == "MAX_UTILIZATION"
        self._pipelined = options.pipeline_parallel_size > 1
        seats = min(options.max_num_seqs, options.max_num_active_seqs or options.max_num_seqs)
        self._capacity = Capacity(
            pool,
            seats,
            evicts=self._evicts,
            steps_ahead=2 if self._pipelined else 1,
            overlapped=options.async_scheduling,
        )
        self.waiting: deque[Sequence] = self._capacity.waiting
        self.running: dict[Sequence, int] = self._capacity.running
        self._group = DecodeGroup(pool)
        self._partial: dict[Sequence, None] = {}  # running, but neither in the group nor through with their context
        self._last: Batch | None = None
        self._blocked = False  # whether nobody behind those that wait can get in before something changes

    def refusal(self, request: Request) -> str | None:
        """Say why a request can never be served here: without chunks, one step computes its prompt as a whole."""
        if self._chunked or request.prompt_tokens <= self._budget:
            return None
        return (
            f"prompt of {request.prompt_tokens} tokens is more than max_num_batched_tokens {self._budget}, "
            "without enable_chunked_prefill"
        )

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it matters if it finds a seat, and nobody before it stops the line."""
        self.waiting.append(sequence)
        return self._pipelined or (not self._blocked and self._capacity.seats_left() > 0)

    def next_batch(self) -> Batch | None:
        """Decide the next step, or the next steps."""
        group = self._absorb()
        batch = self._plan_group(group) or self._plan_each(group)
        if batch.preempted and not batch.chunks:
            # All that ran has been paused: what would be the next turn of the executor's loop takes this step's place.
            again = self._plan_each(group)
            again.preempted = [*batch.preempted, *again.preempted]
            again.interrupted = [*batch.interrupted, *again.interrupted]
            batch = again
        if not batch.count and not batch.chunks:
            return batch if batch.preempted else None
        if batch.decodes is not None:
            group.batch = batch
        for sequence, tokens in batch.chunks:
            sequence.slot = batch
            if tokens < sequence.remaining and not self._pipelined:
                self._partial[sequence] = None
            else:
                self._partial.pop(sequence, None)
        self._last = batch
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Let computed prompts be found, and release the sequences whose last token has come."""
        group = batch.decodes
        if group is not None and group.batch is batch:
            batch.ending += group.retire()
        if self._pipelined:
            for sequence, _ in batch.chunks:
                sequence.slot = None
        self._capacity.context_computed(batch.sampling)
        finished = list(batch.ending)
        if len(finished) > 1:
            finished.sort(key=_BY_ADMISSION)
        ahead = self._last if finished and self.pool.caches else None
        not_begun = 0 if ahead is None else ahead.not_begun(batch)
        self.pool.free += not_begun
        for sequence in finished:
            self._capacity.release(sequence, sequence.total - 1)  # the last token is never computed
        self.pool.free -= not_begun
        return finished

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a leap in flight."""
        assert batch.decodes is not None
        self._advance(batch.decodes, steps - batch.steps)
        batch.steps = steps

    # ------------------------------------------------------------------ books

    def _absorb(self) -> DecodeGroup:
        """Bring the books up to date with the last batch; return the group that can decode now."""
        group, last = self._group, self._last
        self._last = None
        if last is None or self._pipelined:
            return group
        if last.decodes is group and group.batch is last:
            last.ending += group.retire()
        for sequence in last.sampling:
            if sequence.slot is last and not sequence.done:
                free = self.pool.free
                group.join(sequence)
                self._capacity.owed += self.pool.free - free
        return group

    def _advance(self, group: DecodeGroup, steps: int) -> None:
        """Move the group's clock, and take what it takes from what its members were promised."""
        free = self.pool.free
        group.advance(steps)
        self._capacity.owed -= free - self.pool.free

    # ------------------------------------------------------------------ one step

    def _plan_group(self, group: DecodeGroup) -> Batch | None:
        """Let all that generate take one token each; answer None if they must be looked at one by one."""
        if self._pipelined or group.count > self._budget:
            return None
        if any(sequence.computed >= sequence.given for sequence in self._partial):
            return None  # some were left out of the last step
        if self._evicts and not self._goes_smoothly(group):
            return None
        if not group.count:
            batch = Batch([])
            self._take_contexts(batch, self._partial, self.waiting, self._budget, checked=False)
            return batch
        batch = Batch([], group)
        self._advance(group, 1)
        if self._static:
            self._blocked = True
        else:
            self._take_contexts(batch, self._partial, self.waiting, self._budget - group.count, checked=False)
        if not batch.chunks and self.leap:
            more = self._more_steps(group)
            self._advance(group, more)
            batch.steps += more
        return batch

    def _goes_smoothly(self, group: DecodeGroup) -> bool:
        """Say whether the next step's blocks are free, and nobody waits who comes before one that runs."""
        if group.count and group.taken(group.clock, 1) > self.pool.free:
            return False
        if group.windows and (self._partial or (group.count and not group.steps_that_fit(1))):
            return False
        if not self.waiting or not self.running:
            return True
        return self.waiting[0].arrival > max(sequence.arrival for sequence in self.running)

    def _more_steps(self, group: DecodeGroup) -> int:
        """Return for how many steps after the one planned nothing can change from within.

        Whoever waits, waits on: seats fall free with a finish, and blocks do not become more before it,
        but for those that fall behind a window, and prompts that have been computed and not yet settled.
        """
        if self.waiting and self._capacity.seats_left() and (group.windows or self._capacity.computing):
            return 0
        steps = group.until_change()
        return group.steps_that_fit(steps) if steps else 0

    def _plan_each(self, group: DecodeGroup) -> Batch:
        """Plan the step one sequence after the other, pausing where blocks are short."""
        for _ in group.dissolve():
            pass
        batch = Batch([])
        line: Iterable[Sequence] = [sequence for sequence in self.running if not sequence.done]
        newcomers: Iterable[Sequence] | None = None
        if self._evicts:
            line, newcomers, paused = self._capacity.survivors()
            batch.preempted = paused
            for sequence in paused:
                self._partial.pop(sequence, None)
        line = [sequence for sequence in line if not (self._pipelined and sequence.slot is not None)]
        budget = self._budget
        generating = [sequence for sequence in line if sequence.computed >= sequence.given]
        for sequence in generating[:budget]:
            self._capacity.grow(sequence, 1)
            batch.chunks.append((sequence, 1))
        left_out = generating[budget:]
        if not (self._static and any(not s.done and s.computed >= s.given for s in self.running)):
            contexts = [sequence for sequence in line if sequence.computed < sequence.given]
            in_line = self.waiting if newcomers is None else newcomers
            left = budget - len(batch.chunks)
            self._take_contexts(batch, contexts, in_line, left, checked=newcomers is not None)
        if not self._pipelined:
            scheduled = dict(batch.chunks)
            self._partial = {s: None for s in self.running if not s.done and s not in scheduled}
        batch.interrupted = [*batch.preempted, *left_out]
        return batch

    # ------------------------------------------------------------------ context requests

    def _take_contexts(
        self, batch: Batch, begun: Iterable[Sequence], newcomers: Iterable[Sequence], budget: int, *, checked: bool
    ) -> None:
        """Share ``budget`` tokens among prompts under way and newcomers, and seat those of them that get some.

        Args:
            batch: the step that is planned; chunks and admissions are added to it.
            begun: prompts under way.
            newcomers: those who wait, in line.
            budget: tokens that are left of the step.
            checked: whether seats and blocks of the newcomers have been looked at already.
        """
        first = len(batch.chunks)
        for sequence in begun:
            tokens = self._share(sequence, sequence.remaining, budget)
            if tokens:
                batch.chunks.append((sequence, tokens))
                budget -= tokens
            elif not self._chunked:
                budget = 0  # longer than a step, and nobody may come between it and a step of its own
        self._blocked = False
        admitted: list[Sequence] = []
        asked = self._capacity.ask(checked=checked)
        for sequence in newcomers:
            if not budget or not asked.seats:
                self._blocked = not budget
                break
            if asked.better_later(sequence) and not self._static:
                continue
            if not asked.fits(sequence):
                self._blocked = True
                break
            tokens = self._share(sequence, asked.uncached, budget)
            if tokens:
                self._capacity.admit(sequence, asked)
                admitted.append(sequence)
                batch.chunks.append((sequence, tokens))
                budget -= tokens
            elif self._chunked:
                asked.reserve()  # it holds its place in line, but shorter ones behind it may have the rest
            else:
                self._blocked = True
                break
        self._capacity.leave_line(admitted)
        batch.admitted = admitted
        if self._equal and self._chunked:
            self._level(batch.chunks, first, budget)
        for sequence, tokens in batch.chunks[first:]:
            self._capacity.grow(sequence, tokens)

    def _share(self, sequence: Sequence, remaining: int, budget: int) -> int:
        """Return the tokens of a prompt's chunk, before prompts that make equal progress get more.

        Without chunked prefill a prompt is computed as a whole.  Only a paused one that its output has made longer
        than a step is cut, into steps of its own (TensorRT-LLM would cut its text, to ``max_input_len``).
        """
        if not self._chunked:
            if remaining > budget and budget == self._budget and sequence.total > budget:
                return budget
            return remaining if remaining <= budget else 0
        if self._equal:
            tokens = min(remaining, self._unit)
            return tokens if tokens <= budget else 0
        return remaining if remaining <= budget else budget // self._unit * self._unit

    def _level(self, chunks: list[tuple[Sequence, int]], first: int, budget: int) -> None:
        """Go round the prompts, from chunk ``first`` on, and give each a unit more until nobody can take one."""
        grew = True
        while grew and budget:
            grew = False
            for place in range(first, len(chunks)):
                sequence, tokens = chunks[place]
                more = min(self._unit, sequence.remaining - tokens)
                if 0 < more <= budget:
                    chunks[place] = (sequence, tokens + more)
                    budget -= more
                    grew = True


def _known(setting: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse a value that is none of the ``known`` ones."""
    if value not in known:
        raise ScenarioError(f"scheduler.{setting}: must be one of {', '.join(known)} (got {value!r})")
