"""A radix cache: prompts and answers stay in a tree until their room is needed.

Source: SGLang 0.5, ``mem_cache/radix_cache.py`` (``RadixCache``) and ``mem_cache/common.py``
(``evict_from_tree_cache``), from memory.  What sets it apart from vLLM's cache of blocks: beginnings are shared
token by token (with pages of one token), equal content that two requests computed at once is kept once, and the
least recently used leaf goes as a whole.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING

from llmsim.kvcache.blocks import BlockPool
from llmsim.kvcache.radix_tree import Node, RadixTree, Text, text_of

if TYPE_CHECKING:
    from llmsim.schedulers.sequence import Sequence


class RadixCache:
    """The tree of one engine, whose unused nodes count as free blocks of its pool.

    ``pool.free`` is what is available plus what can be evicted, so nobody else needs to know the tree; but before
    blocks are taken, `make_room` must have been asked for them.  A page is a block of the pool.

    Args:
        pool: the blocks; all of one cache group without a window.
        keeps: whether anything is kept; without it the cache only counts blocks (``--disable-radix-cache``).

    Attributes:
        tree: what is kept.
        evictable: blocks of nodes that nobody uses.
    """

    __slots__ = ("_held", "_queue", "_serial", "_texts", "evictable", "keeps", "pool", "tree")

    def __init__(self, pool: BlockPool, *, keeps: bool = True) -> None:
        self.pool = pool
        self.keeps = keeps and not pool.windows
        self.tree = RadixTree(pool.block_size)
        self.evictable = 0
        self._held: dict[Sequence, Node] = {}
        self._texts: dict[Sequence, Text] = {}
        self._queue: list[tuple[int, int, Node]] = []
        self._serial = 0

    @property
    def available(self) -> int:
        """Blocks that hold nothing."""
        return self.pool.free - self.evictable

    def text(self, sequence: Sequence) -> Text:
        """Return what the tokens of a sequence are."""
        text = self._texts.get(sequence)
        if text is None:
            text = self._texts[sequence] = text_of(sequence.request, ("own", sequence.arrival))
        return text

    # ------------------------------------------------------------------ sequences come and go

    def match(self, sequence: Sequence) -> Node:
        """Return where the known beginning of a sequence ends; its last token is always computed."""
        return self.tree.match(self.text(sequence), sequence.total - 1) if self.keeps else self.tree.root

    def hold(self, sequence: Sequence, node: Node) -> None:
        """Let a sequence use what leads to ``node``, instead of what it used before."""
        before = self._held.get(sequence)
        self._lock(node)
        self._held[sequence] = node
        if before is not None:
            self._unlock(before)

    def let_go(self, sequence: Sequence) -> None:
        """Take back a `hold` of a sequence that has no blocks yet."""
        self._unlock(self._held.pop(sequence))

    def keep(self, sequence: Sequence, tokens: int) -> None:
        """Store the first ``tokens`` tokens of a running sequence; what is known already is given up for that."""
        if not self.keeps:
            return
        before = self._held[sequence].end
        node, known = self._insert(self.text(sequence), tokens)
        self.pool.free += max(0, known - before) // self.tree.page
        self.hold(sequence, node)

    def release(self, sequence: Sequence, tokens: int) -> None:
        """Free the blocks of a sequence after storing its first ``tokens`` tokens; 0 stores nothing more."""
        node = self._held.pop(sequence, None)
        if node is None:
            return
        private = sequence.blocks - node.end // self.tree.page
        sequence.blocks = 0
        if self.keeps and tokens > node.end:
            _, known = self._insert(self.text(sequence), tokens)
            # What went into the tree counts as free already.
            private -= (tokens - tokens % self.tree.page - known) // self.tree.page
        self.pool.free += private
        self._unlock(node)

    def forget(self, sequence: Sequence) -> None:
        """Take note that a sequence has ended."""
        self._texts.pop(sequence, None)

    def _insert(self, text: Text, tokens: int) -> tuple[Node, int]:
        """Store tokens whose blocks were private until now; their nodes are used by nobody yet."""
        node, known = self.tree.insert(text, tokens)
        if node.end > known:
            self.evictable += (node.end - known) // self.tree.page
            self.pool.free += (node.end - known) // self.tree.page
            self._list(node)
        return node, known

    # ------------------------------------------------------------------ who is used, and who goes

    def _lock(self, node: Node) -> None:
        """Take note of one more user of a node and of all before it."""
        step: Node | None = node
        while step is not None:
            if not step.locks:
                self._count(step, -1)
            step.locks += 1
            step = step.parent

    def _unlock(self, node: Node) -> None:
        """Take note of one user less of a node and of all before it."""
        step: Node | None = node
        while step is not None:
            step.locks -= 1
            if not step.locks:
                self._count(step, 1)
                self._list(step)
            step = step.parent

    def _count(self, node: Node, sign: int) -> None:
        blocks = sign * (node.end - node.start) // self.tree.page
        self.evictable += blocks
        self.pool.free += blocks

    def _list(self, node: Node) -> None:
        """Put a leaf that nobody uses into the queue of those to be evicted."""
        if node.listed or node.locks or node.children or node.parent is None:
            return
        node.listed = True
        self._serial += 1
        heappush(self._queue, (node.stamp, self._serial, node))

    def make_room(self, blocks: int) -> None:
        """See to it that ``blocks`` blocks are available, as far as there is anything to evict.

        When they are not, as many are evicted, whatever is available already (SGLang's ``evict(num_tokens)``);
        leaves go as a whole, those used least recently first, and then the nodes before them.
        """
        if self.available >= blocks:
            return
        evicted = 0
        while evicted < blocks and self._queue:
            stamp, _, node = heappop(self._queue)
            node.listed = False
            if node.stamp != stamp:
                self._list(node)  # it was used since, and has another place
            elif node.parent is not None and not node.locks and not node.children:
                size = (node.end - node.start) // self.tree.page
                self.evictable -= size
                evicted += size
                self._list(self.tree.remove(node))
