"""Fair shares between tenants, by virtual token counters."""

from __future__ import annotations

from llmsim.engine_options import EngineOptions
from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.decode_group import DecodeGroup
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.orders.checks import least, no_priorities
from llmsim.schedulers.orders.tenants import TenantQueue
from llmsim.schedulers.sequence import Sequence


class FairSharing(ContinuousBatching):
    """Continuous batching in which the tenant that has had the least service is admitted first.

    Each tenant (`Request.tenant`; requests without one are one tenant) has a counter of the tokens it was given:
    ``input_weight`` for each token of a prompt, at its admission, and ``output_weight`` for each output token.
    Admission takes the earliest request of the tenant with the least counter.  A tenant with nothing in the queue
    that comes back is lifted to the least counter of those in the queue, or, where nobody waits, to that of the
    tenant that left the queue last: nobody saves up credit while away.  While two tenants wait all the
    time, their weighted services differ by at most twice the larger of ``input_weight`` times the longest prompt
    and ``output_weight`` times the tokens that the cache holds (the paper's bound; it knows no preemptions).

    Source: Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), algorithm 2.  What the paper
    leaves open is vLLM's: the head of the queue is never skipped, and when blocks run out the last admitted
    sequence is preempted, to the front of its tenant's queue.  What it computes anew is not charged again.  Lifts
    are worked out with the next decision, from the counters of that moment.

    Args:
        options: the engine's options, as for `ContinuousBatching`; ``scheduling_policy`` must be ``fcfs``.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        input_weight: what a prompt token counts.
        output_weight: what an output token counts.
    """

    name = "fair"
    waiting: TenantQueue

    def __init__(
        self,
        options: EngineOptions,
        pool: BlockPool,
        *,
        leap: bool = True,
        input_weight: float = 1.0,
        output_weight: float = 2.0,
    ) -> None:
        least(self.name, "input_weight", input_weight)
        least(self.name, "output_weight", output_weight)
        if not input_weight + output_weight:
            raise ScenarioError("scheduler.output_weight: fair needs a weight above 0 (got 0 for both)")
        no_priorities(self.name, options)
        super().__init__(options, pool, leap=leap)
        self.waiting = TenantQueue(input_weight, output_weight)

    def add(self, sequence: Sequence) -> bool:
        """Queue a newcomer; it matters if its tenant comes back, for its counter is lifted to those of this moment."""
        return self.waiting.add(sequence)

    def next_batch(self) -> Batch | None:
        """Decide the next step, or the next steps."""
        if self.waiting:
            self.waiting.look(self.running)
        return super().next_batch()

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Release the sequences whose last token has come."""
        finished = super().settle(batch, steps)
        for sequence in finished:
            self.waiting.end(sequence)
        return finished

    def remove(self, sequence: Sequence) -> None:
        """Let go a sequence whose client has gone."""
        super().remove(sequence)
        self.waiting.end(sequence)

    def service(self) -> dict[str | None, float]:
        """Return the counters, in weighted tokens, by tenant, as of the last decision with requests in the queue."""
        return {tenant: count / self.waiting.unit for tenant, count in self.waiting.counters.items()}

    def _more_steps(self, group: DecodeGroup) -> int:
        """Leap while requests wait only if no tenant's head could get in, for counters move with every step.

        While the same sequences decode, blocks only become fewer, and what does not fit now will not.
        """
        if self.waiting and len(self.running) < self._seats:
            budget = self._budget - group.count
            cap = self._cap()
            if budget > 0 and any(self._admissible(head, budget, cap)[0] for head in self.waiting.heads()):
                return 0
        return super()._more_steps(group)
