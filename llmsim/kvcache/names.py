"""Names of blocks: equal names mean equal tokens from the first to the block's end."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from llmsim.workload.request import History, Request

Contents = Callable[[Request, int], list[Hashable]]


class BlockNames:
    """Gives every block of a shareable text a number, the same whenever the same text comes back.

    A text that is told as contents of blocks (`Prefix`) is a chain: a block's name follows from the name before it
    and its own content.  A `History` needs no chain: all blocks that end in one of its parts are told apart by
    what lies in front of the part, so a turn's names are those of the turn before it, and some more.

    Args:
        block_size: tokens in a block.
        contents: what the shareable blocks of a request hold, in order; requests whose lists begin alike
            share those blocks.  The default reads `Request.prefix`.
    """

    __slots__ = ("_block_size", "_chains", "_contents", "_given", "_parts")

    def __init__(self, block_size: int, contents: Contents | None = None) -> None:
        self._block_size = block_size
        self._contents = contents
        self._chains: dict[tuple[int, Hashable], int] = {}
        self._parts: dict[tuple[tuple[tuple[str, int], ...], str], list[int]] = {}
        self._given = 0

    def of(self, request: Request) -> list[int]:
        """Return the names of a request's shareable blocks, in order."""
        if self._contents is not None:
            return self._chained(self._contents(request, self._block_size))
        if isinstance(request.prefix, History):
            return self._told(request.prefix, findable_tokens(request))
        return self._chained(prefix_contents(request, self._block_size))

    def _chained(self, contents: list[Hashable]) -> list[int]:
        chains, found, parent = self._chains, [], 0
        for content in contents:
            key = (parent, content)
            known = chains.get(key)
            if known is None:
                self._given += 1
                known = chains[key] = self._given
            found.append(known)
            parent = known
        return found

    def _told(self, history: History, tokens: int) -> list[int]:
        """Return the names of the full blocks among the first ``tokens`` tokens of a history."""
        blocks = tokens // self._block_size
        found: list[int] = []
        end = 0
        for depth, (name, count) in enumerate(history.parts):
            end += count
            self._extend(found, (history.parts[:depth], name), min(end // self._block_size, blocks))
        self._extend(found, (history.parts, history.name), blocks)
        return found

    def _extend(self, found: list[int], part: tuple[tuple[tuple[str, int], ...], str], end: int) -> None:
        """Add the names of the blocks that end in ``part``, up to block ``end``."""
        wanted = end - len(found)
        if wanted <= 0:
            return
        known = self._parts.setdefault(part, [])
        if len(known) < wanted:
            before = self._given
            self._given += wanted - len(known)
            known.extend(range(before + 1, self._given + 1))
        found += known[:wanted]


def findable_tokens(request: Request) -> int:
    """Return the tokens of a request that are ever computed, prompt and answer: the last token is only sampled.

    Therefore the next turn finds at most floor((prompt + output - 1) / block size) blocks, as decisions
    recorded from vLLM 0.33's scheduler show.
    """
    return request.prompt_tokens + request.output_tokens - 1


def prefix_contents(request: Request, block_size: int) -> list[Hashable]:
    """Return the contents of a request's shareable blocks, from the identifiers of its prefix.

    An identifier stands for `Prefix.block_tokens` tokens, the last one for what is left of the text: the prompt,
    or, where the identifiers go on, prompt and answer.  A block of the engine lies in one or several of them; only
    blocks that the text fills are shareable.
    """
    prefix = request.prefix
    if prefix is None or isinstance(prefix, History):
        return []
    span, ids = prefix.block_tokens, prefix.hash_ids
    covered = min(findable_tokens(request) if prefix.answer else request.prompt_tokens, len(ids) * span)
    contents: list[Hashable] = []
    for start in range(0, covered - block_size + 1, block_size):
        first, last = start // span, (start + block_size - 1) // span
        contents.append((start % span, *ids[first : last + 1]))
    return contents
