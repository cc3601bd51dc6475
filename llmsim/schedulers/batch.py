"""What a scheduler decides: which tokens the next step, or the next steps, compute."""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmsim.kvcache.decode_group import DecodeGroup
    from llmsim.performance.step_cost import Epoch
    from llmsim.schedulers.sequence import Sequence
    from llmsim.schedulers.verify_group import Verification


class Batch:
    """One decision: chunks of single sequences, a group that decodes, and for how many steps it stands.

    Args:
        chunks: (sequence, tokens) to compute, in the order of scheduling; a batch with chunks stands
            for one step.
        decodes: sequences that compute one token each in every step, or None.
        steps: for how many consecutive steps the decision stands, unless it is trimmed.
        padded: what the chunks cost where that differs from the chunks: (new tokens, prefix) each.

    The engine fills in the rest: `contexts` and `growth` are the group's attended tokens and their
    growth a step (all layers, then each window), taken when the batch is formed; `sampling` are the
    sequences of `chunks` that get a token from this step, `ending` those among them for which it is the
    last one.  The timeline fills in `start_s` and `end_s`, and either the `epoch` with the steps of it that
    came before (`first_step`), or the `price` of the step (seconds, padded tokens, seconds of attention,
    compute's share of those), or, in a pipeline, the `rounds`: start and mean busy seconds of each step.
    `regular` is the number of sequences of the group that get a token in every step.  With speculative decoding
    `verified` says which drafts the step verifies, and `draft_s` the seconds that it spends on new ones.
    """

    __slots__ = (
        "admitted", "chunks", "contexts", "count", "decodes", "draft_s", "end_s", "ending", "epoch", "first_step",
        "formed_s", "gauges", "growth", "interrupted", "padded", "preempted", "price", "regular", "rounds", "sampling",
        "start_s", "steps", "verified", "version",
    )  # fmt: skip

    formed_s: float
    start_s: float
    end_s: float
    first_step: int
    gauges: tuple[int, int, int]
    price: tuple[float, int, float, float]

    def __init__(
        self,
        chunks: list[tuple[Sequence, int]],
        decodes: DecodeGroup | None = None,
        steps: int = 1,
        *,
        padded: list[tuple[int, int]] | None = None,
    ) -> None:
        self.chunks = chunks
        self.decodes = decodes
        self.steps = steps
        self.padded = padded
        self.admitted: Many[Sequence] = ()
        self.preempted: Many[Sequence] = ()
        self.interrupted: Many[Sequence] = ()
        self.ending: list[Sequence] = []
        self.sampling: list[Sequence] = []
        self.epoch: Epoch | None = None
        self.rounds: list[tuple[float, float]] | None = None
        self.verified: Verification | None = None
        self.draft_s = 0.0
        self.contexts: tuple[int, ...]
        self.growth: tuple[int, ...]
        if decodes is None:
            self.count = self.version = 0
            self.contexts = self.growth = ()
        else:
            self.count = decodes.count
            self.version = decodes.version
            self.contexts, self.growth = decodes.attended()
        self.regular = self.count

    def count_chunks(self) -> None:
        """Count the chunks as computed, and find who gets a token from this step, and for whom it is the last one."""
        for sequence, tokens in self.chunks:
            sequence.computed += tokens
            if sequence.computed == sequence.total:
                sequence.total += 1
                sequence.generated += 1
                self.sampling.append(sequence)
                if sequence.done:
                    self.ending.append(sequence)

    def take_seats(self, partial: dict[Sequence, None]) -> None:
        """Note in each chunk's sequence that it is in this batch, and in ``partial`` which prompts go on after it."""
        for sequence, tokens in self.chunks:
            sequence.slot = self
            if tokens < sequence.remaining:
                partial[sequence] = None
            else:
                partial.pop(sequence, None)

    def not_begun(self, settled: Batch) -> int:
        """Return the blocks that this batch, formed before ``settled`` ended, has reserved for steps after its first.

        They are still free when the batch before it settles, and what they hold is still cached.
        """
        if self is settled or self.decodes is None or self.steps == 1:
            return 0
        return self.decodes.taken(self.decodes.clock - self.steps + 1, self.steps - 1)

    @property
    def tokens(self) -> int:
        """Tokens that one step of the batch computes."""
        return self.count + sum(tokens for _, tokens in self.chunks)
