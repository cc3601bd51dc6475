"""How many KV-cache blocks a sequence holds, and how many are free.

Blocks are counted, not named: a block is `block_size` tokens of one cache group, and all groups draw
on one pool (vLLM's hybrid allocator).  A group of full attention keeps every block of a sequence; a
group with a window gives back the blocks that lie wholly behind it, just before the next tokens are
allocated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmsim.schedulers.sequence import Sequence


@dataclass(frozen=True, slots=True)
class BlockGroup:
    """Cache groups that behave alike: ``copies`` blocks of the pool for each ``block_size`` tokens.

    ``window`` is the number of tokens that a query sees, None for all of them.
    """

    window: int | None
    copies: int = 1


class BlockPool:
    """The free blocks of one engine and the rule that says who needs how many.

    Args:
        blocks: usable blocks (vLLM's `num_gpu_blocks` less the null block).
        block_size: tokens in a block.
        groups: the cache groups of the model, at least one.
        max_chunk: the most tokens one step computes of one sequence; bounds what a window group holds.
        constant: blocks that a sequence holds whatever its length: the state of recurrent layers.
    """

    __slots__ = ("block_size", "blocks", "caches", "constant", "copies", "free", "groups", "max_chunk", "windows")

    def __init__(
        self,
        blocks: int,
        block_size: int,
        groups: tuple[BlockGroup, ...] = (BlockGroup(None),),
        *,
        max_chunk: int = 0,
        constant: int = 0,
    ) -> None:
        self.constant = constant
        self.blocks = blocks
        self.block_size = block_size
        self.groups = groups
        self.max_chunk = max_chunk
        self.free = blocks
        self.caches = False  # whether anything can be found again (`PrefixCache`)
        self.copies = sum(group.copies for group in groups)
        self.windows = tuple(sorted((group.window, group.copies) for group in groups if group.window is not None))

    def held(self, computed: int, before: int) -> int:
        """Return the blocks of a sequence with ``computed`` tokens whose last step started at ``before``."""
        held = self.constant + -(-computed // self.block_size) * self.copies
        for window, copies in self.windows:
            held -= copies * (max(0, before - window + 1) // self.block_size)
        return held

    def needed(self, tokens: int) -> int:
        """Return the blocks that must be free to admit a sequence of ``tokens`` tokens as a whole.

        A window group never holds more than the window and one step's tokens, so admission asks for
        no more than that (vLLM's admission cap).
        """
        needed = self.constant + -(-tokens // self.block_size) * self.copies
        for window, copies in self.windows:
            most = -(-(window - 1 + self.max_chunk) // self.block_size) + 1
            needed -= copies * max(0, -(-tokens // self.block_size) - most)
        return needed

    def most_held(self, tokens: int) -> int:
        """Return the most blocks a sequence can hold while it grows to ``tokens`` tokens."""
        return self.needed(tokens)

    # ------------------------------------------------------------------ prefix caching, which a plain pool does not do

    def match(self, sequence: Sequence) -> tuple[int, int]:
        """Return the blocks of a sequence's beginning that are cached, and how many of them lie free."""
        return 0, 0

    def take(self, sequence: Sequence, hits: int) -> None:
        """Let a sequence hold the blocks that were found."""

    def name(self, sequence: Sequence, tokens: int) -> None:
        """Make the full blocks of the first ``tokens`` tokens findable."""

    def extend(self, sequence: Sequence, tokens: int) -> bool:
        """Take the blocks for ``tokens`` more tokens of a sequence; False, and nothing taken, if they are not free."""
        # What falls behind a window is freed before the new tokens are allocated.
        held = self.held(sequence.computed + tokens, sequence.computed)
        if held - sequence.blocks > self.free:
            return False
        self.free -= held - sequence.blocks
        sequence.blocks = held
        return True

    def release(self, sequence: Sequence, known: int) -> None:
        """Free a sequence's blocks, of which the first ``known`` tokens have been computed for good."""
        self.free += sequence.blocks
        sequence.blocks = 0
