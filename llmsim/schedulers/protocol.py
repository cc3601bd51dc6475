"""What a scheduler is: three methods.  It knows neither the clock nor the hardware."""

from __future__ import annotations

from typing import Protocol

from llmsim.schedulers.batch import Batch
from llmsim.schedulers.sequence import Sequence


class Scheduler(Protocol):
    """Decides what the next step of one engine computes.

    A class of one's own is built as ``MyScheduler(options, pool)`` with the engine's options
    (`llmsim.engine_options.EngineOptions`) and its `BlockPool`, and answers with plain chunks and
    ``steps=1``.  Leaping is an offer that a scheduler may make: one that answers ``steps > 1`` also has
    ``trim(batch, steps)``, by which the engine takes back the steps that have not begun.
    """

    def add(self, sequence: Sequence) -> bool:
        """Take in a newcomer; say whether it changes the next decision."""
        ...

    def next_batch(self) -> Batch | None:
        """Decide, or answer None when nothing can be computed.

        May be called while earlier batches are in flight.  The engine moves ``computed`` of the chunks
        as soon as the batch is formed.
        """
        ...

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Take note that ``steps`` steps of ``batch`` have run; return the sequences that have ended."""
        ...


class LeapingScheduler(Scheduler, Protocol):
    """A scheduler whose decisions may stand for many steps."""

    waiting: object

    def trim(self, batch: Batch, steps: int) -> None:
        """Take back all but the first ``steps`` steps of a batch in flight."""
        ...
