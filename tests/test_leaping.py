"""Leaping is exact: the same records, to the last bit, as stepping."""

import random
from dataclasses import astuple, replace

import pytest
from seeds import many
from simulations import PlainPrices, options, run

from llmsim.workload.request import History, Prefix, Request


def scenario(seed: int, *, pipelined: bool = False, sessions: bool = False) -> dict:
    """Draw a scenario: requests, options, blocks, windows, prices."""
    draw = random.Random(seed)
    start = draw.choice([0.0, 0.0, 1e6])
    caching = draw.random() < 0.5 or sessions
    requests = []
    clock = start
    for number in range(draw.randint(1, 60)):
        clock += draw.choice([0.0, 0.0, draw.expovariate(20.0), draw.expovariate(2.0), 0.01, 0.02])
        requests.append(
            Request(str(number), clock, draw.randint(1, draw.choice([20, 300, 900])),
                    draw.randint(1, draw.choice([1, 4, 40, 300])), priority=draw.randint(0, 2),
                    prefix=shared_prefix(draw) if caching else None)
        )  # fmt: skip
    windows = draw.choice([(), (), (), (64,), (32, 200)])
    if sessions:
        requests, windows = turns(draw, requests), ()
    block_size = draw.choice([1, 16, 16, 32])
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    blocks = -(-longest // block_size) * (1 + len(windows)) + draw.choice([0, 3, 50, 4000])
    seats = draw.choice([1, 2, 8, 32])
    budget = max(seats, draw.choice([16, 64, 256, 2048]))
    engine = options(
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        block_size=block_size,
        async_scheduling=draw.random() < 0.6,
        scheduling_policy=draw.choice(["fcfs", "fcfs", "priority"]),
        enable_prefix_caching=caching,
        long_prefill_token_threshold=draw.choice([0, 0, 0, 40]),
        prefill_schedule_interval=draw.choice([1, 1, 1, 4]),
        watermark=draw.choice([0.0, 0.0, 0.05]),
        scheduler_reserve_full_isl=draw.random() < 0.7,
        cudagraph_sizes=draw.choice([(), (1, 2, 4, 8, 16, 32)]),
        pipeline_parallel_size=draw.choice([2, 3]) if pipelined else 1,
    )
    if draw.random() < 0.3:  # prices in which steps end exactly at arrivals
        plain = {"fixed": 0.01, "token": 0.0, "context": 0.0, "bend": 0.0}
    else:
        plain = {"host": draw.choice([0.0, 0.012])}
    prices = [PlainPrices((None, *windows), **plain) for _ in range(engine.pipeline_parallel_size)]
    return {"requests": requests, "engine": engine, "blocks": blocks, "windows": windows, "prices": prices}


def shared_prefix(draw: random.Random) -> Prefix | None:
    """Draw a path down a small tree of contents, so that prompts begin alike now and then."""
    if draw.random() < 0.3:
        return None
    path = tuple(hash((depth, draw.randint(0, 2))) for depth in range(draw.randint(1, 8)))
    return Prefix(tuple(100 * depth + name % 7 for depth, name in enumerate(path)), draw.choice([16, 64, 24]))


def turns(draw: random.Random, requests: list[Request]) -> list[Request]:
    """Make most requests turns of sessions, which go on, fork or forget, now and then before the answer is there."""
    said: list[Request] = []
    for request in requests:
        before = draw.choice(said[-8:]) if said and draw.random() < 0.8 else None
        told = before.prompt_tokens + before.output_tokens if before is not None else 0
        system = draw.choice([0, 0, 16, 40])
        history, prompt = History((("system", system),) if system else (), request.id), system + request.prompt_tokens
        if before is not None and told < 1500:
            old, chance = before.prefix, draw.random()
            assert isinstance(old, History)
            front = sum(count for _, count in old.parts)
            if chance < 0.7:
                history, prompt = old, told + draw.randint(1, 60)
            elif chance < 0.85:
                kept = draw.randint(front + 1, told)
                history = History((*old.parts, (old.name, kept - front)), request.id)
                prompt = kept + request.prompt_tokens
        said.append(replace(request, prompt_tokens=prompt, prefix=history))
    return said


def lives(records):
    """Return what must agree: every field of every record, in the order of ending."""
    return [astuple(record) for record in records]


@pytest.mark.parametrize("seed", many(600))
def test_leaping_gives_the_records_of_stepping(seed):
    drawn = scenario(seed)
    leapt, engine = run(**drawn)
    stepped, slow = run(**drawn, leap=False)
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(drawn["requests"])
    assert engine.steps == slow.steps
    assert engine.pool.free == engine.pool.blocks


@pytest.mark.parametrize("pipelined", [False, True], ids=["one", "pipeline"])
@pytest.mark.parametrize("seed", many(120))
def test_sessions_leap_exactly_too(seed, pipelined):
    drawn = scenario(seed, sessions=True, pipelined=pipelined)
    leapt, engine = run(**drawn)
    stepped, slow = run(**drawn, leap=False)
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(drawn["requests"])
    assert engine.steps == slow.steps
    assert engine.pool.free == engine.pool.blocks


def test_the_random_sessions_find_their_answers_again():
    found = answers = 0
    for seed in range(60):
        drawn = scenario(seed, sessions=True)
        records, _ = run(**drawn)
        first = {request.prefix: request.prompt_tokens for request in reversed(drawn["requests"])}
        asked = {request.id: request.prefix for request in drawn["requests"]}
        found += sum(record.cached_tokens for record in records)
        answers += sum(record.cached_tokens > first[asked[record.id]] for record in records)
    assert found > 50_000
    assert answers > 100  # found more than the session's first prompt, so answers too


@pytest.mark.parametrize("seed", many(60))
def test_static_batching_leaps_exactly_too(seed):
    drawn = scenario(seed)
    leapt, _ = run(**drawn, scheduler="static")
    stepped, _ = run(**drawn, scheduler="static", leap=False)
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(drawn["requests"])


@pytest.mark.parametrize("seed", many(250))
def test_pipelines_leap_exactly_too(seed):
    drawn = scenario(seed, pipelined=True)
    leapt, engine = run(**drawn)
    stepped, slow = run(**drawn, leap=False)
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(drawn["requests"])
    assert engine.steps == slow.steps
    assert engine.pool.free == engine.pool.blocks
