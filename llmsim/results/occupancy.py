"""Step functions of time, as a step log holds them: busy time, time averages, and curves with few points.

A value of a row holds from the row's start until the next row's start, or, when the replica then fell idle,
until the row's end; while it is idle the value is zero.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmsim.results.percentiles import Floats
from llmsim.results.steps import StepLog


@dataclass(frozen=True, slots=True)
class Curve:
    """A step function on a grid: mean, least and greatest value [bins] between neighbours of ``edges`` [bins + 1]."""

    edges: Floats
    mean: Floats
    least: Floats
    greatest: Floats


def hold(log: StepLog) -> tuple[Floats, Floats]:
    """Return from when until when the values of each row hold, in seconds: two arrays [rows] without overlap.

    A pause shorter than a step is host work between two batches, in which nothing changes; a longer one means
    that the replica had nothing to do.
    """
    columns = log.columns()
    starts = np.maximum.accumulate(columns["start_s"]) if len(log) else columns["start_s"]
    ends = np.maximum(columns["end_s"], starts)
    if len(log) > 1:
        follow = starts[1:]
        idle = follow - ends[:-1] > columns["last_step_s"][:-1]
        ends[:-1] = np.where(idle, ends[:-1], follow)
    return starts, ends


def busy_seconds(log: StepLog) -> float:
    """Return for how many seconds a batch was in flight: the length of the union of the rows' intervals."""
    columns = log.columns()
    order = np.argsort(columns["start_s"], kind="stable")
    starts, ends = columns["start_s"][order], columns["end_s"][order]
    covered = np.concatenate(([-np.inf], np.maximum.accumulate(ends)[:-1])) if len(log) else ends
    return float(np.maximum(ends - np.maximum(starts, covered), 0.0).sum())


def span(logs: Sequence[StepLog]) -> tuple[float, float] | None:
    """Return the first start and the last end of all rows, in seconds, or None when there are none."""
    filled = [log.columns() for log in logs if len(log)]
    if not filled:
        return None
    return min(float(c["start_s"].min()) for c in filled), max(float(c["end_s"].max()) for c in filled)


def time_average(log: StepLog, values: Floats, seconds: float) -> float:
    """Return the mean over ``seconds`` of time of the step function with ``values`` [rows]."""
    starts, ends = hold(log)
    return float((values * (ends - starts)).sum()) / seconds


def curve(log: StepLog, values: Floats, edges: Floats) -> Curve:
    """Return the step function with ``values`` [rows] on the grid ``edges`` [bins + 1], in seconds.

    The least value counts idle time as zero only where a bin is idle all along, so that one short pause does not
    pull a whole bin down.
    """
    starts, ends = hold(log)
    bins = len(edges) - 1
    if len(starts) == 0:
        zero = np.zeros(bins)
        return Curve(edges, zero, zero, zero)
    # The integral of a step function is a line between its corners.
    corners = np.stack((starts, ends), axis=1).ravel()
    areas = np.stack((np.zeros_like(starts), values * (ends - starts)), axis=1).ravel().cumsum()
    mean = np.diff(np.interp(edges, corners, areas)) / np.diff(edges)
    first = np.searchsorted(edges, starts, side="right") - 1
    last = np.searchsorted(edges, ends, side="left") - 1
    least, greatest = np.full(bins, np.inf), np.full(bins, -np.inf)
    # Each row touches the bin that it starts in, the one that it ends in, and all between.
    for index in (first, last):
        inside = (index >= 0) & (index < bins)
        np.minimum.at(least, index[inside], values[inside])
        np.maximum.at(greatest, index[inside], values[inside])
    between = np.flatnonzero(last > first + 1)
    for row in between:
        part = slice(max(first[row] + 1, 0), max(last[row], 0))
        least[part], greatest[part] = np.minimum(least[part], values[row]), np.maximum(greatest[part], values[row])
    idle = np.isinf(least)
    least[idle], greatest[idle] = mean[idle], mean[idle]
    return Curve(edges, mean, least, greatest)


def grid(logs: Sequence[StepLog], *, most_bins: int) -> Floats | None:
    """Return the edges of a grid over all rows of ``logs``, or None when there are none.

    One log with few rows keeps its own corners, so its curve is exact; everything else is cut into equal bins.
    """
    ends = span(logs)
    if ends is None or ends[0] == ends[1]:
        return None
    if len(logs) == 1 and len(logs[0]) * 2 <= most_bins:
        return np.unique(np.concatenate(hold(logs[0])))
    return np.linspace(*ends, most_bins + 1)


def total(curves: Sequence[Curve]) -> Curve:
    """Return the sum of ``curves`` on one grid; its least and greatest values bound those of the true sum."""
    return Curve(
        edges=curves[0].edges,
        mean=np.sum([part.mean for part in curves], axis=0),
        least=np.sum([part.least for part in curves], axis=0),
        greatest=np.sum([part.greatest for part in curves], axis=0),
    )
