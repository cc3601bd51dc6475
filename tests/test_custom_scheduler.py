"""Schedulers of one's own: three methods, plain chunks, one step at a time."""

from __future__ import annotations

from collections import deque
from dataclasses import fields
from itertools import pairwise
from random import Random

import pytest
from seeds import many
from simulations import PlainPrices, options, run

import llmsim
from llmsim.results.records import Record
from llmsim.schedulers.batch import Batch
from llmsim.workload.request import Request


class OneAtATime:
    def __init__(self, options, pool):
        self.budget, self.pool, self.waiting, self.current = options.max_num_batched_tokens, pool, deque(), None

    def add(self, sequence):
        self.waiting.append(sequence)
        return True

    def next_batch(self):
        if self.current is None and self.waiting:
            self.current = self.waiting.popleft()
        sequence = self.current
        if sequence is None or sequence.done:
            return None
        tokens = min(sequence.remaining, self.budget)
        held = self.pool.held(sequence.computed + tokens, sequence.computed)
        self.pool.free -= held - sequence.blocks
        sequence.blocks = held
        return Batch([(sequence, tokens)])

    def settle(self, batch, steps):
        for sequence in batch.ending:
            self.pool.release(sequence, sequence.total - 1)
            self.current = None
        return batch.ending


class Simple:
    def __init__(self, options, pool):
        self.options, self.pool, self.waiting, self.running = options, pool, deque(), {}

    def add(self, sequence):
        self.waiting.append(sequence)
        return True

    def next_batch(self):
        chunks = [(sequence, 1) for sequence in self.running if not sequence.done]
        budget = self.options.max_num_batched_tokens - len(chunks)
        while self.waiting and len(self.running) < self.options.max_num_seqs:
            head = self.waiting[0]
            head.blocks = self.pool.most_held(head.total + head.target - 1)
            if head.total > budget or head.blocks > self.pool.free:
                break
            self.running[self.waiting.popleft()] = None
            self.pool.free -= head.blocks
            chunks.append((head, head.total))
            budget -= head.total
        return Batch(chunks) if chunks else None

    def settle(self, batch, steps):
        for sequence in batch.ending:
            del self.running[sequence]
            self.pool.release(sequence, sequence.total - 1)
        return batch.ending


MOMENTS = ("admitted_s", "first_token_s", "finished_s")
PLAIN = [field.name for field in fields(Record) if field.name not in (*MOMENTS, "bill")]


def agree(ours, theirs) -> None:
    """Assert that two lists of records tell the same, whatever the order of those that end together."""
    by_id = {record.id: record for record in theirs}
    assert len(ours) == len(theirs) == len(by_id)
    for record in ours:
        other = by_id[record.id]
        assert [getattr(record, name) for name in PLAIN] == [getattr(other, name) for name in PLAIN]
        for name in MOMENTS:
            moment, expected = getattr(record, name), getattr(other, name)
            assert moment is not None
            assert abs(moment - expected) <= 1e-9 * max(1.0, expected), (record.id, name, moment, expected)


def requests_of(seed: int, *, longest: int = 200) -> list[Request]:
    draw = Random(seed)
    clock, requests = draw.choice([0.0, 0.0, 1e5]), []
    for number in range(draw.randint(2, 60)):
        clock += draw.choice([0.0, draw.expovariate(100.0), draw.expovariate(5.0), 0.01])
        requests.append(
            Request(str(number), clock, draw.randint(1, longest), draw.randint(1, draw.choice([1, 9, 150])))
        )
    return requests


def roomy(seed: int) -> dict:
    """Draw a scenario in which nobody lacks a seat or a block, and every prompt fits the budget."""
    draw = Random(seed + 10_000)
    windows = draw.choice([(), (), (64,)])
    prices = PlainPrices((None, *windows), host=draw.choice([0.0, 0.004, 0.03]))
    return {
        "requests": requests_of(seed),
        "engine": options(max_num_seqs=64, max_num_batched_tokens=draw.choice([16384, 65536])),
        "blocks": 100_000,
        "windows": windows,
        "prices": [prices],
    }


@pytest.mark.parametrize("seed", many(80))
def test_a_simple_scheduler_agrees_with_the_built_in_one_where_there_is_room(seed):
    scenario = roomy(seed)
    ours, engine = run(**scenario, scheduler=Simple)
    theirs, built_in = run(**scenario)
    agree(ours, theirs)
    assert engine.steps == built_in.steps
    assert engine.pool.free == built_in.pool.free == 100_000


@pytest.mark.parametrize("seed", many(20))
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("scheduler", [OneAtATime, Simple])
def test_all_requests_finish_in_order_of_admission_where_there_is_little_room(scheduler, asynchronous, seed):
    requests = requests_of(seed)
    engine = options(max_num_seqs=3, max_num_batched_tokens=200, async_scheduling=asynchronous)
    records, replica = run(requests, engine=engine, blocks=24, scheduler=scheduler)
    assert {record.status for record in records} == {"finished"}
    admitted = {record.id: record.admitted_s for record in records}
    order = [admitted[request.id] for request in requests]
    assert order == sorted(order)
    assert all(record.output_tokens == request.output_tokens for record, request in paired(records, requests))
    assert replica.pool.free == 24
    if scheduler is OneAtATime:
        lives = sorted((record.admitted_s, record.finished_s) for record in records)
        assert all(before[1] <= after[0] for before, after in pairwise(lives))


def paired(records, requests):
    by_id = {record.id: record for record in records}
    return [(by_id[request.id], request) for request in requests]


def test_one_at_a_time_by_hand():
    prices = PlainPrices(fixed=0.25, token=0.0, context=0.0, bend=0.0)
    requests = [Request("A", 0.0, 100, 3), Request("B", 0.1, 1, 1)]
    engine = options(max_num_batched_tokens=64)
    records, _ = run(requests, engine=engine, scheduler=OneAtATime, prices=[prices])
    first, second = records
    # Two chunks of the prompt, two more tokens, then the other one.
    assert (first.first_token_s, first.finished_s) == pytest.approx((0.5, 1.0), abs=1e-5)
    assert second.admitted_s == first.finished_s
    assert second.finished_s == pytest.approx(1.25, abs=1e-5)


def plain_scenario(**changes):
    plain = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=60, seed=2)
    return plain.with_({"engine.async_scheduling": False, "engine.enable_prefix_caching": False, **changes})


@pytest.mark.parametrize("scheduler", [OneAtATime, Simple])
def test_a_class_of_ones_own_runs_in_a_scenario(scheduler):
    run = llmsim.simulate(plain_scenario(scheduler=f"{__name__}:{scheduler.__name__}"))
    assert [record.status for record in run.records] == ["finished"] * 60
    built_in = llmsim.simulate(plain_scenario())
    if scheduler is Simple:
        agree(run.records, built_in.records)
    else:
        # No time is won by serving alone.
        assert run.metrics["mean_e2el_ms"] > built_in.metrics["mean_e2el_ms"]
