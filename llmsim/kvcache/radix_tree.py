"""A radix tree over token texts: equal beginnings are stored once.

A text is told in named parts, so a prompt of a hundred thousand tokens is a few hundred names, and comparing two
texts takes as many steps as they share parts.  Nodes end at multiples of a page.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable

from llmsim.workload.request import History, Request

ENDLESS = 1 << 62


class Text:
    """The tokens of a request, prompt and answer: named parts side by side, each from the end of the one before it.

    Two tokens are equal if they lie at the same place of parts that have the same name and begin at the same
    token.  The last part goes on without end.
    """

    __slots__ = ("ends", "names")

    def __init__(self, parts: list[tuple[Hashable, int]], last: Hashable) -> None:
        self.names: list[Hashable] = [name for name, _ in parts]
        self.ends: list[int] = []
        end = 0
        for _, tokens in parts:
            end += tokens
            self.ends.append(end)
        self.names.append(last)
        self.ends.append(ENDLESS)

    def page(self, start: int, size: int) -> Hashable:
        """Return what the ``size`` tokens from ``start`` are; equal answers mean equal tokens."""
        names, ends = self.names, self.ends
        place = bisect_right(ends, start)
        first = names[place], start - (ends[place - 1] if place else 0)
        if start + size <= ends[place]:
            return first
        pieces = [first]
        while ends[place] < start + size:
            place += 1
            pieces.append((names[place], ends[place - 1] - start))
        return tuple(pieces)

    def agrees(self, other: Text, start: int, limit: int) -> int:
        """Return the token, at most ``limit``, up to which two texts agree that are the same before ``start``."""
        if self is other:
            return limit
        ends, others = self.ends, other.ends
        mine, its = bisect_right(ends, start), bisect_right(others, start)
        if (ends[mine - 1] if mine else 0) != (others[its - 1] if its else 0):
            return start
        while start < limit and self.names[mine] == other.names[its]:
            start = min(ends[mine], others[its], limit)
            if ends[mine] != others[its]:
                break
            mine += 1
            its += 1
        return start


def text_of(request: Request, own: Hashable) -> Text:
    """Return the text of a request; what no other request can have gets the name ``own``."""
    prefix = request.prefix
    if prefix is None:
        return Text([], own)
    if isinstance(prefix, History):
        return Text([(("part", name), tokens) for name, tokens in prefix.parts if tokens], ("part", prefix.name))
    span, left = prefix.block_tokens, request.prompt_tokens
    if prefix.answer:
        left += request.output_tokens
    parts: list[tuple[Hashable, int]] = []
    for name in prefix.hash_ids:
        if left <= 0:
            break
        parts.append(((span, name), min(span, left)))
        left -= span
    return Text(parts, own)


class Node:
    """The tokens ``start`` to ``end`` of a text, behind those of its parent."""

    __slots__ = ("children", "end", "listed", "locks", "parent", "stamp", "start", "text")

    def __init__(self, text: Text, start: int, end: int, parent: Node | None) -> None:
        self.text = text
        self.start = start
        self.end = end
        self.parent = parent
        self.children: dict[Hashable, Node] = {}
        self.locks = 0  # sequences that use the node, or one behind it
        self.stamp = 0  # when it was used last
        self.listed = False  # whether it stands in the queue of those to be evicted


class RadixTree:
    """Texts with their common beginnings, in pages of ``page`` tokens."""

    __slots__ = ("_clock", "page", "root")

    def __init__(self, page: int = 1) -> None:
        self.page = page
        self.root = Node(Text([], None), 0, 0, None)
        self._clock = 0

    def match(self, text: Text, most: int) -> Node:
        """Return the node at which the longest known beginning of at most ``most`` tokens of a text ends.

        All nodes on the way are marked as used now; one in which the beginning ends is split there.
        """
        self._clock += 1
        node = self.root
        most -= most % self.page
        while node.end < most:
            child = node.children.get(text.page(node.end, self.page))
            if child is None:
                break
            child.stamp = self._clock
            reached = text.agrees(child.text, node.end, min(child.end, most))
            reached -= reached % self.page
            if reached < child.end:
                return self._split(child, reached) if reached > node.end else node
            node = child
        return node

    def insert(self, text: Text, tokens: int) -> tuple[Node, int]:
        """Store the full pages of the first ``tokens`` tokens of a text; return their last node, and what was known."""
        node = self.match(text, tokens)
        known = node.end
        tokens -= tokens % self.page
        if tokens > known:
            leaf = Node(text, known, tokens, node)
            leaf.stamp = self._clock
            node.children[text.page(known, self.page)] = leaf
            node = leaf
        return node, known

    def remove(self, leaf: Node) -> Node:
        """Take out a node without children; return its parent."""
        parent = leaf.parent
        assert parent is not None
        assert not leaf.children
        del parent.children[leaf.text.page(leaf.start, self.page)]
        leaf.parent = None
        return parent

    def _split(self, node: Node, place: int) -> Node:
        """Divide a node at token ``place``; return its front part, which all that use the node use too."""
        parent = node.parent
        assert parent is not None
        front = Node(node.text, node.start, place, parent)
        front.locks, front.stamp = node.locks, node.stamp
        parent.children[node.text.page(node.start, self.page)] = front
        front.children[node.text.page(place, self.page)] = node
        node.start, node.parent = place, front
        return front
