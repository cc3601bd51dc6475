"""When batches begin and end: one device group, or a pipeline of them.

A timeline knows prices and moments, and nothing of queues.  `place` says when a batch ends; a batch
that stands for many steps is found at its right step at any moment, so it can be cut short there.
"""

from __future__ import annotations

from array import array
from collections import deque
from math import inf
from typing import Protocol

from llmsim.performance.speculative_cost import SpeculativeCost
from llmsim.performance.step_cost import Epoch, StepCost
from llmsim.schedulers.batch import Batch


class Timeline(Protocol):
    """The moments of the batches that are in flight, in the order in which they end.

    Attributes:
        in_flight: the batches; ``end_s`` of the first is when it, or the step of it that runs, ends.
        busy_until_s: when the last step that has been placed ends.
        opens_s: the moment from which one more batch may be formed; minus infinity: at once.
        rounds: whether leaps go round step by step, and are logged so.
        stage_moments: of each step sent, when it began and ended on each stage; None: there is one stage.
    """

    in_flight: deque[Batch]
    busy_until_s: float
    opens_s: float
    rounds: bool
    stage_moments: array[float] | None

    def place(self, batch: Batch) -> None:
        """Price a batch that was just formed, and set when it starts and ends."""
        ...

    def pop(self) -> Batch:
        """Let go the batch that has ended."""
        ...

    def ends_s(self) -> float:
        """Return when the next batch is through with all its steps."""
        ...

    def run_to(self, moment_s: float) -> list[tuple[Batch, int, float]]:
        """Bring leaps up to the steps that have begun before ``moment_s``.

        Returns:
            the steps that have ended, in the order of their ends: batch, number of the step, end.
        """
        ...

    def ended(self, batch: Batch, moment_s: float) -> int:
        """Return how many steps of a batch in flight have ended by ``moment_s``."""
        ...

    def cut(self, moment_s: float) -> list[tuple[Batch, int]]:
        """Return the leaps in flight, and how many steps of each have been formed by ``moment_s``."""
        ...

    def shorten(self, batch: Batch) -> None:
        """Take note that ``batch.steps`` was lowered."""
        ...

    def reprice(self, costs: list[StepCost]) -> None:
        """Use other costs, one for each stage, for all batches placed from now on."""
        ...


def price_rows(batch: Batch, windows: tuple[int, ...]) -> tuple[list[tuple[int, int]], int, tuple[int, ...], int, int]:
    """Return what a step with chunks is priced by; called before the chunks are counted as computed.

    Chunks of a single token that continue an output are decodes like those of the group.

    Returns:
        chunks (tokens, prefix), decoding sequences, their summed contexts, the longest, sampled rows.
    """
    chunks = []
    decodes = sampled = batch.count
    contexts = list(batch.contexts or (0,) * (1 + len(windows)))
    # The group's clock has moved past this step already.
    longest = batch.decodes.longest() - 1 if batch.decodes is not None else 0
    for sequence, tokens in batch.chunks:
        computed = sequence.computed
        sampled += computed + tokens == sequence.total
        if tokens == 1 and sequence.generated and computed:
            decodes += 1
            contexts[0] += computed + 1
            for place, window in enumerate(windows):
                contexts[1 + place] += min(computed + 1, window)
            longest = max(longest, computed + 1)
        else:
            chunks.append((tokens, computed))
    return batch.padded or chunks, decodes, tuple(contexts), longest, sampled


class SingleStage:
    """One device group: batches run one after the other, whatever is formed ahead.

    Args:
        cost: the cost of a step.
        depth: batches in flight: 1, or 2 with asynchronous scheduling.
    """

    rounds = False

    def __init__(self, cost: StepCost, depth: int) -> None:
        self.stage_moments: array[float] | None = None
        self.cost = cost
        self.in_flight: deque[Batch] = deque()
        self.busy_until_s = -inf
        self._ahead = depth - 1
        self._epoch: Epoch | None = None
        self._group: object = None
        self._offset = 0
        self.opens_s = -inf

    def reprice(self, costs: list[StepCost]) -> None:
        """Use other costs for all batches placed from now on."""
        self.cost = costs[0]
        self._epoch = None

    def place(self, batch: Batch) -> None:
        """Put a batch behind the last one; a decode batch like the last one continues its epoch."""
        start = batch.start_s = max(batch.formed_s, self.busy_until_s)
        if batch.verified is not None:
            self._epoch = None
            batch.end_s = start + self._price_verified(batch)
        elif batch.chunks:
            chunks, decodes, contexts, longest, sampled = price_rows(batch, self.cost.windows)
            self._epoch = None
            if chunks:
                batch.price = price = self.cost.step(chunks, decodes, contexts, longest, sampled)
                batch.end_s = start + price[0]
            else:
                batch.epoch = self.cost.epoch(start, 0, decodes, contexts, (0,) * len(contexts))
                batch.first_step = 0
                batch.end_s = batch.epoch.end(1)
        else:
            epoch = self._epoch
            if (
                epoch is None
                or epoch.version != batch.version
                or self._group is not batch.decodes
                or start != self.busy_until_s
            ):
                epoch = self.cost.epoch(start, batch.version, batch.count, batch.contexts, batch.growth)
                self._epoch = epoch
                self._group = batch.decodes
                self._offset = 0
            batch.epoch = epoch
            batch.first_step = self._offset
            self._offset += batch.steps
            batch.end_s = epoch.end(self._offset)
        self.busy_until_s = batch.end_s
        self.in_flight.append(batch)
        self._set_opening(batch)

    def _price_verified(self, batch: Batch) -> float:
        """Price a step that verifies drafts and makes new ones; return its seconds."""
        done, cost = batch.verified, self.cost
        assert done is not None
        assert isinstance(cost, SpeculativeCost)
        chunks, decodes, contexts, longest, sampled = price_rows(batch, cost.windows)
        wasted, wasted_tokens, wasted_context = done.wasted
        batch.price, batch.draft_s = cost.verify_step(
            chunks,
            decodes + wasted,
            tuple(context + wasted_context for context in contexts) if wasted else contexts,
            longest,
            verified=done.tokens + wasted_tokens + decodes - batch.count,
            rows=done.tokens + wasted_tokens + sampled - batch.count,
        )
        return batch.price[0]

    def pop(self) -> Batch:
        """Let go the batch that has ended."""
        batch = self.in_flight.popleft()
        if not self.in_flight:
            self.opens_s = -inf
        return batch

    def _set_opening(self, last: Batch) -> None:
        """Work out from when a batch may be formed behind ``last``: as its last step begins, or when all is done."""
        if not self._ahead:
            self.opens_s = inf
        elif last.steps == 1:
            self.opens_s = last.start_s
        else:
            assert last.epoch is not None
            self.opens_s = last.epoch.end(last.first_step + last.steps - 1)

    def ends_s(self) -> float:
        """Return the end of the batch that runs."""
        return self.in_flight[0].end_s

    def run_to(self, moment_s: float) -> list[tuple[Batch, int, float]]:
        """Nothing to do: the closed form needs no bringing up to date."""
        return []

    def ended(self, batch: Batch, moment_s: float) -> int:
        """Return how many steps of a batch in flight have ended by ``moment_s``."""
        if batch.epoch is None or moment_s <= batch.start_s:
            return 0
        first = batch.first_step
        step = batch.epoch.step_at(moment_s, first, batch.start_s, first + batch.steps, batch.end_s)
        return step - first - (batch.epoch.end(step) > moment_s)

    def cut(self, moment_s: float) -> list[tuple[Batch, int]]:
        """Return the last batch, if it leaps, and its steps formed before or at ``moment_s``."""
        last = self.in_flight[-1]
        if last.steps == 1:
            return []
        if moment_s <= last.start_s:
            return [(last, 1)]
        assert last.epoch is not None
        first = last.first_step
        step = last.epoch.step_at(moment_s, first, last.start_s, first + last.steps, last.end_s) - first
        return [(last, min(step + self._ahead, last.steps))]

    def shorten(self, batch: Batch) -> None:
        """Let the last batch end earlier."""
        assert batch.epoch is not None
        self._offset = batch.first_step + batch.steps
        batch.end_s = self.busy_until_s = batch.epoch.end(self._offset)
        self._set_opening(batch)


class Pipeline:
    """Stages in a row: each batch passes through all of them, behind the batch before it.

    ``end[b, s] = max(end[b, s - 1], end[b - 1, s]) + duration[b, s]``: as many batches are in flight as
    there are stages (one more with asynchronous scheduling), so bubbles come by themselves.  A batch
    that stands for many steps goes round: as its step leaves the last stage, its next one is formed.

    Args:
        costs: the cost of a step on each stage.
        depth: batches in flight.
    """

    rounds = True

    def __init__(self, costs: list[StepCost], depth: int) -> None:
        self.stage_moments: array[float] | None = array("d")
        self.costs = costs
        self.in_flight: deque[Batch] = deque()
        self.busy_until_s = -inf
        self._depth = depth
        self.opens_s = -inf
        self._free_s = [-inf] * len(costs)  # when each stage is through with what it has been sent

    def place(self, batch: Batch) -> None:
        """Send the first step of a batch into the pipeline."""
        batch.start_s = batch.formed_s
        chunks, decodes, contexts, longest, sampled = price_rows(batch, self.costs[0].windows)
        if chunks:
            prices = [cost.step(chunks, decodes, contexts, longest, sampled) for cost in self.costs]
            durations = [price[0] for price in prices]
            stages = len(prices)
            attention = sum(price[2] for price in prices)
            compute = sum(price[2] * price[3] for price in prices)
            batch.price = (
                sum(durations) / stages, prices[0][1], attention / stages, compute / attention if attention else 0.0
            )  # fmt: skip
        else:
            durations = [cost.decode_step(decodes, contexts) for cost in self.costs]
            batch.price = (sum(durations) / len(durations), 0, 0.0, 0.0)
        batch.end_s = _send(self._free_s, batch.formed_s, durations, self.stage_moments)
        batch.rounds = [(batch.formed_s, batch.price[0])]
        self.busy_until_s = batch.end_s
        self.in_flight.append(batch)
        self.opens_s = -inf if len(self.in_flight) < self._depth else inf

    def pop(self) -> Batch:
        """Let go the batch that has come out."""
        self.opens_s = -inf
        return self.in_flight.popleft()

    def reprice(self, costs: list[StepCost]) -> None:
        """Use other costs for all batches placed from now on."""
        self.costs = costs

    def _next_round(self, batch: Batch, done: int) -> list[float]:
        """Price the step of a leap that follows ``done`` steps."""
        contexts = tuple(context + done * growth for context, growth in zip(batch.contexts, batch.growth, strict=True))
        return [cost.decode_step(batch.count, contexts) for cost in self.costs]

    def ends_s(self) -> float:
        """Return when the first leap, or single step, is through: found by running the pipeline ahead."""
        queue = deque((batch, _rounds(batch), batch.end_s) for batch in self.in_flight)
        free_s = self._free_s.copy()
        while True:
            batch, done, end_s = queue.popleft()
            if done == batch.steps:
                return end_s
            queue.append((batch, done + 1, _send(free_s, end_s, self._next_round(batch, done))))

    def run_to(self, moment_s: float) -> list[tuple[Batch, int, float]]:
        """Send the steps of leaps that begin before ``moment_s`` into the pipeline."""
        in_flight = self.in_flight
        ended = []
        while in_flight and in_flight[0].end_s < moment_s and _rounds(in_flight[0]) < in_flight[0].steps:
            batch = in_flight.popleft()
            assert batch.rounds is not None
            ended.append((batch, len(batch.rounds) - 1, batch.end_s))
            durations = self._next_round(batch, len(batch.rounds))
            batch.rounds.append((batch.end_s, sum(durations) / len(durations)))
            batch.end_s = _send(self._free_s, batch.end_s, durations, self.stage_moments)
            self.busy_until_s = batch.end_s
            in_flight.append(batch)
        return ended

    def ended(self, batch: Batch, moment_s: float) -> int:
        """Return how many steps of a batch in flight have ended by ``moment_s``."""
        return _rounds(batch) - (batch.end_s > moment_s)

    def cut(self, moment_s: float) -> list[tuple[Batch, int]]:
        """Return the leaps in flight with the steps that have been sent into the pipeline."""
        return [(batch, _rounds(batch)) for batch in self.in_flight if batch.steps > _rounds(batch)]

    def shorten(self, batch: Batch) -> None:
        """Nothing to do: the steps that were taken back had not been sent yet."""


def _send(free_s: list[float], formed_s: float, durations: list[float], moments: array[float] | None = None) -> float:
    """Send a step formed at ``formed_s`` through stages that are free at ``free_s``; return when it comes out.

    ``moments`` takes when it begins and ends on each of them.
    """
    moment = formed_s
    for stage, duration in enumerate(durations):
        if free_s[stage] > moment:
            moment = free_s[stage]
        if moments is not None:
            moments.append(moment)
            moments.append(moment + duration)
        moment += duration
        free_s[stage] = moment
    return moment


def _rounds(batch: Batch) -> int:
    """Return how many steps of a batch have been sent into the pipeline."""
    return len(batch.rounds or ())
