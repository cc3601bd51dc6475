"""What a step with speculative decoding costs: the target verifies drafts, then new ones are proposed.

The target's pass computes ``1 + k`` tokens of each decoding sequence beside the chunks of prompts.  All of them go
through the output matrix and the sampler.  A draft of its own then runs k times: once over the same tokens, for its
cache, and k - 1 times over one token of each sequence (vLLM, ``EagleProposer.propose``, vllm/v1/spec_decode, from
memory of versions before 0.33).  Look-ups in the text (ngram) run on the host; their time was not measured and is not
charged: without asynchronous scheduling, which they switch off, the host's share of the step shows anyhow.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import Any

import numpy as np

from llmsim.engine_options import EngineOptions
from llmsim.performance.step_cost import Floats, Kind, StepCost


class DraftCost:
    """What the proposal of drafts costs, by tables as in `StepCost`.

    Args:
        prices: of the draft model or layer (as `StagePrices`, `DraftPrices`).
        options: the engine's options, with `speculation`.
        rows: the most sequences of a step.
        tokens: the most tokens of a step that are tabulated.
    """

    def __init__(self, prices: Any, options: EngineOptions, rows: int, tokens: int) -> None:
        assert options.speculation is not None
        self.prices = prices
        self._passes = options.speculation.tokens
        self._padded = options.padded
        self.linear_kinds: Floats = prices.linear(np.maximum(np.arange(tokens + 1, dtype=float), 1.0))
        self.head_kinds: Floats = prices.head(np.maximum(np.arange(rows + 1, dtype=float), 1.0))
        self._linear: list[float] = self.linear_kinds.sum(axis=0).tolist()
        self._head: list[float] = self.head_kinds.sum(axis=0).tolist()
        counts = np.maximum(np.arange(rows + 1, dtype=float), 1.0)
        # Without graphs the host launches each kernel of each pass; with them it hides (see `HostWork`).
        self.host: list[float] = (prices.host(counts, counts) * (self._passes if prices.host_bound else 0)).tolist()

    def seconds(
        self, chunks: Many[tuple[int, int]], decodes: int, context: float, longest: float, verified: int, padded: int
    ) -> float:
        """Return the seconds of all passes behind a step of ``padded`` tokens.

        Args:
            chunks: (new tokens, prefix) of prompts.
            decodes: sequences that decode.
            context: tokens that they attend to in all.
            longest: tokens that one of them attends to at most.
            verified: tokens of theirs that the step computes.
            padded: tokens of the step after padding.
        """
        prices, later = self.prices, self._passes - 1
        rows = decodes + len(chunks)
        linear, head = self._linear, self._head
        seconds = linear[padded] if padded < len(linear) else self._price("linear", padded)
        seconds += self._passes * (head[rows] if rows < len(head) else self._price("head", rows))
        queries = verified / decodes if decodes else 1.0
        every = context
        for new, prefix in chunks:
            every += new + prefix
            if new + prefix > longest:
                longest = new + prefix
        for group, window in enumerate(prices.windows):
            seen, seen_later, furthest = context, every, longest
            if window is not None:
                # Only the sum is known: as if all contexts were equally long.
                seen, seen_later = min(context, decodes * window), min(every, rows * window)
                furthest = min(longest, window)
            seconds += prices.verify_attention(group, chunks, decodes, seen, furthest, queries)[0]
            if later:
                seconds += later * prices.mixed_attention(group, (), rows, seen_later, furthest)[0]
        if later:
            size = self._padded(rows)
            seconds += later * (linear[size] if size < len(linear) else self._price("linear", size))
        return float(seconds)

    def _price(self, what: str, amount: int) -> float:
        return float(getattr(self.prices, what)(np.array([float(amount)])).sum())

    def kind_seconds(self, columns: dict[str, Floats]) -> Floats:
        """Return the seconds of each kind of the draft's prices in each row of a step log: [kinds, rows].

        Products and head are those of the tables; what is left is attention, split between compute and memory
        as the target's.
        """
        rows = (columns["decodes"] + columns["prefill_sequences"]).astype(np.int64)
        wide, deep = self.linear_kinds.shape[1] - 1, self.head_kinds.shape[1] - 1
        padded = columns["tokens_padded"].astype(np.int64)
        size = np.array([self._padded(int(count)) for count in rows], dtype=np.int64)
        seconds = self.linear_kinds[:, np.minimum(padded, wide)] * (padded / np.maximum(np.minimum(padded, wide), 1))
        seconds = seconds + (self._passes - 1) * self.linear_kinds[:, np.minimum(size, wide)]
        seconds = seconds + self._passes * self.head_kinds[:, np.minimum(rows, deep)]
        whole = columns["draft_s"]
        seconds = seconds * np.minimum(1.0, whole / np.maximum(seconds.sum(axis=0), 1e-30))
        rest = np.maximum(whole - seconds.sum(axis=0), 0.0)
        share = columns["attention_compute_share"]
        place = {kind: index for index, kind in enumerate(self.prices.kinds)}
        seconds[place["compute", "attention"]] += rest * share
        seconds[place["memory", "attention"]] += rest * (1.0 - share)
        return np.asarray(seconds)


class SpeculativeCost(StepCost):
    """The cost of the steps of one stage that verifies drafts and proposes new ones.

    Args:
        prices: prices of the target, with ``verify_attention`` (as `StagePrices` has it).
        options: the engine's options, with `speculation`.
        draft: prices of what proposes the drafts; None: it costs the device nothing.
        host_stretch: by how much host work is slowed down by others on the same cores.
        windows: the windows of the target's cache, ascending; None: those of the prices.
    """

    def __init__(
        self,
        prices: Any,
        options: EngineOptions,
        *,
        draft: Any = None,
        host_stretch: float = 1.0,
        windows: tuple[int, ...] | None = None,
    ) -> None:
        assert options.speculation is not None
        self.queries = 1 + options.speculation.tokens
        super().__init__(prices, options, host_stretch=host_stretch, windows=windows)
        self._verify_attention = prices.verify_attention
        self._draft = DraftCost(draft, options, self._batches, len(self._linear) - 1) if draft is not None else None
        rows = np.maximum(np.arange(self._batches * self.queries + 1, dtype=float), 1.0)
        self.head_kinds = prices.head(rows)
        self.head_kinds[:, 0] = 0.0
        self._head = self.head_kinds.sum(axis=0).tolist()

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the rows of `kind_seconds` stand for: the target's kinds, and each resource of the drafts."""
        return (*self.prices.kinds, *((resource, "draft") for resource in self._draft_resources()))

    def _draft_resources(self) -> tuple[str, ...]:
        if self._draft is None:
            return ()
        return tuple(dict.fromkeys(resource for resource, _ in self._draft.prices.kinds if resource != "host"))

    def verify_step(
        self,
        chunks: list[tuple[int, int]],
        decodes: int,
        contexts: tuple[int, ...],
        longest: int,
        *,
        verified: int,
        rows: int,
    ) -> tuple[tuple[float, int, float, float], float]:
        """Price a step in which ``decodes`` sequences compute ``verified`` tokens, beside chunks of prompts.

        Args:
            chunks: (new tokens, prefix).
            decodes: sequences that decode.
            contexts: tokens that they attend to: in layers that attend to everything, then in each window.
            longest: tokens that one of them attends to at most.
            verified: tokens that they compute in all.
            rows: rows that go through the output matrix and the sampler.

        Returns:
            as `StepCost.step`: seconds, tokens after padding, seconds of the target's attention and compute's
            share of those; and the seconds that the drafts take of the step.
        """
        tokens = verified
        for new, _ in chunks:
            tokens += new
        padded = self.options.padded(tokens)
        linear = self._linear[padded] if padded < len(self._linear) else self._price_linear(padded)
        attention = compute = 0.0
        queries = verified / decodes if decodes else 1.0
        for group, column in enumerate(self._columns):
            seconds, share = self._verify_attention(group, chunks, decodes, contexts[column], longest, queries)
            attention += seconds
            compute += seconds * share
        device = linear + attention + (self._head[rows] if rows < len(self._head) else self._price_head(rows))
        sequences = min(decodes + len(chunks), len(self._host) - 1)
        host = self._host[sequences]
        draft_s = 0.0
        if self._draft is not None:
            draft_s = self._draft.seconds(chunks, decodes, contexts[0], longest, verified, padded)
            device += draft_s
            host += self._draft.host[sequences] * self._stretch
        seconds = max(device, host) if self._hidden_host else device + host
        return (seconds, padded, attention, compute / attention if attention else 0.0), draft_s

    def kind_seconds(self, columns: dict[str, Floats]) -> Floats:
        """Return the seconds of each kind of work in one step of each row of a step log: [kinds, rows]."""
        known = self.prices.kinds
        padded = np.minimum(columns["tokens_padded"].astype(np.int64), self.linear_kinds.shape[1] - 1)
        rows = np.minimum(columns["sampled_rows"].astype(np.int64), self.head_kinds.shape[1] - 1)
        scale = columns["tokens_padded"] / np.maximum(padded, 1)
        seconds = np.zeros((len(self.kinds), len(padded)))
        seconds[: len(known)] = self.linear_kinds[:, padded] * scale + self.head_kinds[:, rows]
        place = {kind: index for index, kind in enumerate(self.kinds)}
        share = columns["attention_compute_share"]
        seconds[place["compute", "attention"]] += columns["attention_s"] * share
        seconds[place["memory", "attention"]] += columns["attention_s"] * (1.0 - share)
        if self._draft is not None:
            for kind, spent in zip(self._draft.prices.kinds, self._draft.kind_seconds(columns), strict=True):
                if kind[0] != "host":
                    seconds[place[kind[0], "draft"]] += spent
        if self._stretch:
            seconds[place["host", "none"]] += np.maximum(columns["busy_s"] - seconds.sum(axis=0), 0.0)
        return seconds
