"""The engine at awkward moments, by exact figures: steps take a quarter of a second, which floats hold exactly."""

from __future__ import annotations

import sys
from dataclasses import astuple

import pytest
from simulations import PlainPrices, options, run

import llmsim
from llmsim.engine import Engine
from llmsim.kvcache.blocks import BlockPool
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.simulation import EVENTS_PER_LOOK
from llmsim.timeline import SingleStage
from llmsim.workload.request import Request

STEP_S = 0.25


class QuarterSecond(PlainPrices):
    """Every step takes the same time, whatever it computes."""

    def __init__(self, fixed: float = STEP_S) -> None:
        super().__init__(fixed=fixed, token=0.0, context=0.0, bend=0.0)

    def mixed_attention(self, group, chunks, decodes, context_sum, longest_context):
        return 0.0, 0.5


def simulate(requests, *, leap: bool = True, blocks: int = 1000, **changes):
    """Return the records by id, and the engine."""
    records, engine = run(requests, engine=options(**changes), blocks=blocks, leap=leap, prices=[QuarterSecond()])
    assert len(records) == len({record.id for record in records})
    return {record.id: record for record in records}, engine


def assembled(*, leap: bool, **changes):
    """Return a clock, an engine on it, and the list that its records go to."""
    engine_options = options(**changes)
    clock, records = Clock(), []
    pool = BlockPool(1000, engine_options.block_size)
    timeline = SingleStage(StepCost(QuarterSecond(), engine_options), engine_options.max_concurrent_batches)
    scheduler = ContinuousBatching(engine_options, pool, leap=leap)
    engine = Engine(0, clock, scheduler, timeline, pool, engine_options, records.append)
    return clock, engine, records


def moments(record) -> tuple:
    return record.admitted_s, record.first_token_s, record.finished_s


LEAPS = pytest.mark.parametrize("leap", [True, False])


# ---------------------------------------------------------------------- arrivals


@LEAPS
@pytest.mark.parametrize("announced_s", [0.0, 0.45])
@pytest.mark.parametrize(
    ("asynchronous", "arrival", "expected"),
    [
        (False, 0.5, (0.5, 0.75, 1.25)),
        (False, 0.5 - 1e-9, (0.5, 0.75, 1.25)),
        (False, 0.5 + 1e-9, (0.75, 1.0, 1.5)),
        # Two in flight: at 0.5 the third step begins and the fourth is formed.
        (True, 0.5, (0.5, 1.0, 1.5)),
        (True, 0.5 - 1e-9, (0.5, 1.0, 1.5)),
        (True, 0.5 + 1e-9, (0.75, 1.25, 1.75)),
    ],
)
def test_an_arrival_at_a_steps_end_is_in_time_for_the_decision_then(asynchronous, arrival, expected, announced_s, leap):
    # The arrival counts also if the clock hears of it later than of the step's end at the same moment.
    clock, engine, ended = assembled(leap=leap, async_scheduling=asynchronous)
    clock.alarm(0.0, lambda _: engine.submit(Request("old", 0.0, 1, 40)))
    come = Request("new", arrival, 1, 3)
    clock.alarm(announced_s, lambda _: clock.alarm(arrival, lambda _: engine.submit(come)))
    clock.run()
    records = {record.id: record for record in ended}
    assert moments(records["new"]) == expected
    # The one that was there gets its token at every step.
    assert moments(records["old"]) == (0.0, STEP_S, 40 * STEP_S)
    assert engine.steps == 40


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_arrival_during_the_last_step_starts_when_it_ends(asynchronous):
    records, _ = simulate([Request("old", 0.0, 1, 2), Request("new", 0.3, 1, 2)], async_scheduling=asynchronous)
    assert moments(records["old"]) == (0.0, 0.25, 0.5)
    assert records["new"].finished_s == 1.0
    assert records["new"].first_token_s == 0.75


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_arrival_at_the_end_of_the_last_step(asynchronous):
    records, _ = simulate([Request("old", 0.0, 1, 2), Request("new", 0.5, 1, 2)], async_scheduling=asynchronous)
    assert moments(records["new"]) == (0.5, 0.75, 1.0)


def test_a_hundred_arrivals_at_one_moment_are_served_in_order():
    requests = [Request(str(number), 7.0, 1, 1) for number in range(100)]
    records, engine = simulate(requests)
    assert [records[str(number)].admitted_s for number in range(100)] == [
        7.0 + STEP_S * (number // 32) for number in range(100)
    ]
    assert engine.steps == 4


@pytest.mark.parametrize("asynchronous", [False, True])
def test_one_token_outputs_end_with_their_first_token_and_leave_no_gaps(asynchronous):
    requests = [Request(str(number), 0.3 * number, 50, 1) for number in range(20)]
    records, engine = simulate(requests, async_scheduling=asynchronous)
    for record in records.values():
        assert record.first_token_s == record.finished_s
        assert (record.status, record.output_tokens) == ("finished", 1)
    assert engine.log.gaps()[0].size == 0


@LEAPS
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_clock_at_a_million_seconds_changes_nothing(asynchronous, leap):
    def requests(start):
        return [Request(str(number), start + 0.375 * number, 20, 1 + 7 * (number % 5)) for number in range(60)]

    early, _ = simulate(requests(0.0), async_scheduling=asynchronous, max_num_seqs=4, leap=leap)
    late, _ = simulate(requests(1e6), async_scheduling=asynchronous, max_num_seqs=4, leap=leap)
    for name, record in early.items():
        assert moments(late[name]) == tuple(moment + 1e6 for moment in moments(record))


# ---------------------------------------------------------------------- little room


@LEAPS
@pytest.mark.parametrize(("first", "second"), [(47, 33), (33, 47)])
def test_two_that_do_not_fit_together_both_finish(first, second, leap):
    # Six blocks of 16: both hold three.  The one with 47 tokens needs a fourth in the third step, and the last
    # admitted gives way: the other one if it is the second (47, 33), itself in (33, 47).
    requests = [Request("0", 0.0, first, 10), Request("1", 0.0, second, 10)]
    records, engine = simulate(requests, blocks=6, leap=leap)
    assert moments(records["0"]) == (0.0, 0.25, 2.5)
    # It has two tokens, and comes back when the first has ended; its prompt and output are computed anew.
    assert moments(records["1"]) == (0.0, 0.25, 2.5 + 8 * STEP_S)
    assert (records["0"].preemptions, records["1"].preemptions, engine.preemptions) == (0, 1, 1)
    assert [record.output_tokens for record in records.values()] == [10, 10]
    assert engine.pool.free == 6


@LEAPS
@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("blocks", [7, 8, 10, 12, 15])
def test_many_in_a_cache_for_one_all_finish(blocks, asynchronous, leap):
    requests = [Request(str(number), 0.1 * number, 30 + 5 * (number % 4), 45) for number in range(30)]
    records, engine = simulate(requests, blocks=blocks, async_scheduling=asynchronous, leap=leap)
    assert len(records) == 30
    assert {(record.status, record.output_tokens) for record in records.values()} == {("finished", 45)}
    assert sum(record.preemptions for record in records.values()) == engine.preemptions
    if blocks > 7:
        assert engine.preemptions > 0
    assert engine.pool.free == blocks


def test_a_request_that_can_never_fit_is_rejected_with_the_figures():
    requests = [
        Request("window", 0.0, 4000, 97),
        Request("cache", 0.0, 300, 22),
        Request("fits", 0.0, 300, 21),
    ]
    records, engine = simulate(requests, blocks=20)
    assert {name: record.status for name, record in records.items()} == {
        "window": "rejected",
        "cache": "rejected",
        "fits": "finished",  # 320 tokens: the last one is never computed
    }
    for figure in ("4000", "97", "4096"):
        assert figure in records["window"].reason
    for figure in ("21", "20"):
        assert figure in records["cache"].reason
    for name in ("window", "cache"):
        assert moments(records[name]) == (None, None, None)
        assert records[name].output_tokens == 0
    assert engine.pool.free == 20


# ---------------------------------------------------------------------- runs that stop


def scenario(**changes):
    plain = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=40, num_prompts=2000)
    return plain.with_(changes)


def none_is_lost(run, stopped_s: float, arrivals: dict[str, float]) -> None:
    """Assert that each request that had arrived has one record, and that some were under way."""
    assert "cancelled" in {record.status for record in run.records} <= {"finished", "cancelled"}
    assert len(run.records) < len(arrivals)
    arrived = {name for name, arrival in arrivals.items() if arrival <= stopped_s}
    names = [record.id for record in run.records]
    assert len(names) == len(set(names))
    assert set(names) == arrived
    for record in run.records:
        if record.status == "cancelled":
            assert record.finished_s is None
            assert "run stopped" in record.reason
        else:
            assert record.finished_s <= stopped_s


@pytest.fixture(scope="module")
def arrivals():
    """Return when all requests of `scenario` arrive."""
    return {record.id: record.arrival_s for record in llmsim.simulate(scenario()).records}


def test_a_time_limit_stops_the_run_and_cancels_what_is_under_way(arrivals):
    seen = []
    changes = {"performance.tokenize_us_per_token": 0}
    run = llmsim.simulate(scenario(**changes), time_limit_s=0, progress=lambda *state: seen.append(state))
    assert run.stopped == "time limit"
    assert len(seen) == 1
    none_is_lost(run, seen[0][2], arrivals)


@pytest.mark.parametrize("tokenize_us", [0, 2, 500])
def test_an_interrupt_stops_the_run_and_cancels_what_is_under_way(arrivals, tokenize_us):
    seen = []

    def progress(ended, expected, now_s):
        seen.append(now_s)
        if len(seen) == 3:
            raise KeyboardInterrupt

    changes = {"performance.tokenize_us_per_token": tokenize_us}
    run = llmsim.simulate(scenario(**changes), progress=progress)
    assert run.stopped == "interrupted"
    assert run.records[0].status == "finished"
    none_is_lost(run, seen[-1], arrivals)


def test_a_run_that_ends_before_anybody_looks_is_not_stopped():
    run = llmsim.simulate(scenario(**{"workload.num_prompts": 5}))
    assert EVENTS_PER_LOOK > 20
    assert run.stopped is None
    assert [record.status for record in run.records] == ["finished"] * 5


NEVER = """
from llmsim.schedulers.batch import Batch

class Never:
    def __init__(self, options, pool):
        self.answers = 0
    def add(self, sequence):
        return True
    def next_batch(self):
        return None
    def settle(self, batch, steps):
        return []

class Empty(Never):
    def next_batch(self):
        return Batch([])
"""


@pytest.mark.parametrize("name", ["Never", "Empty"])
def test_a_scheduler_that_computes_nothing_is_told_so(name, tmp_path, monkeypatch):
    (tmp_path / "stalling_scheduler.py").write_text(NEVER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "stalling_scheduler", raising=False)
    stalling = scenario(scheduler=f"stalling_scheduler:{name}", **{"workload.num_prompts": 3})
    with pytest.raises(llmsim.StalledError, match=r"replica 0\b.*\b3 requests"):
        llmsim.simulate(stalling)


# ---------------------------------------------------------------------- other prices on the way


def repriced(requests, moment_s, *, leap: bool, **changes):
    """Simulate with steps that take twice as long from ``moment_s`` on (None: never)."""
    clock, engine, records = assembled(leap=leap, **changes)
    engine_options = engine.options
    for request in requests:
        clock.alarm(request.arrival_s, lambda _, request=request: engine.submit(request))
    if moment_s is not None:
        slower = [StepCost(QuarterSecond(2 * STEP_S), engine_options)]
        clock.alarm(moment_s, lambda _: engine.reprice(slower))
    clock.run()
    return records, engine


@LEAPS
@pytest.mark.parametrize(("asynchronous", "formed"), [(False, 3), (True, 4)])
def test_steps_that_are_formed_keep_their_price_and_the_next_have_the_new_one(asynchronous, formed, leap):
    (record,), engine = repriced([Request("0", 0.0, 1, 40)], 0.6, leap=leap, async_scheduling=asynchronous)
    assert record.first_token_s == 0.25
    assert record.finished_s == formed * STEP_S + (40 - formed) * 2 * STEP_S
    assert engine.steps == 40


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("moment_s", [0.0, 0.1, 5.0, 5.01, 17.3, 29.875, 1000.0])
def test_repricing_in_the_middle_of_a_leap_leaves_the_past_as_it_is(moment_s, asynchronous):
    requests = [Request(str(number), 0.7 * number, 20, 1 + 13 * (number % 7)) for number in range(40)]
    changes = {"async_scheduling": asynchronous, "max_num_seqs": 8}
    plain, _ = repriced(requests, None, leap=True, **changes)
    leapt, engine = repriced(requests, moment_s, leap=True, **changes)
    stepped, slow = repriced(requests, moment_s, leap=False, **changes)
    assert [astuple(record) for record in leapt] == [astuple(record) for record in stepped]
    assert engine.steps == slow.steps
    past = [astuple(record) for record in plain if record.finished_s <= moment_s]
    assert [astuple(record) for record in leapt[: len(past)]] == past
    if moment_s < 20:
        assert leapt[-1].finished_s > plain[-1].finished_s
