"""Shortest first, fair shares and earliest deadline: leaping is exact, and nobody is lost or hangs."""

import random
from dataclasses import astuple, replace
from functools import partial

import pytest
from seeds import many
from simulations import PlainPrices, options, run
from test_leaping import scenario

from llmsim.schedulers import SCHEDULERS
from llmsim.testing.scheduler_suite import check_scheduler
from llmsim.workload.request import Request

ORDERS = ("shortest_job_first", "fair", "earliest_deadline")


def settings(name: str, draw: random.Random) -> dict:
    """Draw settings of one order."""
    if name == "shortest_job_first":
        return {
            "seed": draw.randint(0, 9),
            "prediction_error": draw.choice([0.0, 0.5, 2.0]),
            "bucket_tokens": draw.choice([0, 0, 50]),
            "aging_tokens_per_s": draw.choice([0.0, 10.0, 200.0]),
            "by": draw.choice(["output", "remaining"]),
        }
    if name == "fair":
        return {"input_weight": draw.choice([1.0, 0.1]), "output_weight": draw.choice([2.0, 0.0, 0.3])}
    return {"default_slack_s": draw.choice([None, 0.5, 5.0])}


def case(name: str, seed: int, *, pipelined: bool = False) -> dict:
    """Draw a scenario with tenants and deadlines, and an order with settings."""
    drawn = scenario(seed, pipelined=pipelined)
    draw = random.Random(seed + 77)
    tenants = draw.randint(1, 5)
    drawn["requests"] = [
        replace(
            request,
            tenant=draw.choice([None, *"abcd"][:tenants]),
            deadline_s=None if draw.random() < 0.3 else request.arrival_s + draw.choice([0.05, 0.5, 10.0]),
        )
        for request in drawn["requests"]
    ]
    drawn["engine"] = replace(drawn["engine"], scheduling_policy="fcfs")
    return drawn | {"policy": partial(SCHEDULERS[name], **settings(name, draw))}


def play(drawn: dict, *, leap: bool):
    policy = partial(drawn["policy"], leap=leap)
    return run(**{key: value for key, value in drawn.items() if key != "policy"}, scheduler=policy)


def check(drawn: dict) -> None:
    """Assert that leaping and stepping agree bit for bit, everybody ends, and all blocks are free again."""
    leapt, engine = play(drawn, leap=True)
    stepped, slow = play(drawn, leap=False)
    assert [astuple(record) for record in leapt] == [astuple(record) for record in stepped]
    assert sorted(record.id for record in leapt) == sorted(request.id for request in drawn["requests"])
    assert engine.steps == slow.steps
    assert engine.preemptions == slow.preemptions
    assert engine.pool.free == engine.pool.blocks
    assert not engine.scheduler.waiting
    assert not engine.scheduler.running


@pytest.mark.parametrize("seed", many(100))
@pytest.mark.parametrize("name", ORDERS)
def test_leaping_gives_the_records_of_stepping(name, seed):
    check(case(name, seed))


@pytest.mark.parametrize("seed", many(40))
@pytest.mark.parametrize("name", ORDERS)
def test_pipelines_leap_exactly_too(name, seed):
    check(case(name, seed, pipelined=True))


def storm(seed: int) -> dict:
    """Draw long answers that outgrow a small cache together: preemptions, and newcomers who jump the queue."""
    draw = random.Random(seed)
    requests, clock = [], 0.0
    for number in range(40):
        clock += draw.expovariate(8.0)
        requests.append(
            Request(str(number), clock, draw.randint(1, 60), draw.randint(1, draw.choice([10, 200])),
                    tenant=draw.choice("abc"), deadline_s=clock + draw.choice([0.1, 1.0, 20.0]))
        )  # fmt: skip
    engine = options(
        max_num_seqs=draw.choice([3, 8, 32]),
        async_scheduling=draw.random() < 0.5,
        enable_prefix_caching=draw.random() < 0.5,
        scheduler_reserve_full_isl=draw.random() < 0.5,
    )
    return {"requests": requests, "engine": engine, "blocks": 17 + draw.choice([0, 1, 8, 20])}


@pytest.mark.parametrize("seed", many(100))
@pytest.mark.parametrize("name", ORDERS)
def test_a_storm_of_preemptions_ends_and_leaps_exactly(name, seed):
    draw = random.Random(seed + 5)
    check(storm(seed) | {"policy": partial(SCHEDULERS[name], **settings(name, draw))})


@pytest.mark.parametrize("name", ORDERS)
def test_the_storms_do_preempt(name):
    preempted = [play(storm(seed) | {"policy": SCHEDULERS[name]}, leap=True)[1].preemptions for seed in range(20)]
    assert sum(count > 0 for count in preempted) >= 10


@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ORDERS)
def test_two_that_do_not_fit_together_both_end(name, asynchronous, caching):
    """Each needs (100 + 60 - 1) / 16, so 10 blocks, of 11; both begin, for a prompt needs 7 at first."""
    engine = options(
        max_num_seqs=2, async_scheduling=asynchronous, enable_prefix_caching=caching, scheduler_reserve_full_isl=False
    )
    for blocks in (10, 11, 14, 15):
        requests = [
            Request("A", 0.0, 100, 60, tenant="a", deadline_s=9.0),
            Request("B", 0.0, 100, 60, tenant="b", deadline_s=9.0),
        ]
        records, replica = run(requests, engine=engine, blocks=blocks, scheduler=name)
        assert [record.status for record in records] == ["finished"] * 2
        assert replica.pool.free == blocks


@pytest.mark.parametrize("name", ORDERS)
def test_leaps_stay_long(name):
    """One request that decodes alone is a handful of decisions, not a thousand."""
    decisions = 0

    class Counted(SCHEDULERS[name]):
        def next_batch(self):
            nonlocal decisions
            decisions += 1
            return super().next_batch()

    _, engine = run([Request("0", 0.0, 10, 1000)], scheduler=Counted)
    assert engine.steps == 1000
    assert decisions < 10


def test_fair_leaps_while_tenants_wait_for_room():
    """Two tenants wait, a seat is free, but no head fits: the leap goes on to the end of who runs."""
    decisions = 0

    class Counted(SCHEDULERS["fair"]):
        def next_batch(self):
            nonlocal decisions
            decisions += 1
            return super().next_batch()

    requests = [Request("0", 0.0, 160, 400, tenant="a")]
    requests += [Request(str(number), 0.0, 500, 5, tenant="ab"[number % 2]) for number in range(1, 5)]
    records, _ = run(requests, blocks=40, scheduler=Counted, engine=options(max_num_batched_tokens=512))
    assert {record.status for record in records} == {"finished"}
    assert decisions < 60


@pytest.mark.parametrize("name", ORDERS)
def test_a_newcomer_may_cut_a_leap_anywhere(name):
    """Arrivals at every moment of a leap, exactly on the ends of steps and between them."""
    prices = [PlainPrices(fixed=0.01, token=0.0, context=0.0, bend=0.0)]
    for asynchronous in (False, True):
        for late in range(1, 40):
            moment = late * 0.0025
            requests = [
                Request("0", 0.0, 16, 30, tenant="a"),
                Request("1", 0.0, 16, 9, tenant="b", deadline_s=5.0),
                Request("2", 0.001, 64, 30, tenant="b"),
                Request("3", moment, 16, 2, tenant="c", deadline_s=moment),
            ]
            engine = options(max_num_seqs=2, async_scheduling=asynchronous)
            check({"requests": requests, "engine": engine, "blocks": 8, "prices": prices, "policy": SCHEDULERS[name]})


@pytest.mark.parametrize(
    ("name", "may_starve", "settings"),
    [
        ("fair", False, {}),
        # 400 tokens are passed by those who ask for 10 for 390 / 100 s at most, less than the suite's stream lasts.
        ("shortest_job_first", False, {"aging_tokens_per_s": 100.0}),
        ("shortest_job_first", True, {"aging_tokens_per_s": 0.0, "prediction_error": 1.0, "by": "remaining"}),
        ("earliest_deadline", False, {"default_slack_s": 2.0}),
        ("earliest_deadline", True, {}),
    ],
)
def test_they_pass_the_suite_for_schedulers_of_ones_own(name, may_starve, settings):
    check_scheduler(SCHEDULERS[name], may_starve=may_starve, **settings)
