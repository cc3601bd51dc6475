"""`prefill_schedule_interval`: prompts are computed in one of so many steps, to spare those who decode."""

from __future__ import annotations

from llmsim.schedulers.batch import Batch


class PrefillThrottle:
    """Counts steps, and says when prompts must wait.

    While the last step with prompts left requests in the queue, the next ones go on with them; and where
    nothing decodes nobody is spared by waiting.

    Args:
        interval: steps from one that computes prompts to the next, at least.
    """

    __slots__ = ("_backlog", "_interval", "_last", "_step", "on")

    def __init__(self, interval: int) -> None:
        self.on = interval > 1
        self._interval = interval
        self._step = 0
        self._last = -interval
        self._backlog = False

    def holds(self, decodes: bool) -> bool:
        """Say whether prompts must wait in the step to be planned, in which something ``decodes`` or not."""
        return self.on and decodes and not self._backlog and self._step - self._last < self._interval

    def steps_left(self) -> int:
        """Return for how many steps after the one to be planned prompts will still have to wait."""
        return self._last + self._interval - self._step - 1

    def count(self, batch: Batch, backlog: bool) -> None:
        """Take note of a batch, and of whether it leaves requests in the queue."""
        if any(tokens > 1 or not sequence.generated for sequence, tokens in batch.chunks):
            self._last = self._step
            self._backlog = backlog
        self._step += batch.steps

    def take_back(self, steps: int) -> None:
        """Take note that ``steps`` steps were trimmed from the last batch."""
        self._step -= steps
