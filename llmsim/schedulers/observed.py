"""A scheduler that is looked over the shoulder: observers see each decision as it is made and as it has run."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from llmsim.schedulers.batch import Batch
    from llmsim.schedulers.protocol import Scheduler
    from llmsim.schedulers.sequence import Sequence


class Observer(Protocol):
    """Who looks on; it changes nothing."""

    def formed(self, batch: Batch) -> None:
        """See a batch that has just been decided, before its chunks are counted as computed."""
        ...

    def settled(self, batch: Batch, steps: int, finished: Many[Sequence]) -> None:
        """See a batch that has run for ``steps`` steps, and who ended with it."""
        ...


class Observed:
    """Passes everything on to a scheduler of any kind, and tells its observers.

    Args:
        scheduler: who decides.
        observers: who looks on, in the order in which they are told.
    """

    def __init__(self, scheduler: Scheduler, observers: Many[Observer]) -> None:
        self._scheduler: Any = scheduler
        self._observers = observers

    def add(self, sequence: Sequence) -> bool:
        """Pass on a newcomer."""
        return bool(self._scheduler.add(sequence))

    def next_batch(self) -> Batch | None:
        """Let the scheduler decide."""
        batch: Batch | None = self._scheduler.next_batch()
        if batch is not None:
            for observer in self._observers:
                observer.formed(batch)
        return batch

    def settle(self, batch: Batch, steps: int) -> list[Sequence]:
        """Let the scheduler release who has ended."""
        finished: list[Sequence] = self._scheduler.settle(batch, steps)
        for observer in self._observers:
            observer.settled(batch, steps, finished)
        return finished

    def __getattr__(self, name: str) -> Any:
        """Find all else (`running`, `waiting`, `trim`, ...) with the scheduler."""
        return getattr(self._scheduler, name)


def step_times(batch: Batch, steps: int) -> list[tuple[float, float]]:
    """Return start and end, in seconds, of each of the ``steps`` steps that a batch has run."""
    if batch.rounds is not None:
        # In a pipeline the next step of a leap goes in as the last one comes out.
        starts = [start for start, _ in batch.rounds]
        return list(zip(starts, [*starts[1:], batch.end_s], strict=True))
    if steps == 1 or batch.epoch is None:
        return [(batch.start_s, batch.end_s)]
    ends = [batch.epoch.end(batch.first_step + step) for step in range(1, steps + 1)]
    return list(zip([batch.start_s, *ends[:-1]], ends, strict=True))


def step_end(batch: Batch, step: int, steps: int) -> float:
    """Return when step ``step`` (1, 2, ...) of the ``steps`` that a batch has run ended, as `step_times` has it."""
    if step == steps:
        return batch.end_s
    if batch.rounds is not None:
        return batch.rounds[step][0]
    assert batch.epoch is not None
    return batch.epoch.end(batch.first_step + step)
