"""``--scheduler-recv-interval``: SGLang looks for new requests only every so many steps that decode."""

from __future__ import annotations

from llmsim.errors import ScenarioError
from llmsim.schedulers.sequence import Sequence


class RequestPoll:
    """The newcomers whom the scheduler has not looked at yet.

    A step that decodes counts one, and at ``interval`` they are looked at; after a step with prompts, or when nobody
    runs, at once.  Source: SGLang 0.5, ``managers/scheduler_recv_skipper.py`` (``SchedulerRecvSkipper``: a step
    that decodes weighs 1, one with prompts 1000), from memory.

    Args:
        interval: steps that decode from one look to the next; 1: before every step.

    Raises:
        ScenarioError: the interval is below 1.
    """

    __slots__ = ("_interval", "_steps", "newcomers", "on")

    def __init__(self, interval: int) -> None:
        if interval < 1:
            raise ScenarioError(f"scheduler.scheduler_recv_interval: at least 1 (got {interval})")
        self.on = interval > 1
        self.newcomers: dict[Sequence, None] = {}
        self._interval = interval
        self._steps = 0

    def look(self, *, at_once: bool) -> list[Sequence]:
        """Return who is looked at before the next step, in order of arrival; ``at_once``: it is not a decode's turn."""
        if at_once:
            self._steps = 0
        elif self._steps % self._interval:
            return []
        found = list(self.newcomers)
        self.newcomers.clear()
        return found

    def steps_left(self) -> int | None:
        """Return for how many steps from now on nobody is looked at; None: nobody waits for it."""
        if not self.newcomers:
            return None
        return self._interval - self._steps % self._interval

    def count(self, steps: int) -> None:
        """Count steps that decode; negative takes them back."""
        self._steps += steps
