"""Prefix caching: blocks that keep their content after their sequence has gone, until they are needed.

The free blocks are of two kinds.  Blocks without a name are taken first, and are only counted.  Blocks with
a name (the chain of all tokens up to their end) lie in one queue, oldest first: a request whose prompt begins
with the same chain takes them back out, and whoever needs a block when the nameless ones are used up takes
the oldest.  This is the order of vLLM's free queue (`BlockPool`, `FreeKVCacheBlockQueue`): a sequence's
blocks are freed last block first, those without a name to the front, those with one to the back.

A turn of a session is shareable to the end of its answer.  The blocks that an answer fills get their names when
the sequence ends or is preempted: nobody can ask for them before that, so a leap over an answer only counts.

Blocks whose content no other request can have are not kept one by one: the named blocks behind a
sequence's shareable part are one run in the queue.  Evictions are made up late, when somebody next looks,
so a leap that takes a thousand blocks only counts them.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.names import BlockNames, Contents

if TYPE_CHECKING:
    from llmsim.schedulers.sequence import Sequence


NOTHING_FOUND = (0, 0)


class Block:
    """One named block: how many sequences hold it."""

    __slots__ = ("holders", "name")

    def __init__(self, name: int) -> None:
        self.name = name
        self.holders = 1


class Run:
    """Named blocks of one sequence's own, free, in a row from the end of its shareable part."""

    __slots__ = ("count",)

    def __init__(self, count: int) -> None:
        self.count = count


class PrefixCache(BlockPool):
    """A block pool that finds the blocks of a prompt's beginning again.

    Args:
        blocks: usable blocks.
        block_size: tokens in a block.
        max_chunk: the most tokens one step computes of one sequence.
        contents: what the shareable blocks of a request hold (see `BlockNames`).
    """

    __slots__ = ("_cached", "_named_free", "_names", "_queue")

    def __init__(
        self,
        blocks: int,
        block_size: int,
        *,
        max_chunk: int = 0,
        contents: Contents | None = None,
    ) -> None:
        super().__init__(blocks, block_size, max_chunk=max_chunk)
        # Nothing can be found before the first shareable block or the first preemption.
        self.caches = contents is not None
        self._names = BlockNames(block_size, contents)
        self._cached: dict[int, list[Block]] = {}  # by name; the oldest of equal blocks is the one that is hit
        # The front of a plain dict is a search past all that was deleted there.
        self._queue: OrderedDict[Block | Run, None] = OrderedDict()
        self._named_free = 0

    # ------------------------------------------------------------------ names

    def names(self, sequence: Sequence) -> list[int]:
        """Return the names of a sequence's shareable blocks: equal names mean equal tokens up to the block's end."""
        if sequence.names is None:
            sequence.names = self._names.of(sequence.request)
            self.caches = self.caches or bool(sequence.names)
        return sequence.names

    def name(self, sequence: Sequence, tokens: int) -> None:
        """Put the blocks of the first ``tokens`` tokens that are full and shareable into the cache."""
        names = self.names(sequence)
        if not names:
            return
        held = sequence.named
        for place in range(len(held), min(tokens // self.block_size, len(names))):
            block = Block(names[place])
            self._cached.setdefault(block.name, []).append(block)
            held.append(block)

    # ------------------------------------------------------------------ hits

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Look for the beginning of a sequence that is to be computed from its first token.

        The last token is always computed, so at most ``total - 1`` tokens are found.

        Returns:
            blocks found, and how many of them lie free.
        """
        names = self.names(sequence)
        if not names and sequence.own_run is None:
            return NOTHING_FOUND
        self._evict()
        most = (sequence.total - 1) // self.block_size
        hits = held = 0
        cached = self._cached
        for name in names[:most]:
            blocks = cached.get(name)
            if blocks is None:
                return hits, hits - held
            hits += 1
            if blocks[0].holders:
                held += 1
        free = hits - held
        run = sequence.own_run
        if run is not None and hits == len(names):
            own = min(run.count, most - hits)
            return hits + own, free + own
        return hits, free

    def take(self, sequence: Sequence, hits: int) -> None:
        """Let a sequence hold the ``hits`` blocks that `match` found."""
        names = self.names(sequence)
        cached, queue = self._cached, self._queue
        found = [cached[name][0] for name in names[:hits]]
        lay_free = 0
        for block in found:
            if not block.holders:
                del queue[block]
                lay_free += 1
            block.holders += 1
        sequence.named += found
        self._named_free -= lay_free
        self.free -= lay_free
        run = sequence.own_run
        if run is not None:
            # What is not taken back keeps its place in the queue, but nobody will ask for it again.
            own = max(0, hits - len(names))
            run.count -= own
            self._named_free -= own
            self.free -= own
            if not run.count:
                self._queue.pop(run, None)
            sequence.own_run = None

    # ------------------------------------------------------------------ blocks come and go

    def release(self, sequence: Sequence, known: int) -> None:
        """Free a sequence's blocks, last block first; ``known`` tokens of it have been computed for good."""
        if not self.caches and sequence.done:
            # Nobody will ask for these blocks, and nothing is cached that they could outlive.
            self.free += sequence.blocks
            sequence.blocks = 0
            return
        self.caches = True
        self._evict()
        full = known // self.block_size
        names = self.names(sequence)
        self.name(sequence, min(known, len(names) * self.block_size))
        named = sequence.named
        own = max(0, full - len(names))
        self.free += sequence.blocks - len(named)
        if own:
            run = sequence.own_run = Run(own)
            self._queue[run] = None
            self._named_free += own
        queue = self._queue
        before = len(queue)
        for block in reversed(named):
            block.holders -= 1
            if not block.holders:
                queue[block] = None
        fallen_free = len(queue) - before
        self._named_free += fallen_free
        self.free += fallen_free
        sequence.named = []
        sequence.blocks = 0

    def _evict(self) -> None:
        """Forget the oldest named blocks for as many as have been taken beyond the nameless ones."""
        while self._named_free > self.free:
            oldest = next(iter(self._queue))
            if isinstance(oldest, Run):
                gone = min(oldest.count, self._named_free - self.free)
                oldest.count -= gone
                self._named_free -= gone
                if not oldest.count:
                    del self._queue[oldest]
                continue
            del self._queue[oldest]
            self._named_free -= 1
            equal = self._cached[oldest.name]
            equal.remove(oldest)
            if not equal:
                del self._cached[oldest.name]
