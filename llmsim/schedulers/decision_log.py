"""The decision log: what a scheduler decided, one plain mapping for each step of the engine.

The keys are those of decisions recorded from vLLM's own scheduler class, as far as they apply; a simulation adds
the replica and the moments.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Many
from typing import Any

from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.observed import step_times
from llmsim.schedulers.protocol import Scheduler
from llmsim.schedulers.sequence import Sequence

Line = dict[str, Any]


def scheduled(batch: Batch | None) -> list[tuple[Sequence, int]]:
    """Return all that one step of a batch computes, (sequence, tokens), in the order of admission."""
    if batch is None:
        return []
    decodes: list[tuple[Sequence, int]] = []
    if batch.verified is not None:  # each computes its drafts too
        decodes = [
            (one, int(tokens)) for one, tokens in zip(batch.verified.sequences, batch.verified.queries, strict=True)
        ]
    elif batch.decodes is not None:
        decodes = [(sequence, 1) for sequence in batch.decodes.served()]
    return sorted([*decodes, *batch.chunks], key=lambda pair: pair[0].order)


def decision(batch: Batch | None, admitted: Iterable[Sequence], scheduler: Scheduler, pool: BlockPool) -> Line:
    """Return what ``batch``, decided just now, says; a scheduler that shows no queues has None for their lengths."""
    running, waiting = getattr(scheduler, "running", None), getattr(scheduler, "waiting", None)
    return {
        "scheduled": {sequence.request.id: tokens for sequence, tokens in scheduled(batch)},
        "new": [sequence.request.id for sequence in admitted if not sequence.preemptions],
        "resumed": [sequence.request.id for sequence in admitted if sequence.preemptions],
        "preempted": [sequence.request.id for sequence in batch.preempted] if batch is not None else [],
        "cached_tokens": {sequence.request.id: sequence.found for sequence in admitted},
        "num_running": None if running is None else len(running),
        "num_waiting": None if waiting is None else len(waiting),
        "free_blocks": pool.free,
    }


class DecisionLog:
    """Observes the scheduler of one replica and writes a line for each step that has run, leaps written out.

    A line is written when its step has ended, in the order of the decisions.  What had not ended when the run
    was stopped is not written.

    Args:
        scheduler: who decides.
        pool: the blocks it decides on.
        replica: number of the replica.
        write: takes one line after the other.
    """

    def __init__(self, scheduler: Scheduler, pool: BlockPool, replica: int, write: Callable[[Line], None]) -> None:
        self._scheduler = scheduler
        self._pool = pool
        self._replica = replica
        self._write = write
        self._admitted: dict[Sequence, int] = {}  # preemptions before the last admission
        self._pending: deque[tuple[Batch, Line, list[int]]] = deque()
        self._steps = 0

    def formed(self, batch: Batch) -> None:
        """Take down a decision, and the blocks that each of its steps will leave free."""
        line = decision(batch, self._admissions(batch), self._scheduler, self._pool)
        group, steps = batch.decodes, batch.steps
        free = [self._pool.free]
        if group is not None and steps > 1:
            # All steps of a leap have taken their blocks already, the group's clock has moved past them.
            first = group.clock - steps
            free = [self._pool.free + group.taken(first + step, steps - step) for step in range(1, steps)] + free
        self._pending.append((batch, line, free))

    def _admissions(self, batch: Batch) -> list[Sequence]:
        """Return who begins to run with a batch, also where the scheduler does not say so."""
        admitted = list(batch.admitted)
        known = self._admitted
        for sequence in admitted:
            known[sequence] = sequence.preemptions
        for sequence, _ in batch.chunks:
            if known.get(sequence, -1) < sequence.preemptions:
                known[sequence] = sequence.preemptions
                admitted.append(sequence)
        return admitted

    def settled(self, batch: Batch, steps: int, finished: Many[Sequence]) -> None:
        """Write the lines of a batch that has run, and of the decisions before it that computed nothing."""
        for sequence in finished:
            self._admitted.pop(sequence, None)
        while self._pending:
            earlier, line, free = self._pending.popleft()
            if earlier is batch:
                self._write_steps(line, step_times(batch, steps), free, [one.request.id for one in finished])
                return
            self._write_steps(line, [(None, None)], free, [])

    def _write_steps(
        self, line: Line, times: Iterable[tuple[float | None, float | None]], free: list[int], finished: list[str]
    ) -> None:
        times = list(times)
        nothing: Line = {"new": [], "resumed": [], "preempted": [], "cached_tokens": {}}
        for step, (start_s, end_s) in enumerate(times):
            self._write(
                {"replica": self._replica, "step": self._steps, "start_s": start_s, "end_s": end_s}
                | line
                | {"free_blocks": free[step], "finished": finished if step == len(times) - 1 else []}
            )
            line = line | nothing
            self._steps += 1
