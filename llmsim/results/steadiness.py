"""Whether a run settled: does the backlog stop growing, and how many requests does it take to warm up."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from llmsim.results.percentiles import Floats
from llmsim.results.records import Record

FEWEST_ARRIVALS = 40  # below, quarters are too short to say anything
LOW, HIGH = 10.0, 90.0
MSER_BATCH = 5


@dataclass(frozen=True, slots=True)
class Steadiness:
    """The verdict on a run.

    Attributes:
        settled: whether the number of requests in the system stopped growing; None: too few requests to tell.
        saturated: whether it was the queue that never stopped growing; None likewise.
        reason: why not, in a sentence without full stop, or None.
    """

    settled: bool | None
    saturated: bool | None
    reason: str | None


def steadiness(records: Sequence[Record], measured: Sequence[Record]) -> Steadiness:
    """Return the verdict on a run from all its ``records`` and those that are ``measured``, in order of arrival.

    Every arrival finds so many requests in the system.  When the quietest tenth of the last quarter of the arrivals
    finds more than the busiest tenth of the second quarter, by more than Poisson's noise in such a number,
    the backlog has not stopped growing.  A stable queue comes back to its low values within a few of its relaxation
    times, so in a run of many it is not called so; one that gets more than it can serve never comes back.
    """
    count = len(measured)
    if count < FEWEST_ARRIVALS:
        return Steadiness(None, None, f"{count} requests are too few to tell")
    arrivals = np.array([record.arrival_s for record in measured], dtype=np.float64)
    found = _arrived(records, arrivals) - _before([record.finished_s for record in records], arrivals)
    # One that was never admitted stops waiting as it ends.
    admitted = [record.finished_s if record.admitted_s is None else record.admitted_s for record in records]
    waiting = _arrived(records, arrivals) - _before(admitted, arrivals)
    if not grows(found):
        return Steadiness(True, False, None)
    second, last = _quarters(found)
    before, after = np.median(second), np.median(last)
    rise = f"{before:,.0f} requests in the system in the second quarter of the arrivals, {after:,.0f} in the last"
    if arrivals[-1] == arrivals[0]:
        return Steadiness(False, True, f"all {count:,} requests came at once")
    queued = np.median(_quarters(waiting)[1]) - np.median(_quarters(waiting)[0])
    if queued < 0.5 * (after - before):
        return Steadiness(False, False, f"{rise}, hardly any of them waiting, so the batches were still filling")
    return Steadiness(False, True, f"requests come faster than they are served ({rise})")


def grows(found: Floats) -> bool:
    """Say whether the number in the system, as ``found`` [n] by arrivals in their order, keeps growing."""
    second, last = _quarters(found)
    busiest, quietest = float(np.percentile(second, HIGH)), float(np.percentile(last, LOW))
    return quietest > busiest + sqrt(busiest)


def warm_up(values: Floats) -> int | None:
    """Return how many of the ``values`` [n], in order of arrival, belong to the warm-up; None: it has no end in sight.

    MSER-5 (White, "An effective truncation heuristic for bias reduction in simulation output", Simulation 69, 1997;
    White, Cobb and Spratt, 2000): the cut that makes the standard error of the mean of what is left, in batches of
    five as if they were independent, least.  A cut in the second half says that the run is too short to tell.
    """
    batches = len(values) // MSER_BATCH
    if batches < 2:
        return None
    means = values[: batches * MSER_BATCH].reshape(batches, MSER_BATCH).mean(axis=1)
    # Sums from each batch to the end, around a value in the middle: squares do not cancel.
    centred = (means - means.mean())[::-1]
    left = np.arange(1, batches + 1)
    squares, sums = np.cumsum(centred**2), np.cumsum(centred)
    errors = ((squares - sums**2 / left) / left**2)[::-1]
    # The last few batches are alike by chance.
    cut = int(np.argmin(errors[: max(1, batches - 4)]))
    return cut * MSER_BATCH if cut <= batches // 2 else None


def _quarters(found: Floats) -> tuple[Floats, Floats]:
    count = len(found)
    return found[count // 4 : count // 2], found[3 * count // 4 :]


def _arrived(records: Sequence[Record], moments: Floats) -> Floats:
    """Return how many of ``records`` had come before each of ``moments``, which are arrivals of their own, in order."""
    arrivals = np.sort(np.array([record.arrival_s for record in records], dtype=np.float64))
    if moments[-1] == moments[0]:
        return np.arange(len(moments), dtype=np.float64)
    return np.searchsorted(arrivals, moments).astype(np.float64)


def _before(ends: Sequence[float | None], moments: Floats) -> Floats:
    """Return how many of ``ends`` lie at or before each of ``moments``; None never comes."""
    times = np.sort(np.array([end for end in ends if end is not None], dtype=np.float64))
    return np.searchsorted(times, moments, side="right").astype(np.float64)
