"""Odometers: where the seconds of a lane, and of each request, went.

Every second of a lane (one replica) has exactly one kind, a pair of a resource and an operator, so the parts
add up to the wall time.  A request's bill is the difference between two readings of its lane's totals, plus
the states that are its own: queued before it was admitted, and waiting while it was admitted but in no batch.
So a bill adds up to the request's end-to-end latency.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from llmsim.results.records import Record

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Kind = tuple[str, str]  # (resource, operator)

WAITING: Kind = ("waiting", "none")  # a lane with nothing to do; a request that is in no batch
QUEUED: Kind = ("queued", "none")  # a request before it is admitted
IDLE_RESOURCES = frozenset({"waiting", "bubble", "host", "queued"})  # seconds in which no device works


def bill_kinds(kinds: Iterable[Kind]) -> tuple[Kind, ...]:
    """Return the ``kinds`` of a lane with the states that are a request's own after them."""
    known = tuple(kinds)
    return known + tuple(own for own in (WAITING, QUEUED) if own not in known)


def bills(
    records: Sequence[Record],
    row_ranges: NDArray[np.integer],
    kind_seconds: Floats,
    *,
    kinds: Sequence[Kind],
    owners: NDArray[np.integer] | None = None,
) -> list[tuple[float, ...] | None]:
    """Return the bill of each record, in seconds, in the order of ``bill_kinds(kinds)``.

    The cost is one prefix sum over the rows, then one subtraction for each range.

    Args:
        records: n records of one replica.
        row_ranges: first and last row (inclusive) that each record was part of, [m, 2].  A record that was
            preempted may have several ranges; one that never ran has none, or one with last < first.
        kind_seconds: the seconds of each kind in each row of the replica's log, [rows, kinds].
        kinds: the kinds of the columns of ``kind_seconds``.
        owners: the index of the record that each range belongs to, [m]; None: range i is record i's.

    What remains of the time between admission and end is filed as waiting: between preemption and return, and
    the part of the first row before the request joined it (then less than zero, because that was not its own).
    A record without an end has no bill.
    """
    names = bill_kinds(kinds)
    first = np.asarray(row_ranges[:, 0], dtype=np.int64)
    after = np.maximum(np.asarray(row_ranges[:, 1], dtype=np.int64) + 1, first)
    owner = np.arange(len(first)) if owners is None else owners
    table = np.zeros((len(records), len(names)))
    reading = np.zeros(len(kind_seconds) + 1)
    for column in range(len(kinds)):
        np.cumsum(kind_seconds[:, column], out=reading[1:])
        table[:, column] = np.bincount(owner, weights=reading[after] - reading[first], minlength=len(records))

    arrival = np.array([record.arrival_s for record in records], dtype=np.float64)
    admitted = np.array([record.admitted_s for record in records], dtype=np.float64)
    finished = np.array([record.finished_s for record in records], dtype=np.float64)
    start = np.where(np.isnan(admitted), finished, admitted)
    table[:, names.index(QUEUED)] = start - arrival
    table[:, names.index(WAITING)] += finished - start - table[:, : len(kinds)].sum(axis=1)
    return [
        None if record.finished_s is None else tuple(row) for record, row in zip(records, table.tolist(), strict=True)
    ]


def lane_total(kind_seconds: Floats, *, kinds: Sequence[Kind], wall_s: float) -> Floats:
    """Return the seconds of each of ``bill_kinds(kinds)`` of one lane that was up for ``wall_s`` seconds.

    What the rows do not account for is time in which the lane had nothing to do.  The parts add up to ``wall_s``.

    Args:
        kind_seconds: the seconds of each kind in each row of the replica's log, [rows, kinds].
        kinds: the kinds of the columns of ``kind_seconds``.
        wall_s: from the start of the lane to its end.

    Raises:
        ValueError: the rows account for more time than there was.
    """
    names = bill_kinds(kinds)
    total = np.zeros(len(names))
    total[: len(kinds)] = kind_seconds.sum(axis=0)
    rest = wall_s - float(total.sum())
    if rest < -1e-9 * max(1.0, wall_s):
        raise ValueError(f"odometer: the rows of a lane take more time than the lane was up ({-rest} s too much)")
    total[names.index(WAITING)] += max(rest, 0.0)
    return total


def by_resource(bill: Iterable[float], kinds: Sequence[Kind]) -> dict[str, float]:
    """Return the seconds of a ``bill`` (or of a lane) summed for each resource, in the order of ``kinds``."""
    return _by(0, bill, kinds)


def by_operator(bill: Iterable[float], kinds: Sequence[Kind]) -> dict[str, float]:
    """Return the seconds of a ``bill`` (or of a lane) summed for each operator, in the order of ``kinds``."""
    return _by(1, bill, kinds)


def _by(axis: int, bill: Iterable[float], kinds: Sequence[Kind]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for kind, seconds in zip(kinds, bill, strict=True):
        totals[kind[axis]] = totals.get(kind[axis], 0.0) + float(seconds)
    return totals
