"""Earliest deadline first."""

from __future__ import annotations

from math import inf

from llmsim.engine_options import EngineOptions
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.orders.checks import least
from llmsim.schedulers.orders.ranked import Rank, RankedBatching
from llmsim.schedulers.sequence import Sequence


class EarliestDeadline(RankedBatching):
    """Continuous batching in which the request with the earliest deadline is admitted first.

    A deadline is `Request.deadline_s`, in seconds of the simulation: the moment by which the first token is
    wanted, for it orders admissions.  Requests without one come last, in order of arrival, and may starve while
    others keep coming; ``default_slack_s`` gives them one.  The queue's head is never skipped, nobody who runs gives
    way to an earlier deadline, and when blocks run out the latest deadline is preempted.  A scheduler knows no
    clock, so requests whose deadline has passed are served like the others, and in overload they delay those
    behind them (the known weakness of the rule).

    Source: Jackson, "Scheduling a production line to minimize maximum tardiness" (1955): on one server, with
    everybody there, the rule minimises the greatest lateness; Liu and Layland, JACM 20 (1973), for deadlines of
    tasks that return.

    Args:
        options: the engine's options, as for `ContinuousBatching`; ``scheduling_policy`` must be ``fcfs``.
        pool: the blocks of the engine.
        leap: whether decisions may stand for more than one step.
        default_slack_s: seconds from arrival to the deadline of a request that has none; null: it has none.
    """

    name = "earliest_deadline"

    def __init__(
        self, options: EngineOptions, pool: BlockPool, *, leap: bool = True, default_slack_s: float | None = None
    ) -> None:
        if default_slack_s is not None:
            least(self.name, "default_slack_s", default_slack_s)
        self._slack_s = inf if default_slack_s is None else default_slack_s
        super().__init__(options, pool, leap=leap)

    def rank(self, sequence: Sequence) -> Rank:
        """Return deadline and arrival."""
        request = sequence.request
        deadline = request.arrival_s + self._slack_s if request.deadline_s is None else request.deadline_s
        return deadline, request.arrival_s, sequence.arrival
