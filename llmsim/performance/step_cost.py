"""What a step costs, fast: tables built once, a look-up for a step, a closed form for a leap.

The time of a step that only decodes is a function of the batch size B and of the attended tokens.  At a
fixed B it is tabulated over the mean context L at some knots and runs linearly between them, so the
time of n steps, in which L grows by one each, is a sum of arithmetic series.  Stepping and leaping
evaluate the same sum, from the same start, so they agree to the last bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence as Many
from math import ceil
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from llmsim.engine_options import EngineOptions

Floats = NDArray[np.float64]
Kind = tuple[str, str]

# Prices of up to this many tokens a step are tabulated one by one; beyond, they are computed when met.
MOST_TABULATED = 16384
# The load at which the duty cycle of links is taken: sequences, and tokens that each attends to.
MIDDLING_BATCH = 32
MIDDLING_CONTEXT = 1000
# More steps than any output has.
MOST_STEPS = 1 << 62


class Prices(Protocol):
    """The prices of one pipeline stage in seconds, by kind of work (see `StagePrices`).

    ``windows`` gives, for each cache group of the stage, the window of its layers or None; ``host_layers`` how many
    layers the host counts.
    """

    kinds: tuple[Kind, ...]
    windows: tuple[int | None, ...]
    host_layers: float

    @property
    def host_table_us(self) -> tuple[float, float, float]:
        """Microseconds of the host a step, a layer and a sequence, without what a stack's own numbers say."""
        ...

    @property
    def host_bound(self) -> bool:
        """Whether the host launches beside the device, so that a step takes the longer of the two."""
        ...

    def linear(self, tokens: Floats) -> Floats:
        """Price what depends on the tokens of a step: [kinds, len(tokens)]."""
        ...

    def head(self, rows: Floats) -> Floats:
        """Price the head and the sampler for ``rows`` sequences: [kinds, len(rows)]."""
        ...

    def decode_attention(self, group: int, batch: Floats, context: Floats) -> Floats:
        """Price attention of ``batch`` sequences at mean context ``context``: [kinds, n]."""
        ...

    def mixed_attention(
        self, group: int, chunks: Many[tuple[int, int]], decodes: int, context_sum: float, longest_context: float
    ) -> tuple[float, float]:
        """Price attention of a step with prefill chunks (tokens, prefix): seconds, share of compute."""
        ...

    def host(self, sequences: Floats, tokens: Floats) -> Floats:
        """Price the host's work for a step: seconds [n]."""
        ...


Curve = tuple[list[float], list[float], list[float], float, float]  # knots, values, slopes, level, rate


class Epoch:
    """A run of steps of one composition and one price, anchored at the end of what came before.

    Step j of the epoch ends at ``anchor_s + after(j)``.  Each curve is a piecewise linear price (knots,
    values, slopes), entered at a mean context ``level`` that grows by ``rate`` a step.  Up to the first knot
    on the way the sum over steps is one arithmetic series; `_straight` says how many steps that is.
    """

    __slots__ = ("_curves", "_first_s", "_more_s", "_straight", "anchor_s", "count", "version")

    def __init__(self, anchor_s: float, version: int, count: int, curves: Many[Curve]) -> None:
        self.anchor_s = anchor_s
        self.version = version
        self.count = count
        self._curves = curves
        straight = MOST_STEPS
        first_s = more_s = 0.0
        for knots, values, slopes, level, rate in curves:
            last = len(slopes) - 1
            place = bisect_right(knots, level) - 1
            if place < 0:
                place = 0
            elif place >= last:
                place = last
            slope = slopes[place]
            first_s += values[place] + (level - knots[place]) * slope
            if rate > 0.0:
                more_s += slope * rate
                if place < last:
                    steps = int((knots[place + 1] - level) / rate)
                    if steps < straight:
                        straight = steps
        self._first_s = first_s
        self._more_s = more_s
        self._straight = straight

    def after(self, steps: int) -> float:
        """Return the seconds from the anchor to the end of step ``steps``."""
        if steps <= self._straight:
            return steps * self._first_s + self._more_s * (steps * (steps - 1) * 0.5)
        return sum(_cumulated(*curve, steps) for curve in self._curves)

    def end(self, steps: int) -> float:
        """Return the moment at which step ``steps`` ends."""
        if steps <= self._straight:
            return self.anchor_s + (steps * self._first_s + self._more_s * (steps * (steps - 1) * 0.5))
        return self.anchor_s + self.after(steps)

    def duration(self, step: int) -> float:
        """Return the seconds that step ``step`` (1, 2, ...) takes."""
        if step <= self._straight:
            return self._first_s + self._more_s * (step - 1)
        return self.after(step) - self.after(step - 1)

    def step_at(self, moment_s: float, low: int, low_s: float, high: int, high_s: float) -> int:
        """Return the first step, ``low`` < step <= ``high``, that ends at ``moment_s`` or later.

        ``low_s`` and ``high_s`` are the ends of those two steps.  Steps take nearly equal time, so a
        straight line between the ends guesses the step; `end` itself decides, so that the answer is the
        one that stepping would find.
        """
        end = self.end
        while high - low > 1:
            guess = low + int((moment_s - low_s) / (high_s - low_s) * (high - low)) + 1
            guess = min(max(guess, low + 1), high - 1)
            guess_s = end(guess)
            if guess_s >= moment_s:
                high, high_s = guess, guess_s
                if high - low > 1:
                    before_s = end(high - 1)
                    if before_s < moment_s:
                        return high
                    high, high_s = high - 1, before_s
            else:
                low, low_s = guess, guess_s
        return high


def _cumulated(
    knots: list[float], values: list[float], slopes: list[float], level: float, rate: float, steps: int
) -> float:
    """Sum a piecewise linear price over ``steps`` steps whose context starts at ``level`` and grows by ``rate``."""
    place = bisect_right(knots, level) - 1
    last = len(slopes) - 1
    if place < 0:
        place = 0
    elif place > last:
        place = last
    total = 0.0
    while True:
        slope = slopes[place]
        first = values[place] + (level - knots[place]) * slope
        if place == last or level + (steps - 1) * rate < knots[place + 1]:
            return total + steps * first + slope * rate * (steps * (steps - 1) * 0.5)
        here = max(1, ceil((knots[place + 1] - level) / rate))
        total += here * first + slope * rate * (here * (here - 1) * 0.5)
        steps -= here
        if steps <= 0:
            return total
        level += here * rate
        place += 1
        while place < last and knots[place + 1] <= level:
            place += 1


class StepCost:
    """The cost of the steps of one pipeline stage.

    Args:
        prices: prices of the stage.
        options: the engine's options: batch limits, CUDA graph sizes, asynchronous scheduling.
        host: whether the host's work is charged here (it is, once, on the first stage).
        host_stretch: by how much host work is slowed down by others on the same cores.
        windows: the windows of all stages, ascending; None: those of this one.

    Attributes:
        ranks: copies of attention, over which the sequences of a step are spread.  The tables are those of one rank.
    """

    ranks = 1

    def __init__(
        self,
        prices: Prices,
        options: EngineOptions,
        *,
        host: bool = True,
        host_stretch: float = 1.0,
        windows: tuple[int, ...] | None = None,
    ) -> None:
        self.prices = prices
        own = tuple(sorted({window for window in prices.windows if window is not None}))
        self.windows = own if windows is None else windows
        self.options = options
        self._hidden_host = options.async_scheduling or prices.host_bound
        self._stretch = host_stretch if host else 0.0
        self._mixed_attention = prices.mixed_attention
        # Through an encoder a prompt does not pass the decoder's layers, which begin with one token of their own.
        self._prompts_apart = bool(getattr(prices, "prompts_apart", False))
        self._batches = max(options.max_num_seqs, 1)
        self._most = min(options.max_num_batched_tokens, MOST_TABULATED)
        self._build()

    def _build(self) -> None:
        """Tabulate prices over tokens, sampled rows, and (batch size, context)."""
        options, prices = self.options, self.prices
        tokens = np.arange(0, max(self._most, options.padded(self._batches)) + 1, dtype=float)
        self.linear_kinds = prices.linear(np.maximum(tokens, 1.0))
        self.linear_kinds[:, 0] = 0.0
        rows = np.arange(0, self._batches + 1, dtype=float)
        self.head_kinds = prices.head(np.maximum(rows, 1.0))
        self.head_kinds[:, 0] = 0.0
        host = prices.host(np.maximum(rows, 1.0), np.maximum(rows, 1.0)) * self._stretch
        self._linear: list[float] = self.linear_kinds.sum(axis=0).tolist()
        self._head: list[float] = self.head_kinds.sum(axis=0).tolist()
        self._host: list[float] = host.tolist()
        # A full window is entered exactly at its size, so that must be a knot.
        grid = np.geomspace(64.0, max(131072.0, options.max_model_len), 23)
        self.knots = np.unique(np.concatenate(([1.0], grid, np.array(self.windows, dtype=float))))
        self._knots: list[float] = self.knots.tolist()
        padded = np.array([options.padded(count) for count in range(self._batches + 1)])
        fixed = self.linear_kinds.sum(axis=0)[padded] + self.head_kinds.sum(axis=0)
        grid_batch = np.repeat(rows[1:], len(self.knots))
        grid_context = np.tile(self.knots, len(rows) - 1)
        self.attention_kinds: list[Floats] = []
        tables = []
        whole = np.zeros((len(rows) - 1, len(self.knots)))
        for group, window in enumerate(prices.windows):
            context = grid_context if window is None else np.minimum(grid_context, window)
            kinds = prices.decode_attention(group, grid_batch, context)
            kinds = kinds.reshape(len(kinds), len(rows) - 1, len(self.knots))
            self.attention_kinds.append(kinds)
            # The table of a window is entered with the attended tokens, which never exceed the window.
            table = kinds.sum(axis=0)
            tables.append(table)
            whole += table
        device = whole + fixed[1:, None]
        exposed = np.maximum(host[1:, None] - device, 0.0) if self._hidden_host else np.repeat(
            host[1:, None], len(self.knots), axis=1
        )  # fmt: skip
        tables[0] = tables[0] + fixed[1:, None] + exposed
        self._tables = [(table.tolist(), (np.diff(table) / np.diff(self.knots)).tolist()) for table in tables]
        # Where the sums of a batch's contexts stand for each cache group: all layers first, then each window.
        self._columns = [0 if window is None else 1 + self.windows.index(window) for window in prices.windows]

    # ------------------------------------------------------------------ decode

    def epoch(
        self, anchor_s: float, version: int, count: int, contexts: tuple[int, ...], growth: tuple[int, ...]
    ) -> Epoch:
        """Return the epoch in which ``count`` sequences decode from summed ``contexts`` that grow by ``growth``."""
        knots, row = self._knots, (count - 1) // self.ranks
        if len(self._tables) == 1:
            values, slopes = self._tables[0]
            return Epoch(
                anchor_s, version, count, ((knots, values[row], slopes[row], contexts[0] / count, growth[0] / count),)
            )
        curves = [
            (knots, values[row], slopes[row], contexts[column] / count, growth[column] / count)
            for (values, slopes), column in zip(self._tables, self._columns, strict=True)
        ]
        return Epoch(anchor_s, version, count, curves)

    def decode_step(self, count: int, contexts: tuple[int, ...]) -> float:
        """Return the seconds of one step in which ``count`` sequences decode."""
        return self.epoch(0.0, 0, count, contexts, contexts).after(1)

    # ------------------------------------------------------------------ mixed steps

    def step(
        self,
        chunks: list[tuple[int, int]],
        decodes: int,
        contexts: tuple[int, ...],
        longest: int,
        sampled: int,
    ) -> tuple[float, int, float, float]:
        """Price a step with prefill chunks (tokens, prefix) beside ``decodes`` decoding sequences.

        Returns:
            seconds, tokens after padding, seconds of attention, and the share of those that compute bounds.
        """
        tokens = decodes
        for new, _ in chunks:
            tokens += new
        if self._prompts_apart:
            tokens = decodes + len(chunks)
        padded = self.options.padded(tokens)
        linear = self._linear[padded] if padded < len(self._linear) else self._price_linear(padded)
        attention = compute = 0.0
        mixed_attention = self._mixed_attention
        for group, column in enumerate(self._columns):
            seconds, share = mixed_attention(group, chunks, decodes, contexts[column], longest)
            attention += seconds
            compute += seconds * share
        device = linear + attention + (self._head[sampled] if sampled < len(self._head) else self._price_head(sampled))
        sequences = min(decodes + len(chunks), len(self._host) - 1)
        host = self._host[sequences]
        seconds = max(device, host) if self._hidden_host else device + host
        return seconds, padded, attention, compute / attention if attention else 0.0

    def _price_linear(self, tokens: int) -> float:
        return float(self.prices.linear(np.array([float(tokens)])).sum())

    def _price_head(self, rows: int) -> float:
        return float(self.prices.head(np.array([float(rows)])).sum())

    def communication_share(self) -> float:
        """Return the part of a decode step in which devices talk, the duty cycle of their links, at a middling load."""
        count = min(MIDDLING_BATCH, self._batches)
        row = self.linear_kinds[:, self.options.padded(count)]
        talk = sum(row[index] for index, kind in enumerate(self.prices.kinds) if kind[0] == "communication")
        attended = (count * MIDDLING_CONTEXT, *(count * min(MIDDLING_CONTEXT, window) for window in self.windows))
        return float(talk / self.decode_step(count, attended))

    # ------------------------------------------------------------------ odometer

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """What the rows of `kind_seconds` stand for."""
        return self.prices.kinds

    def kind_seconds(self, columns: dict[str, Floats]) -> Floats:
        """Return the seconds of each kind of work in one step of each row of a step log: [kinds, rows].

        The step in the middle of a leap stands for all of its steps.  What the kinds do not explain of the
        stage's busy time is host time that shows.
        """
        kinds = self.prices.kinds
        decodes = columns["decodes"].astype(np.int64)
        seconds = self.outside_kinds(columns)
        mixed = columns["prefill_sequences"] > 0
        place = {kind: index for index, kind in enumerate(kinds)}
        attention = np.where(mixed, columns["attention_s"], 0.0)
        share = columns["attention_compute_share"]
        seconds[place["compute", "attention"]] += attention * share
        seconds[place["memory", "attention"]] += attention * (1.0 - share)
        pure = np.flatnonzero(~mixed & (decodes > 0))
        if len(pure):
            seconds[:, pure] += self._decode_kinds(columns, pure, decodes[pure])
        if self._stretch:
            seconds[place["host", "none"]] += np.maximum(columns["busy_s"] - seconds.sum(axis=0), 0.0)
        return np.asarray(seconds)

    def outside_kinds(self, columns: dict[str, Floats]) -> Floats:
        """Return the seconds of each kind of work outside of attention's kernels: [kinds, rows]."""
        padded = np.minimum(columns["tokens_padded"].astype(np.int64), self.linear_kinds.shape[1] - 1)
        sampled = np.minimum(columns["sampled_rows"].astype(np.int64), self.head_kinds.shape[1] - 1)
        scale = columns["tokens_padded"] / np.maximum(padded, 1)
        return np.asarray(self.linear_kinds[:, padded] * scale + self.head_kinds[:, sampled])

    def _decode_kinds(self, columns: dict[str, Floats], rows: NDArray[np.int64], count: NDArray[np.int64]) -> Floats:
        """Interpolate the kinds of attention at the middle of each leap: [kinds, rows]."""
        line = np.minimum((count - 1) // self.ranks, self._batches - 1)
        count = count if self.ranks > 1 else line + 1
        context = columns["context"][rows] / count + 0.5 * (columns["steps"][rows] - 1.0)
        total = np.zeros((len(self.prices.kinds), len(rows)))
        for table, window in zip(self.attention_kinds, self.prices.windows, strict=True):
            level = context if window is None else np.minimum(context, window)
            place = np.clip(np.searchsorted(self.knots, level, side="right") - 1, 0, len(self.knots) - 2)
            part = (level - self.knots[place]) / (self.knots[place + 1] - self.knots[place])
            total += table[:, line, place] * (1.0 - part) + table[:, line, place + 1] * part
        return total
