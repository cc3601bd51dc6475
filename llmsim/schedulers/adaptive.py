"""Continuous batching whose chunks, batch and admissions follow what steps take, to hold a TTFT or a TPOT target.

The policy knows no hardware.  It fits the seconds of a step to what the step computed (`StepFit`), and decides
before each step with prompts:

- *Chunk size.*  While anything decodes, the step gets as many prompt tokens as fit in the TPOT target by the fit.
  When the queue could not be served within the TTFT target at that pace, the step may also take the time by which
  those who decode are ahead of their target (all but ``behind_share`` of them).
- *Batch limit.*  No more sequences are seated than can decode together within the TPOT target.
- *Admission.*  Who cannot have its first token within the TTFT target any more, by its length and the time it has
  waited, steps back behind those who can; one admission in `LATE_TURN` is still of those (``steps_back``).

Without a TPOT target steps are as large as allowed; without a TTFT target nobody steps back.

What is measured comes from batches that have settled.  A step that only decodes counts once for each composition
of the batch, so it makes no difference whether a run of them was leapt over; while anybody waits the policy does
not leap.  Chunks by predicted latency and slack: Niyama (Goel et al., 2025), "dynamic chunking"; stepping back of
who is late: from there too ("eager relegation").  Both by the paper's idea, not its code.
"""

from __future__ import annotations

from collections import deque

from llmsim.engine_options import EngineOptions
from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.lanes import TwoLanes
from llmsim.schedulers.orders.checks import least, no_priorities
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.step_fit import StepFit


class AdaptiveBatching(ContinuousBatching):
    """Continuous batching that holds targets.

    Args:
        options: the engine's options; ``max_num_batched_tokens`` and ``max_num_seqs`` are upper bounds.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        ttft_target_ms: time to first token to hold, or None.
        tpot_target_ms: time per output token to hold, or None.
        least_tokens: prompt tokens that a step computes at least, where there are so many.
        most_tokens: tokens that a step computes at most; None: what the options allow.
        least_seqs: sequences that may always run together.
        most_seqs: sequences that may run together at most; None: what the options allow.
        behind_share: part of those who decode that may be behind their target when a larger step is planned.
        steps_back: whether those who are too late for the TTFT target step back behind those who are not.
        headroom: part of each target that is kept for errors of the fit.
        memory_steps: measured steps after which one counts 1 / e of a new one.

    Raises:
        ScenarioError: there is no target, a setting makes no sense, or ``scheduling_policy`` is ``priority``.
        InfeasibleError: there is more than one pipeline stage.
    """

    waiting: TwoLanes

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        ttft_target_ms: float | None = None,
        tpot_target_ms: float | None = None,
        least_tokens: int = 64,
        most_tokens: int | None = None,
        least_seqs: int = 1,
        most_seqs: int | None = None,
        behind_share: float = 0.1,
        steps_back: bool = True,
        headroom: float = 0.05,
        memory_steps: float = 100.0,
    ) -> None:
        super().__init__(options, pool, leap=leap)
        no_priorities("adaptive", options)
        if self._pipelined:
            raise InfeasibleError(
                "scheduler adaptive: pipeline stages are not modelled "
                f"(got pipeline_parallel_size {options.pipeline_parallel_size})"
            )
        if ttft_target_ms is None and tpot_target_ms is None:
            raise ScenarioError("scheduler adaptive: one of ttft_target_ms and tpot_target_ms must be given")
        most_tokens = self._budget if most_tokens is None else min(most_tokens, self._budget)
        most_seqs = self._seats if most_seqs is None else min(most_seqs, self._seats)
        for setting, value in (("ttft_target_ms", ttft_target_ms), ("tpot_target_ms", tpot_target_ms)):
            if value is not None:
                least("adaptive", setting, value, 1e-3)
        bounds = {"least_tokens": least_tokens, "most_tokens": most_tokens, "least_seqs": least_seqs}
        for setting, value in (bounds | {"most_seqs": most_seqs, "memory_steps": memory_steps}).items():
            least("adaptive", setting, value, 2.0 if setting == "memory_steps" else 1.0)
        _share("behind_share", behind_share, 1.0)
        _share("headroom", headroom, 0.99)
        self.waiting = TwoLanes()
        kept = 1.0 - headroom
        self._ttft_s = None if ttft_target_ms is None else kept * ttft_target_ms * 1e-3
        self._tpot_s = None if tpot_target_ms is None else kept * tpot_target_ms * 1e-3
        self._most_tokens = max(most_tokens, most_seqs)  # who decodes is never held back
        self._least_tokens = min(least_tokens, self._most_tokens)
        self._most_seqs = most_seqs
        self._least_seqs = min(least_seqs, most_seqs)
        self._behind_share = behind_share
        self._steps_back = steps_back
        self._fit = StepFit(memory_steps)
        self._cut_at = self._long
        self._works: deque[Work] = deque()  # of the batches in flight
        self._settled_s = 0.0
        self._expected_s = 0.0  # of the step in flight

    # ------------------------------------------------------------------ what the engine asks

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it matters if it is first in line and could be given a seat."""
        return self.waiting.add(sequence) and len(self.running) < self._most_seqs

    def next_batch(self) -> Batch | None:
        """Decide by the rules of continuous batching, within limits that `_plan_group` sets for this step."""
        self._look_at_last()
        batch = super().next_batch()
        if batch is not None and (batch.count or batch.chunks):
            self._works.append(Work(batch))
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Learn from the batch, and release the sequences whose last token has come."""
        self._learn(self._works.popleft())
        self._settled_s = batch.end_s
        return super().settle(batch, steps)

    # ------------------------------------------------------------------ what is measured

    def _look_at_last(self) -> None:
        """Learn what is known of the batch in flight: that its steps before the last one have ended."""
        self._expected_s = 0.0
        if self._works:
            work = self._works[-1]
            batch = work.batch
            if batch.steps > 1:
                assert batch.epoch is not None
                self._learn(work)
                self._settled_s = batch.epoch.end(batch.first_step + batch.steps - 1)
            grown = batch.growth[0] * (batch.steps - 1) if batch.growth else 0
            self._expected_s = self._fit.seconds(work.prompt, work.decodes, work.context + grown)

    def _learn(self, work: Work) -> None:
        """Learn what a step has taken: the only one of a batch with prompts, or the first of those that are alike."""
        batch = work.batch
        if work.learnt:
            return
        work.learnt = True
        if batch.chunks:
            self._fit.learn(work.prompt, work.decodes, work.context, batch.end_s - batch.start_s)
        elif batch.epoch is not None and not batch.first_step:
            self._fit.learn(work.prompt, work.decodes, work.context, batch.epoch.end(1) - batch.start_s)

    # ------------------------------------------------------------------ what is decided

    def _plan_group(self, group: DecodeGroup) -> Batch | None:
        """Set the token budget, the seats and the cap of a prompt, and plan the step."""
        self._budget, self._seats, self._long = self._most_tokens, self._most_seqs, self._cut_at
        if self.waiting or self._partial:
            now_s = max(self._settled_s, self.waiting.newest_s)
            if self._ttft_s is not None and self._steps_back and self._fit.steps:
                self._give_up_late(now_s, self._ttft_s)
            if self._tpot_s is not None and group.count:
                self._spare_decodes(group, now_s, self._tpot_s)
        return super()._plan_group(group)

    def _more_steps(self, group: DecodeGroup) -> int:
        """Return 0 while anybody waits: the limits may change at every step."""
        return 0 if self.waiting or self._partial else super()._more_steps(group)

    def _give_up_late(self, now_s: float, ttft_s: float) -> None:
        """Let those step back who would have their first token too late even if they had the next steps for themselves.

        Who was preempted has had its first token, and keeps its place.
        """
        waiting = self.waiting
        while (head := waiting.first_in_time()) is not None and not head.preemptions:
            hits, _ = self.pool.match(head)
            tokens = head.total - hits * self.pool.block_size
            soonest_s = now_s + self._expected_s + self._fit.seconds(tokens, 0, 0)
            if soonest_s <= head.request.arrival_s + ttft_s:
                return
            waiting.give_up_first()

    def _spare_decodes(self, group: DecodeGroup, now_s: float, tpot_s: float) -> None:
        """Set the limits of a step in which something decodes."""
        fit, decodes = self._fit, group.count
        context = group.attended()[0][0]
        idle_s, alone_s = fit.seconds(0, 0, 0), fit.seconds(0, decodes, context)
        each_s = (alone_s - idle_s) / decodes
        if each_s > 0.0:
            together = int((tpot_s - idle_s) / each_s)
            self._seats = min(max(together, self._least_seqs), self._most_seqs)
        pace = max(self._least_tokens, int((tpot_s - alone_s) / fit.per_prompt_token))
        bound_s = tpot_s
        if self._at_risk(now_s, pace / tpot_s):
            bound_s = max(tpot_s, self._slack(group, now_s, tpot_s))
        prompt = max(self._least_tokens, int((bound_s - alone_s) / fit.per_prompt_token))
        self._budget = min(decodes + prompt, self._most_tokens)

    def _at_risk(self, now_s: float, tokens_per_s: float) -> bool:
        """Say whether the first or the last one in line would have its first token too late at this pace."""
        if self._ttft_s is None:
            return False
        begun = sum(sequence.remaining for sequence in self._partial)
        head = self.waiting.first_in_time()
        if head is None:
            # Of prompts under way the latest has the last deadline, and the oldest the first.
            return any(
                now_s + begun / tokens_per_s > sequence.request.arrival_s + self._ttft_s for sequence in self._partial
            )
        first_s = now_s + (begun + head.total) / tokens_per_s
        last_s = now_s + (begun + self.waiting.tokens) / tokens_per_s
        return first_s > head.request.arrival_s + self._ttft_s or last_s > self.waiting.newest_s + self._ttft_s

    def _slack(self, group: DecodeGroup, now_s: float, tpot_s: float) -> float:
        """Return the seconds that the step may take so that all but ``behind_share`` of the group stay on target.

        A sequence with g tokens is on target while its next one comes at most g times the target after the first.
        """
        slacks = []
        for sequence in group.members:
            if sequence.first_token_s is not None:
                tokens = sequence.generated + sequence.base + group.clock - sequence.computed
                slacks.append(sequence.first_token_s + tpot_s * tokens)
        if not slacks:
            return 0.0
        slacks.sort()
        return slacks[int(self._behind_share * len(slacks))] - now_s - self._expected_s


class Work:
    """What the first step of a batch computes: prompt tokens, sequences that decode, tokens that they attend to."""

    __slots__ = ("batch", "context", "decodes", "learnt", "prompt")

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.learnt = False
        self.prompt = 0
        self.decodes = batch.count
        self.context = batch.contexts[0] if batch.contexts else 0
        for sequence, tokens in batch.chunks:
            if tokens == 1 and sequence.generated and sequence.computed:
                self.decodes += 1
                self.context += sequence.computed + 1
            else:
                self.prompt += tokens


def _share(setting: str, value: float, most: float) -> None:
    """Refuse a share below 0 or above ``most``."""
    if not 0.0 <= value <= most:
        raise ScenarioError(f"scheduler.{setting}: adaptive needs a number between 0 and {most:g} (got {value:g})")
