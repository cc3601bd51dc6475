"""What must hold whatever is simulated: one engine with plain prices, on random scenarios."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import fixed_draws, scenarios, unshrunk
from simulations import PlainPrices, options, run
from watched import check_bills, check_log, check_records, watched

from llmsim.performance.odometer import read_odometers
from llmsim.results.odometer import QUEUED, WAITING
from llmsim.workload.request import Request


def check_whole(scenario: dict) -> None:
    """Run a scenario and check everything but the odometers."""
    records, engine = watched(scenario)
    watch = engine.scheduler
    check_records(records, scenario["requests"])
    by_id = {request.id: request for request in scenario["requests"]}
    longest = scenario["engine"].max_model_len
    for record in records:
        request = by_id[record.id]
        if record.status == "rejected":
            assert record.reason == engine.refusal(request)
        else:
            assert record.status == "finished"
            assert engine.refusal(request) is None
            assert record.output_tokens == request.output_tokens <= longest - request.prompt_tokens
    finished = {record.id: record for record in records if record.status == "finished"}
    assert len(finished) == len(watch.came)
    for sequence, (tokens, first_s, last_s) in watch.came.items():
        record = finished[sequence.request.id]
        assert (tokens, first_s, last_s) == (record.output_tokens, record.first_token_s, record.finished_s)
        needed = record.prompt_tokens + record.output_tokens - 1 - record.cached_tokens
        assert watch.work[sequence] == needed if not record.preemptions else watch.work[sequence] >= needed
    columns = engine.log.columns()
    logged = columns["prefill_tokens"] + columns["decodes"] * columns["steps"]
    assert int(logged.sum()) == sum(watch.work.values())
    assert int(columns["steps"].sum()) == engine.steps
    assert engine.pool.free == engine.pool.blocks
    assert engine.load == 0
    assert sum(record.preemptions for record in records) == engine.preemptions


@settings(fixed_draws, max_examples=300)
@given(scenarios())
def test_every_request_ends_as_one_record_and_every_token_is_accounted_for(scenario):
    check_whole(scenario)


@settings(fixed_draws, max_examples=120)
@given(scenarios(pipelined=True))
def test_the_same_in_a_pipeline(scenario):
    check_whole(scenario)


def test_equals_in_priority_and_arrival_do_not_preempt_each_other_for_ever():
    engine = options(
        scheduling_policy="priority",
        scheduler_reserve_full_isl=False,
        long_prefill_token_threshold=8,
        max_num_batched_tokens=64,
        block_size=1,
    )
    asked = [Request(name, 0.0, 40, 2) for name in "ab"]
    check_whole({"requests": asked, "engine": engine, "blocks": 42, "windows": (), "prices": [PlainPrices()]})


def check_odometers(scenario: dict, *, all_records: bool = True) -> None:
    """Check bills and lanes; a record's work must be the wall time of the batches that it was in.

    Where prompts pause between chunks (`prefill_schedule_interval`) it is billed for the batches between, too.
    """
    records, engine = watched(scenario)
    overlapping = scenario["engine"].pipeline_parallel_size > 1
    check_log(engine.log, overlapping=overlapping)
    kinds, lanes = read_odometers([engine], engine.clock.now)
    chosen = [record for record in records if all_records or not record.preemptions]
    check_bills(chosen, kinds, lanes, engine.clock.now, overlapping=overlapping)
    spent = {sequence.request.id: seconds for sequence, seconds in engine.scheduler.spent.items()}
    for record in chosen if not overlapping else ():
        if record.status == "finished":
            billed = zip(kinds, record.bill, strict=True)
            work = sum(seconds for kind, seconds in billed if kind not in (WAITING, QUEUED))
            rounding = 1e-9 * max(1.0, record.finished_s)
            assert work >= spent[record.id] - rounding
            if scenario["engine"].prefill_schedule_interval == 1:
                assert work <= spent[record.id] + rounding


@settings(fixed_draws, max_examples=150)
@given(scenarios(asynchronous=False))
def test_bills_add_up_to_the_time_in_batches(scenario):
    check_odometers(scenario)


@settings(fixed_draws, max_examples=150)
@given(scenarios(asynchronous=True))
def test_bills_add_up_with_a_batch_formed_ahead(scenario):
    check_odometers(scenario, all_records=False)


@settings(unshrunk, max_examples=150)
@given(scenarios(asynchronous=True))
def test_bills_add_up_when_a_batch_in_flight_is_preempted(scenario):
    check_odometers(scenario)


@settings(unshrunk, max_examples=150)
@given(scenarios(pipelined=True))
def test_bills_add_up_in_a_pipeline(scenario):
    check_odometers(scenario)


def check_gaps(scenario: dict, *, leap: bool, preempted: bool = True) -> None:
    """Check that the log has as many gaps between tokens as the records, and of the same length in all."""
    records, engine = run(**scenario, leap=leap)
    values, weights = engine.log.gaps()
    finished = [record for record in records if record.status == "finished"]
    assert int(weights.sum()) == sum(record.output_tokens - 1 for record in finished)
    _, tokens = engine.log.tokens()
    assert int(tokens.sum()) == sum(record.output_tokens for record in finished)
    if engine.preemptions and not preempted:
        return
    seconds = sum(record.finished_s - record.first_token_s for record in finished)
    # Within a leap the log runs durations straight from the first step to the last, the price has bends.
    assert float((values * weights).sum()) == pytest.approx(seconds, rel=1e-4 if leap else 1e-9, abs=1e-6)


@settings(fixed_draws, max_examples=80)
@given(scenarios(asynchronous=False), st.booleans())
def test_gaps_between_tokens_are_those_of_the_records(scenario, leap):
    check_gaps(scenario, leap=leap)


@settings(fixed_draws, max_examples=80)
@given(scenarios(asynchronous=True) | scenarios(pipelined=True), st.booleans())
def test_gaps_between_tokens_with_batches_in_flight(scenario, leap):
    check_gaps(scenario, leap=leap, preempted=False)


def contended(**changes) -> dict:
    """Return a scenario in which a sequence is preempted as soon as its tokens are on the way."""
    engine = options(max_num_batched_tokens=32, block_size=1, scheduler_reserve_full_isl=False, **changes)
    asked = [Request(str(number), 0.0, 1, output) for number, output in enumerate([2, 3, 1])]
    prices = [PlainPrices() for _ in range(engine.pipeline_parallel_size)]
    return {"requests": asked, "engine": engine, "blocks": 4, "prices": prices}


def test_gaps_between_tokens_with_a_batch_in_flight_preempted():
    check_gaps(contended(async_scheduling=True), leap=False)


@settings(unshrunk, max_examples=150)
@given(scenarios(asynchronous=True), st.booleans())
def test_gaps_between_tokens_with_a_batch_formed_ahead_and_preemptions(scenario, leap):
    check_gaps(scenario, leap=leap)


@settings(unshrunk, max_examples=80)
@given(scenarios(pipelined=True), st.booleans())
def test_gaps_between_tokens_in_a_pipeline_with_preemptions(scenario, leap):
    check_gaps(scenario, leap=leap)


def test_an_idle_pipeline_waits():
    asked = [Request("early", 0.0, 10, 5), Request("late", 100.0, 10, 5)]
    prices = [PlainPrices(), PlainPrices()]
    records, engine = run(asked, engine=options(pipeline_parallel_size=2), prices=prices)
    engine.costs = engine.timeline.costs
    kinds, [lane] = read_odometers([engine], engine.clock.now)
    assert lane[kinds.index(WAITING)] == pytest.approx(100.0 - records[0].finished_s, rel=1e-9)
    assert records[1].bill == pytest.approx(records[0].bill, abs=1e-9)


def check_pipelined_logs(scenario: dict, names: list[str]) -> None:
    """Check columns of the log, in which a leap through a pipeline is as many rows as it has steps."""
    logs = [run(**scenario, leap=leap)[1].log.columns() for leap in (True, False)]
    for name in names:
        assert np.array_equal(logs[0][name], logs[1][name]), name


@settings(fixed_draws, max_examples=60)
@given(scenarios(pipelined=True))
def test_a_pipeline_logs_the_same_steps_whether_it_leaps_or_not(scenario):
    check_pipelined_logs(scenario, ["start_s", "end_s", "steps", "decodes", "prefill_tokens", "busy_s", "regular"])


@settings(unshrunk, max_examples=150)
@given(scenarios(pipelined=True))
def test_a_pipeline_logs_the_contexts_of_its_steps_whether_it_leaps_or_not(scenario):
    check_pipelined_logs(scenario, ["context"])


@settings(fixed_draws, max_examples=40)
@given(scenarios(), st.sampled_from(["continuous", "static"]))
def test_a_scenario_has_one_outcome(scenario, scheduler):
    once, first = run(**scenario, scheduler=scheduler)
    again, second = run(**scenario, scheduler=scheduler)
    assert [astuple(record) for record in once] == [astuple(record) for record in again]
    assert all(np.array_equal(first.log.columns()[name], column) for name, column in second.log.columns().items())


@settings(fixed_draws, max_examples=40)
@given(scenarios())
def test_static_batching_ends_every_request_too(scenario):
    records, engine = run(**scenario, scheduler="static")
    check_records(records, scenario["requests"], streamed=False)
    assert engine.pool.free == engine.pool.blocks
    assert engine.load == 0
    check_log(engine.log)
