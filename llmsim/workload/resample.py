"""Another day like the one in a trace: blocks of its arrivals, drawn anew from those around the same time.

The local block bootstrap: time is cut into blocks, and each block of the new trace is one of the old trace's blocks
that lie within so much of its place, drawn at random.  Within a block all stays as it was, bursts, lengths and what
belongs together; and as nothing comes from far away, the morning stays a morning.

Source: Paparoditis and Politis, "Local block bootstrap", Comptes Rendus Mathematique 335 (2002); for series whose law
changes slowly with time.
"""

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from copy import copy
from dataclasses import dataclass, replace

import numpy as np

from llmsim.errors import TraceError
from llmsim.random import stream
from llmsim.workload.readers.rows import Row

BLOCKS_AROUND = 5  # on each side, unless told otherwise: eleven blocks to draw from


@dataclass(frozen=True, slots=True)
class Resampling:
    """Blocks of ``block_s`` seconds, each drawn from those that begin at most ``within_s`` from its own beginning."""

    block_s: float
    within_s: float

    @property
    def words(self) -> str:
        """What a description says of it."""
        return f"resampled in blocks of {self.block_s:g} s from within {self.within_s:g} s"


class _Block:
    """The rows of one block of the trace, and how often it has been drawn."""

    __slots__ = ("drawn", "identifiers", "number", "rows")

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows: list[Row] = []
        self.drawn = 0
        self.identifiers: set[int] = set()


def resampled(rows: Iterable[Row], resampling: Resampling, seed: int, name: str) -> Iterator[Row]:
    """Yield a trace like ``rows``, which are in order of time, by a random stream of its own.

    No more is held than the blocks that one can be drawn from.  A block that is drawn again brings other requests with
    other texts: rows get names of their own, and identifiers of contents that only this block has (of those held)
    are renamed.  The rest that is no whole block stays at the end, and takes the beginning of what is drawn for it.

    Raises:
        TraceError: there are fewer than two whole blocks.
    """
    length = round(resampling.block_s * 1e9)
    around = int(resampling.within_s / resampling.block_s)
    random = stream(seed, "resample")
    renamed = _Renaming()
    held: deque[_Block] = deque()
    place = 0
    end_ns: int | None = None
    for block, end_ns in _blocks(rows, length, name):
        renamed.take(block)
        held.append(block)
        if end_ns is not None:
            break
        if block.number - place >= around:
            yield from _drawn(place, held, random, renamed, length)
            place += 1
        while held and held[0].number < place - around:
            renamed.drop(held.popleft())
    else:
        return  # there are no rows
    whole = held[-1].number  # of whole blocks; the last one is a rest
    while place < whole:
        usable = [one for one in held if one.number < whole and abs(one.number - place) <= around]
        yield from _drawn(place, usable, random, renamed, length)
        place += 1
    usable = [one for one in held if one.number >= whole - around]
    for row in _drawn(whole, usable, random, renamed, length):
        assert row.time_ns is not None
        assert end_ns is not None
        if row.time_ns <= end_ns:
            yield row


def _blocks(rows: Iterable[Row], length: int, name: str) -> Iterator[tuple[_Block, int | None]]:
    """Yield each block, empty ones too; the last one with the time of the last row."""
    block, origin, last = _Block(0), None, 0
    for row in rows:
        assert row.time_ns is not None
        origin = row.time_ns if origin is None else origin
        last = row.time_ns - origin
        while last >= (block.number + 1) * length:
            yield block, None
            block = _Block(block.number + 1)
        block.rows.append(row)
    if origin is None:
        return
    if block.number < 2:
        raise TraceError(
            f"{name}: resample: the trace has {last / 1e9:g} s, less than two blocks of {length / 1e9:g} s\n"
            "hint: shorter blocks"
        )
    yield block, origin + last


def _drawn(
    place: int, held: Iterable[_Block], random: np.random.Generator, renamed: "_Renaming", length: int
) -> Iterator[Row]:
    """Yield the rows of a block drawn from ``held`` as they come at ``place``."""
    blocks = list(held)
    block = blocks[int(random.integers(len(blocks)))]
    block.drawn += 1
    shift = (place - block.number) * length
    names = renamed.fresh(block) if block.drawn > 1 else None
    for row in block.rows:
        moved = copy(row)
        assert moved.time_ns is not None
        moved.time_ns += shift
        if names is not None:
            _rename(moved, names, block.drawn)
        yield moved


def _rename(row: Row, names: dict[int, int], drawn: int) -> None:
    row.id, row.session_id, row.parent = (
        None if text is None else f"{text}~{drawn}" for text in (row.id, row.session_id, row.parent)
    )
    if row.prefix is not None:
        row.prefix = replace(row.prefix, hash_ids=tuple(names.get(one, one) for one in row.prefix.hash_ids))


class _Renaming:
    """Knows which identifiers of contents one block alone has, of those that are held."""

    def __init__(self) -> None:
        self._blocks = Counter[int]()
        self._next = -1

    def take(self, block: _Block) -> None:
        """Count the identifiers of a block."""
        block.identifiers = {one for row in block.rows if row.prefix is not None for one in row.prefix.hash_ids}
        self._blocks.update(block.identifiers)

    def drop(self, block: _Block) -> None:
        """Forget a block."""
        self._blocks.subtract(block.identifiers)

    def fresh(self, block: _Block) -> dict[int, int]:
        """Return new names, negative ones, of the identifiers that no other block has."""
        own = sorted(one for one in block.identifiers if self._blocks[one] == 1)
        names = {one: self._next - place for place, one in enumerate(own)}
        self._next -= len(own)
        return names
