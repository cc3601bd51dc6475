"""What SGLang lets into a step with prompts, and how much it believes that those who run will still need.

Source: SGLang 0.5, ``managers/schedule_policy.py`` (``PrefillAdder``), ``managers/scheduler.py``
(``new_token_ratio``) and ``environ.py``, from memory; all figures in tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmsim.errors import ScenarioError

INITIAL_RATIO = 0.7  # SGLANG_INIT_NEW_TOKEN_RATIO
LEAST_RATIO_FACTOR = 0.14  # SGLANG_MIN_NEW_TOKEN_RATIO_FACTOR
DECAY_STEPS = 600  # SGLANG_NEW_TOKEN_RATIO_DECAY_STEPS
MOST_NEW_TOKENS = 4096  # SGLANG_CLIP_MAX_NEW_TOKENS_ESTIMATION
RETRACT_DECODE_STEPS = 20  # SGLANG_RETRACT_DECODE_STEPS


class NewTokenRatio:
    """The part of their remaining tokens that running requests are believed to need.

    It falls with every step that only decodes, and is estimated anew when requests had to be retracted.

    Args:
        conservativeness: ``--schedule-conservativeness``.

    Raises:
        ScenarioError: the conservativeness is negative.
    """

    __slots__ = ("_decay", "_initial", "_least", "_start", "_steps")

    def __init__(self, conservativeness: float) -> None:
        if not conservativeness >= 0:
            raise ScenarioError(
                f"scheduler.schedule_conservativeness: needs a number of at least 0 (got {conservativeness:g})"
            )
        self._initial = min(INITIAL_RATIO * conservativeness, 1.0)
        self._least = min(self._initial * LEAST_RATIO_FACTOR, 1.0)
        self._decay = (self._initial - self._least) / DECAY_STEPS
        self.reset()

    @property
    def value(self) -> float:
        """The ratio now, the same to the last bit whether the steps were counted one by one or together."""
        return max(self._start - self._decay * self._steps, self._least) if self._steps else self._start

    def reset(self) -> None:
        """Begin anew: the engine is idle."""
        self._start = self._initial
        self._steps = 0

    def count(self, steps: int) -> None:
        """Count steps that only decode; negative takes them back."""
        self._steps += steps

    def estimate(self, outputs: Iterable[tuple[int, int]]) -> None:
        """Work the ratio out from who was left after a retraction: (tokens so far, tokens at most) of each."""
        left = list(outputs)
        so_far = sum(tokens for tokens, _ in left) + RETRACT_DECODE_STEPS * len(left)
        self._start = min(1.0, so_far / (sum(most for _, most in left) + 1))
        self._steps = 0


class PrefillBudget:
    """What a step with prompts may still take.

    Args:
        page: tokens in a block.
        prompt_tokens: ``max_prefill_tokens``.
        chunk_tokens: ``chunked_prefill_size``, None without chunks.
        decodes: sequences that decode in the same step (``enable_mixed_chunk``).
        reserved: tokens that those who run are believed to need.
    """

    __slots__ = ("_page", "chunk_left", "prompt_left", "reserved", "taken")

    def __init__(
        self, page: int, prompt_tokens: int, chunk_tokens: int | None, *, decodes: int, reserved: float
    ) -> None:
        self._page = page
        self.prompt_left = prompt_tokens - decodes
        self.chunk_left = None if chunk_tokens is None else chunk_tokens - decodes
        self.reserved = reserved + decodes
        self.taken = decodes

    def whole_pages(self, tokens: int) -> int:
        """Return ``tokens`` rounded up to full pages."""
        return -(-tokens // self._page) * self._page

    def continued(self, wanted: int, free: int) -> int:
        """Return the tokens of the prompt under way; it always gets some, for it holds blocks."""
        assert self.chunk_left is not None
        most = self.chunk_left
        by_blocks = int(min(free - self.reserved, most))
        if by_blocks >= self._page:
            most = by_blocks
        most = max(most - most % self._page, self._page)
        return min(wanted, most)

    def first(self, wanted: int) -> int:
        """Return the tokens of a newcomer that go into this step, 0 if not one page of them does."""
        left = self.chunk_left
        if left is None or self.whole_pages(wanted) <= left:
            return wanted
        return max(0, left - left % self._page)

    def take(self, tokens: int, new_tokens: int) -> None:
        """Count tokens that are computed in the step, and those that are expected after it."""
        tokens = self.whole_pages(tokens)
        self.reserved += tokens + new_tokens
        self.taken += tokens
        self.prompt_left -= tokens
        if self.chunk_left is not None:
            self.chunk_left -= tokens

    def out_of_blocks(self, free: int) -> bool:
        """Say whether nobody else can be let in for want of blocks."""
        return free - self.reserved <= 0 or free - self.taken <= 0

    def out_of_tokens(self) -> bool:
        """Say whether nobody else can be let in because the step is full."""
        return self.prompt_left <= 0 or (self.chunk_left is not None and self.chunk_left <= 0)
