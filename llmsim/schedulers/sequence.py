"""A request under way in an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmsim.workload.request import Request

if TYPE_CHECKING:
    from llmsim.kvcache.prefix import Block, Run
    from llmsim.schedulers.batch import Batch


class Sequence:
    """One request in one engine: what is computed, what is held, and the moments that matter.

    There is no prefill and no decode phase: ``total - computed`` tokens remain to be computed, and a
    step that brings ``computed`` up to ``total`` samples one more token.  A preemption sets
    ``computed`` back to zero and leaves ``total`` as it is.

    Attributes:
        arrival: its number in the order of arrival, which breaks ties of arrival times.
        order: its number in the order of admission, which is the order of service.
        target: output tokens after which the sequence ends.
        total: prompt tokens and generated tokens.
        computed: tokens whose keys and values have been computed, counting scheduled steps.
        generated: output tokens, counting scheduled steps.
        blocks: KV-cache blocks held.
        found, cached_tokens: prompt tokens found in the cache at the last and at the first admission.
        given: its tokens, prompt and output, at the last admission.
        gone: whether its client has given up, or it has ended before anybody could foresee it.
        base, ticket: its place in a `DecodeGroup`; meaningless outside of one.
        slot: the group or the batch in flight that it is in, None otherwise.
        last_token_s: when the last token came, None while tokens come at every step of the engine.
        names, named, own_run: its shareable blocks' names, those of them it holds, and the blocks of its own
            that a preemption has left in the cache (see `PrefixCache`).
        begins: the batch in flight with which it begins to run, None otherwise.
        first_row: row of the engine's step log with which it began to run, less than 0 while it does not.
        ranges: first and last rows of the stretches in which it ran before.
    """

    __slots__ = (
        "admitted_s", "arrival", "base", "begins", "blocks", "cached_tokens", "computed", "first_row", "first_token_s",
        "found", "generated", "given", "gone", "last_token_s", "named", "names", "order", "own_run", "preemptions",
        "ranges", "request", "slot", "target", "ticket", "total",
    )  # fmt: skip

    def __init__(self, request: Request, target: int, arrival: int = 0) -> None:
        self.request = request
        self.target = target
        self.arrival = arrival
        self.order = 0
        self.total = request.prompt_tokens
        self.computed = 0
        self.generated = 0
        self.blocks = 0
        self.base = 0
        self.ticket = 0
        self.found = 0
        self.given = 0
        self.cached_tokens = 0
        self.gone = False
        self.preemptions = 0
        self.admitted_s: float | None = None
        self.first_token_s: float | None = None
        self.last_token_s: float | None = None
        self.first_row = -1
        self.begins: Batch | None = None
        self.ranges: list[tuple[int, int]] = []
        self.slot: object = None
        self.names: list[int] | None = None
        self.named: list[Block] = []
        self.own_run: Run | None = None

    @property
    def remaining(self) -> int:
        """Tokens that remain to be computed before the next token is sampled."""
        return self.total - self.computed

    @property
    def done(self) -> bool:
        """Whether the last token has been scheduled."""
        return self.generated >= self.target

    @property
    def importance(self) -> tuple[int, float, int]:
        """Rank by priority, then by arrival; the least comes first."""
        return self.request.priority, self.request.arrival_s, self.arrival

    def __repr__(self) -> str:
        """Show what a person who debugs a scheduler wants to see."""
        return f"Sequence({self.request.id}: {self.computed}/{self.total} computed, {self.generated}/{self.target} out)"
