"""Play policies and look at what they decide; random scenarios that are short of seats, blocks and budget."""

from __future__ import annotations

import random
from dataclasses import astuple

import pytest
from simulations import PlainPrices, options, run
from test_leaping import shared_prefix

from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.decision_log import scheduled
from llmsim.schedulers.observed import Observed
from llmsim.workload.request import Request


class Decisions:
    """Writes down each decision: tokens by request id, preempted ids, free blocks, decodes."""

    def __init__(self, pool):
        self.pool, self.tokens, self.preempted, self.free, self.decodes, self.steps = pool, [], [], [], [], []

    def formed(self, batch):
        pairs = scheduled(batch)
        self.tokens.append({sequence.request.id: tokens for sequence, tokens in pairs})
        self.preempted.append([sequence.request.id for sequence in batch.preempted])
        self.free.append(self.pool.free)
        self.decodes.append(sum(sequence.computed >= sequence.given for sequence, _ in pairs))
        self.steps.append(batch.steps)

    def settled(self, batch, steps, finished):
        pass


def play(name, requests, *, leap=False, settings=None, **scenario):
    """Return records, engine and decisions of one engine under a policy."""
    seen = []

    def build(engine_options, pool):
        policy = SCHEDULERS[name](engine_options, pool, leap=leap, **(settings or {}))
        seen.append(Decisions(pool))
        return Observed(policy, seen)

    records, engine = run(requests, scheduler=build, **scenario)
    return records, engine, seen[0]


def decided(name, requests, **scenario):
    """Return the tokens of each step, and who was preempted in it; everybody finishes and all blocks come back."""
    records, engine, decisions = play(name, requests, **scenario)
    assert [record.status for record in records] == ["finished"] * len(requests)
    assert engine.pool.free == engine.pool.blocks
    return decisions.tokens, decisions.preempted, decisions.free


def drawn(seed, *, budget_holds_all=False, caching=False, asynchronous=None, windowed=False):
    """Draw a scenario in which one request alone just fits, or little more does."""
    draw = random.Random(seed)
    longest = draw.choice([20, 120, 400])
    requests, clock = [], draw.choice([0.0, 0.0, 1e6])
    for number in range(draw.randint(1, 50)):
        clock += draw.choice([0.0, 0.0, draw.expovariate(20.0), draw.expovariate(2.0), 0.01, 0.02])
        requests.append(
            Request(str(number), clock, draw.randint(1, longest), draw.randint(1, draw.choice([1, 4, 40, 150])),
                    prefix=shared_prefix(draw) if caching else None)
        )  # fmt: skip
    block_size = draw.choice([1, 4, 16, 16])
    windows = draw.choice([(), (32,)]) if windowed else ()
    need = max(request.prompt_tokens + request.output_tokens for request in requests)
    fits = -(-need // block_size) * (1 + len(windows))
    blocks = max(fits, 1) + draw.choice([0, 0, 1, 3, 20, 300])
    seats = draw.choice([1, 2, 8, 32])
    # A multiple of every block size; at least the seats, as V0 wants it.
    budget = 4096 if budget_holds_all else max(32, draw.choice([32, 64, 256]))
    engine = options(
        max_num_seqs=seats, max_num_batched_tokens=budget, block_size=block_size,
        async_scheduling=draw.random() < 0.5 if asynchronous is None else asynchronous,
        enable_chunked_prefill=not budget_holds_all, enable_prefix_caching=caching,
        cudagraph_sizes=draw.choice([(), (1, 2, 4, 8, 16, 32)]),
    )  # fmt: skip
    plain = {"fixed": 0.01, "token": 0.0, "context": 0.0, "bend": 0.0} if draw.random() < 0.3 else {}
    return {
        "requests": requests, "engine": engine, "blocks": blocks, "windows": windows,
        "prices": [PlainPrices((None, *windows), **plain)],
    }  # fmt: skip


def lives(records):
    """Return every field of every record, in the order of ending."""
    return [astuple(record) for record in records]


def check_leaping(name, scenario, **settings):
    """Assert that leaping is stepping, that everybody ends with all tokens, and that all blocks come back.

    Returns:
        the engine, and what was decided step by step.
    """
    leapt, engine, _ = play(name, leap=True, settings=settings, **scenario)
    stepped, slow, decisions = play(name, settings=settings, **scenario)
    assert lives(leapt) == lives(stepped)
    assert engine.steps == slow.steps
    assert engine.preemptions == slow.preemptions
    assert engine.pool.free == engine.pool.blocks
    asked = {request.id: request for request in scenario["requests"]}
    for log in (engine.log, slow.log):
        gaps, counts = log.gaps()
        # Every token but the first of each answer comes after a gap, and the gaps fill the time between the two.
        assert counts.sum() == sum(record.output_tokens - 1 for record in leapt if record.status == "finished")
        between = sum(record.finished_s - record.first_token_s for record in leapt if record.status == "finished")
        assert (gaps * counts).sum() == pytest.approx(between, rel=1e-6, abs=1e-6)
    assert sorted(asked) == sorted(record.id for record in leapt)
    for record in leapt:
        if record.status == "finished":
            assert record.output_tokens == asked[record.id].output_tokens
            assert record.arrival_s <= record.admitted_s < record.first_token_s <= record.finished_s
        else:
            assert (record.status, record.admitted_s) == ("rejected", None)
    return slow, decisions


def storm(count=80, *, prompt=30, output=40):
    """Return requests that all come at once, each a good part of the cache."""
    return [Request(str(number), 0.0, prompt + number % 7, output + number % 11) for number in range(count)]


def check_never_hangs(name, engine, **settings):
    """Assert that a storm, two that do not fit together, and a cache of exactly enough blocks are all served."""
    cases = [
        (storm(), 8),
        (storm(20, prompt=60, output=30), 8),
        ([Request("0", 0.0, 70, 50), Request("1", 0.0, 70, 50)], 8),
        ([Request("0", 0.0, 1, 128), Request("1", 0.0, 1, 128), Request("2", 0.0, 1, 128)], 8),
        ([Request("0", 0.0, 100, 28), Request("1", 0.0, 127, 1)], 8),
        ([Request("0", 0.0, 16, 1)], 1),
    ]
    for requests, blocks in cases:
        for leap in (True, False):
            records, replica, _ = play(name, requests, leap=leap, settings=settings, engine=engine, blocks=blocks)
            assert sorted(record.id for record in records) == sorted(request.id for request in requests)
            assert {record.status for record in records} <= {"finished", "rejected"}
            assert replica.pool.free == blocks
