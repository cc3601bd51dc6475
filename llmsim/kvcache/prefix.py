"""Prefix caching: blocks that keep their content after their sequence has gone, until they are needed.

The free blocks are of two kinds.  Blocks without a name are taken first, and are only counted.  Blocks with
a name (the chain of all tokens up to their end) lie in one queue, oldest first: a request whose prompt begins
with the same chain takes them back out, and whoever needs a block when the nameless ones are used up takes
the oldest.  This is the order of vLLM's free queue (`BlockPool`, `FreeKVCacheBlockQueue`): a sequence's
blocks are freed last block first, those without a name to the front, those with one to the back.

Blocks whose content no other request can have are not kept one by one: the named blocks behind a
sequence's shareable part are one run in the queue.  Evictions are made up late, when somebody next looks,
so a leap that takes a thousand blocks only counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from llmsim.kvcache.blocks import BlockPool

if TYPE_CHECKING:
    from llmsim.schedulers.sequence import Sequence
    from llmsim.workload.request import Request


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
        contents: what the shareable blocks of a request hold, in order; requests whose lists begin alike
            share those blocks.  The default reads `Request.prefix`.
    """

    __slots__ = ("_cached", "_chains", "_contents", "_named_free", "_queue")

    def __init__(
        self,
        blocks: int,
        block_size: int,
        *,
        max_chunk: int = 0,
        contents: Callable[[Request, int], list[Hashable]] | None = None,
    ) -> None:
        super().__init__(blocks, block_size, max_chunk=max_chunk)
        # Nothing can be found before the first shareable block or the first preemption.
        self.caches = contents is not None
        self._contents = contents or prefix_contents
        self._chains: dict[tuple[int, Hashable], int] = {}
        self._cached: dict[int, list[Block]] = {}  # by name; the oldest of equal blocks is the one that is hit
        self._queue: dict[Block | Run, None] = {}
        self._named_free = 0

    # ------------------------------------------------------------------ names

    def names(self, sequence: Sequence) -> list[int]:
        """Return the names of a sequence's shareable blocks: equal names mean equal tokens up to the block's end."""
        if sequence.names is None:
            chains = self._chains
            parent = 0
            found = []
            for content in self._contents(sequence.request, self.block_size):
                parent = chains.setdefault((parent, content), len(chains) + 1)
                found.append(parent)
            sequence.names = found
            self.caches = self.caches or bool(found)
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
        hits = free = 0
        for name in names[:most]:
            blocks = self._cached.get(name)
            if not blocks:
                return hits, free
            hits += 1
            free += not blocks[0].holders
        run = sequence.own_run
        if run is not None and hits == len(names):
            own = min(run.count, most - hits)
            return hits + own, free + own
        return hits, free

    def take(self, sequence: Sequence, hits: int) -> None:
        """Let a sequence hold the ``hits`` blocks that `match` found."""
        names = self.names(sequence)
        for name in names[: min(hits, len(names))]:
            block = self._cached[name][0]
            if not block.holders:
                del self._queue[block]
                self._named_free -= 1
                self.free -= 1
            block.holders += 1
            sequence.named.append(block)
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
        for block in reversed(named):
            block.holders -= 1
            if not block.holders:
                self._queue[block] = None
                self._named_free += 1
                self.free += 1
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


def prefix_contents(request: Request, block_size: int) -> list[Hashable]:
    """Return the contents of a request's shareable blocks, from the identifiers of its prefix.

    An identifier stands for `Prefix.block_tokens` tokens, the last one for what is left of the prompt.  A block
    of the engine lies in one or several of them; only blocks that the prompt fills are shareable.
    """
    prefix = request.prefix
    if prefix is None:
        return []
    span, ids = prefix.block_tokens, prefix.hash_ids
    covered = min(request.prompt_tokens, len(ids) * span)
    contents: list[Hashable] = []
    for start in range(0, covered - block_size + 1, block_size):
        first, last = start // span, (start + block_size - 1) // span
        contents.append((start % span, *ids[first : last + 1]))
    return contents
