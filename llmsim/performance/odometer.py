"""Reads the odometers of engines: what each lane's seconds went to, and what each request is billed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llmsim.results.odometer import bill_kinds, bills, lane_total

if TYPE_CHECKING:
    from llmsim.performance.step_cost import Kind, StepCost
    from llmsim.results.records import Record
    from llmsim.results.steps import StepLog

Floats = NDArray[np.float64]
BUBBLE = ("bubble", "none")


def kind_seconds(log: StepLog, costs: Sequence[StepCost]) -> tuple[tuple[Kind, ...], Floats]:
    """Return the kinds, and the wall seconds of each kind in each row of a log: [rows, kinds].

    The rows of a lane do not overlap: a row owns the time from the end of the row before it, or from its own
    start if that is later, to its end.  What its stages worked in that time is split by kind, on average
    over the stages; the rest is a bubble.
    """
    columns = log.columns()
    kinds = (*costs[0].kinds, BUBBLE)
    if log.speculation is not None:
        columns = {**columns, "draft_s": log.speculation.draft_s()}
    if not len(log):
        return kinds, np.zeros((0, len(kinds)))
    work = np.asarray(sum(cost.kind_seconds(columns) for cost in costs)) / len(costs)
    end = columns["end_s"]
    before = np.concatenate(([columns["start_s"][0]], end[:-1]))
    wall = np.maximum(end - np.maximum(before, columns["start_s"]), 0.0)
    busy = np.minimum(columns["busy_s"] * columns["steps"], wall) if len(costs) > 1 else wall
    share = work / np.maximum(work.sum(axis=0), 1e-30)
    return kinds, np.vstack([share * busy, wall - busy]).T


def read_odometers(engines: Sequence[Any], wall_s: float) -> tuple[tuple[Kind, ...], Floats]:
    """Bill every record of the engines, and return the kinds that occurred with the totals of each lane.

    Returns:
        the kinds of bills and totals, and seconds [engines, kinds] that add up to ``wall_s`` for each lane.
    """
    read = [kind_seconds(engine.log, engine.costs) for engine in engines]
    kinds = read[0][0]
    used = np.flatnonzero(sum(seconds.sum(axis=0) for _, seconds in read) > 0)
    names = tuple(kinds[index] for index in used)
    lanes = []
    for engine, (_, seconds) in zip(engines, read, strict=True):
        seconds = np.ascontiguousarray(seconds[:, used])
        lanes.append(lane_total(seconds, kinds=names, wall_s=wall_s))
        _bill(engine.ended, engine.rows, seconds, names)
    return bill_kinds(names), np.array(lanes)


def _bill(records: list[Record], rows: list[list[tuple[int, int]]], seconds: Floats, kinds: tuple[Kind, ...]) -> None:
    """Write each record's bill from the rows of the log in which it ran."""
    if not records:
        return
    owners = np.repeat(np.arange(len(rows)), [len(ranges) for ranges in rows])
    flat = np.array([pair for ranges in rows for pair in ranges], dtype=np.int64).reshape(-1, 2)
    for record, bill in zip(records, bills(records, flat, seconds, kinds=kinds, owners=owners), strict=True):
        record.bill = bill
