"""A scheduler that is looked over the shoulder, and what holds of every record, bill and log that comes out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from simulations import run

import llmsim
from llmsim.engine import Engine
from llmsim.results.odometer import QUEUED, WAITING
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.workload.request import Request

CAUSES = {"finished", "rejected", "cancelled", "failed"}
MOST_DECISIONS = 100_000  # the longest of the scenarios of the tests takes a tenth of it


class Watched(ContinuousBatching):
    """The continuous scheduler, with books of our own: token by token, and every limit checked at every decision."""

    def __init__(self, engine_options, pool):
        super().__init__(engine_options, pool)
        self.limits = engine_options
        self.computed: Counter = Counter()  # tokens in the cache, by sequence, counting scheduled ones
        self.before: Counter = Counter()  # the same, at the start of the last step that a sequence was in
        self.generated: Counter = Counter()
        self.work: Counter = Counter()  # tokens computed, also those computed again
        self.came: dict = {}  # sequence -> (tokens, moment of the first, moment of the last)
        self.formed: dict = {}  # batch in flight -> [members that decode, steps, sequences whose chunk ends in a token]
        self.decisions = 0
        self.spent: Counter = Counter()  # wall seconds of the batches that a sequence was in
        self.settled_s = 0.0

    def next_batch(self):
        self.decisions += 1
        assert self.decisions < MOST_DECISIONS, "no end in sight: a livelock"
        batch = super().next_batch()
        if batch is None:
            return None
        for sequence in batch.preempted:
            self.computed[sequence] = self.before[sequence] = 0
        for sequence in batch.admitted:
            self.computed[sequence] = self.before[sequence] = sequence.found
        members = list(batch.decodes.members) if batch.count else []
        assert len(members) == batch.count
        sampled = self._book(batch, members)
        if batch.chunks or members:
            self.formed[batch] = [members, batch.steps, sampled]
        self._check_limits(batch, members)
        return batch

    def _book(self, batch, members):
        sampled = []
        for sequence, tokens in batch.chunks:
            total = sequence.request.prompt_tokens + self.generated[sequence]
            assert 1 <= tokens <= total - self.computed[sequence]
            self._compute(sequence, tokens, 1)
            if self.computed[sequence] == total:
                self.generated[sequence] += 1
                sampled.append(sequence)
        for sequence in members:
            total = sequence.request.prompt_tokens + self.generated[sequence]
            assert self.computed[sequence] == total - 1
            self._compute(sequence, batch.steps, batch.steps)
            self.generated[sequence] += batch.steps
        return sampled

    def _compute(self, sequence, tokens, steps):
        self.computed[sequence] += tokens
        self.before[sequence] = self.computed[sequence] - tokens // steps
        self.work[sequence] += tokens

    def _check_limits(self, batch, members):
        limits, pool = self.limits, self.pool
        assert batch.tokens <= limits.max_num_scheduled_tokens
        assert len(members) + len(batch.chunks) <= limits.max_num_seqs
        assert len(self.running) <= limits.max_num_active_seqs
        rows = [*members, *(sequence for sequence, _ in batch.chunks)]
        assert len({id(sequence) for sequence in rows}) == len(rows)
        assert batch.steps == 1 or not batch.chunks
        for sequence in rows:
            assert self.generated[sequence] <= sequence.target
            assert sequence in self.running
        assert 0 <= pool.free <= pool.blocks
        if limits.pipeline_parallel_size == 1:
            held = sum(pool.held(self.computed[sequence], self.before[sequence]) for sequence in self.running)
            # Blocks that several sequences share are taken once.
            assert held >= pool.blocks - pool.free if pool.caches else held == pool.blocks - pool.free

    def trim(self, batch, steps):
        members, planned, _ = self.formed[batch]
        assert 1 <= steps < planned
        for sequence in members:
            self._compute(sequence, steps - planned, steps - planned)
            self.generated[sequence] += steps - planned
        self.formed[batch][1] = steps
        super().trim(batch, steps)

    def settle(self, batch, steps):
        members, formed_steps, sampled = self.formed.pop(batch)
        assert steps == formed_steps
        wall_s = batch.end_s - max(self.settled_s, batch.start_s)
        self.settled_s = batch.end_s
        for sequence in [*members, *(sequence for sequence, _ in batch.chunks)]:
            self.spent[sequence] += wall_s
        for sequence, tokens in [*((one, 1) for one in sampled), *((one, steps) for one in members)]:
            count, first_s, _ = self.came.get(sequence, (0, batch.end_s, None))
            self.came[sequence] = (count + tokens, first_s, batch.end_s)
        finished = super().settle(batch, steps)
        for sequence in finished:
            assert self.came[sequence][0] == sequence.target
        return finished


def watched(scenario: dict) -> tuple[list, Engine]:
    """Run a scenario with the watched scheduler, the engine knowing what the odometers are read with."""
    records, engine = run(**scenario, scheduler=Watched)
    timeline = engine.timeline
    engine.costs = timeline.costs if hasattr(timeline, "costs") else [timeline.cost]
    return records, engine


# ---------------------------------------------------------------------- what holds of every record


def check_records(records: list, asked: list[Request], *, streamed: bool = True) -> None:
    """Check that each request ended as exactly one record in causal order, with no more tokens than it asked for."""
    assert sorted(record.id for record in records) == sorted(request.id for request in asked)
    by_id = {request.id: request for request in asked}
    for record in records:
        request = by_id[record.id]
        assert record.status in CAUSES
        assert (record.arrival_s, record.prompt_tokens) == (request.arrival_s, request.prompt_tokens)
        assert record.output_tokens <= request.output_tokens
        check_order(record, streamed=streamed)


def check_order(record, *, streamed: bool = True) -> None:
    """Check arrival <= admission <= first token <= end, and that what never came has no moment."""
    moments = [record.arrival_s, record.admitted_s, record.first_token_s, record.finished_s]
    known = [moment for moment in moments if moment is not None]
    assert known == sorted(known), record
    if record.status == "finished":
        assert len(known) == 4, record
        assert record.admitted_s < record.first_token_s
        if streamed:
            assert (record.first_token_s == record.finished_s) == (record.output_tokens == 1)
    else:
        assert record.finished_s is None
        assert record.reason
    if record.status == "rejected":
        assert record.output_tokens == 0
        assert record.admitted_s is record.first_token_s is None


def check_bills(records: list, kinds, lanes, wall_s: float, *, overlapping: bool = False) -> None:
    """Check that bills add up to latencies and lanes to the clock, and that nobody is billed less than nothing.

    In a pipeline batches overlap, and "waiting" also takes back the part of a row that was not the request's own.
    """
    own = [index for index, kind in enumerate(kinds) if kind not in (WAITING, QUEUED)]
    for record in records:
        if record.finished_s is None:
            assert record.bill is None
            continue
        bill = np.array(record.bill)
        rounding = 1e-9 * max(1.0, record.finished_s)
        assert abs(bill.sum() - (record.finished_s - record.arrival_s)) <= rounding
        assert bill[kinds.index(QUEUED)] == pytest.approx(record.admitted_s - record.arrival_s, abs=rounding)
        assert bill[own].min() >= -rounding, (record, dict(zip(kinds, record.bill, strict=True)))
        if not overlapping:
            assert bill.min() >= -rounding, (record, dict(zip(kinds, record.bill, strict=True)))
    assert np.allclose(np.asarray(lanes).sum(axis=1), wall_s, rtol=1e-9, atol=1e-9)
    assert np.asarray(lanes).min() >= 0.0


def check_log(log, *, overlapping: bool = False) -> None:
    """Check that the step log is in order, and without overlap where one batch runs after the other."""
    columns = log.columns()
    start, end, steps = columns["start_s"], columns["end_s"], columns["steps"]
    assert np.all(end > start)
    assert np.all(np.diff(end) > 0)
    if not overlapping:
        assert np.all(start[1:] >= end[:-1])
    assert np.all(steps >= 1)
    assert np.all(columns["blocks_used"] >= 0)
    assert np.all(columns["waiting"] >= 0)


def check_run(result: llmsim.Run, asked: int) -> None:
    """Check all of this of a real run that came to its end."""
    records = result.records
    overlapping, static = "PP" in result.setup.plan, "scheduler: static" in result.resolved_yaml
    assert len(records) == asked == len({record.id for record in records})
    for record in records:
        check_order(record, streamed=not static)
    for log in result.steps:
        check_log(log, overlapping=overlapping)
    wall_s = float(result.lane_totals.sum(axis=1)[0])
    assert wall_s >= max(record.finished_s or record.arrival_s for record in records) * (1 - 1e-12)
    check_bills(records, result.bill_kinds, result.lane_totals, wall_s, overlapping=overlapping)
    whole = {replica: Counter() for replica in range(len(result.steps))}
    for record in records:
        if record.status == "finished":
            whole[record.replica]["tokens"] += record.prompt_tokens + record.output_tokens - 1 - record.cached_tokens
            whole[record.replica]["preempted"] += record.preemptions
    for replica, log in enumerate(result.steps):
        columns = log.columns()
        computed = int((columns["prefill_tokens"] + columns["decodes"] * columns["steps"]).sum())
        assert computed >= whole[replica]["tokens"]
        if not whole[replica]["preempted"] and not static:
            assert computed == whole[replica]["tokens"]
