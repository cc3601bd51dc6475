"""Bring the rows of a trace into the order of time, thin them, and spread stamps that are too coarse."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter, gt

from llmsim.errors import TraceError
from llmsim.random import stream
from llmsim.workload.readers.rows import Row

REORDER_ROWS = 8192

_CHUNK = 4096


@dataclass(slots=True)
class Disorder:
    """How many rows came earlier than the row before them in the file."""

    rows: int = 0


def in_order(rows: Iterable[Row], name: str, disorder: Disorder, reorder_rows: int = REORDER_ROWS) -> Iterator[Row]:
    """Yield ``rows`` in order of time; rows of one moment stay in the order of the file.

    A row may stand up to ``reorder_rows`` rows from its place, and a file of up to twice as many rows may
    be in any order: no more than that is held.

    Raises:
        TraceError: a row stands farther from its place; the message gives its number.
    """
    source = iter(rows)
    held: list[Row] = []
    before: int | None = None
    released: int | None = None
    while block := list(islice(source, reorder_rows)):
        times = [_time(row) for row in block]
        disorder.rows += sum(map(gt, times, times[1:])) + (before is not None and times[0] < before)
        before = times[-1]
        held += block
        held.sort(key=_time)
        if released is not None and _time(held[0]) < released:
            early = (released - _time(held[0])) / 1e9
            raise TraceError(
                f"{name}:row {held[0].number}: is {early:.3f} s earlier than a row that stands more than "
                f"{reorder_rows} rows before it\nhint: sort the file by time, or raise trace.reorder_rows"
            )
        if len(held) > reorder_rows:
            ready, held = held[:-reorder_rows], held[-reorder_rows:]
            released = _time(ready[-1])
            yield from ready
    yield from held


def thinned(rows: Iterable[Row], share: float, seed: int) -> Iterator[Row]:
    """Keep each row with probability ``share``, by a random stream of its own."""
    random = stream(seed, "thin")
    source = iter(rows)
    while block := list(islice(source, _CHUNK)):
        keep = random.random(len(block)) < share
        yield from (row for row, kept in zip(block, keep.tolist(), strict=True) if kept)


def jittered(rows: Iterable[Row], jitter_s: float, seed: int) -> Iterator[Row]:
    """Add to each time a uniform draw from [0, ``jitter_s``), and yield the rows in their new order.

    This undoes stamps that were rounded down, such as Mooncake's to 3 s: replayed as they stand they
    are bursts that never happened.
    """
    random = stream(seed, "jitter")
    source = iter(rows)
    waiting: list[tuple[int, int, Row]] = []
    count = 0
    while block := list(islice(source, _CHUNK)):
        for row, delay in zip(block, (random.random(len(block)) * (jitter_s * 1e9)).tolist(), strict=True):
            now = _time(row)
            while waiting and waiting[0][0] < now:
                yield heapq.heappop(waiting)[2]
            row.time_ns = now + int(delay)
            heapq.heappush(waiting, (row.time_ns, count, row))
            count += 1
    while waiting:
        yield heapq.heappop(waiting)[2]


_time = attrgetter("time_ns")
