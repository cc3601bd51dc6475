"""Odometers over whole runs: every second of a lane has one kind, whatever the machine was doing."""

from __future__ import annotations

from functools import cache
from random import Random

import numpy as np
import pytest
from simulations import PlainPrices, options, run

import llmsim
from llmsim.performance.odometer import kind_seconds, read_odometers
from llmsim.results.odometer import QUEUED, WAITING, by_operator, by_resource
from llmsim.timeline import Pipeline
from llmsim.workload.request import Request

BUBBLE = ("bubble", "none")
HOST = ("host", "none")


def costs(engine):
    timeline = engine.timeline
    return timeline.costs if isinstance(timeline, Pipeline) else [timeline.cost]


def read(requests, **keywords):
    """Simulate one engine; return its records, the seconds of each kind on its lane, and the engine."""
    records, engine = run(requests, **keywords)
    engine.costs = costs(engine)
    kinds, lanes = read_odometers([engine], engine.clock.now)
    return records, dict(zip(kinds, lanes[0].tolist(), strict=True)), engine


def requests(count: int, *, gap_s: float = 0.05, prompt: int = 300, output: int = 40, seed: int = 0) -> list[Request]:
    random = Random(seed)
    moments = np.cumsum([random.expovariate(1 / gap_s) for _ in range(count)]).tolist()
    return [
        Request(str(number), moment, random.randint(1, prompt), random.randint(1, output))
        for number, moment in enumerate(moments)
    ]


def in_a_row(count: int) -> list[Request]:
    """Return requests of which each one has ended before the next one comes."""
    return [Request(str(number), 10.0 * number, 50 + number, 30) for number in range(count)]


# ---------------------------------------------------------------------- parts and wholes

VARIANTS = {
    "synchronous": {},
    "asynchronous": {"engine": options(async_scheduling=True)},
    "stepping": {"leap": False},
    "host": {"prices": [PlainPrices(host=0.003)]},
    "windows": {"windows": (64,), "prices": [PlainPrices((None, 64))]},
    "static": {"scheduler": "static"},
    "short of blocks": {"blocks": 30},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_parts_of_a_lane_add_up_to_the_clock(variant):
    records, lane, engine = read(requests(60), **VARIANTS[variant])

    assert sum(lane.values()) == pytest.approx(engine.clock.now, rel=1e-12)
    assert min(lane.values()) >= 0
    assert BUBBLE not in lane
    assert lane[QUEUED] == 0  # a state of requests, not of lanes
    if variant == "short of blocks":
        assert engine.preemptions
    for record in records:
        assert sum(record.bill) == pytest.approx(record.finished_s - record.arrival_s, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_two_axes_are_two_cuts_of_the_same_time(variant):
    _, lane, _ = read(requests(40), **VARIANTS[variant])

    resources, operators = by_resource(lane.values(), lane), by_operator(lane.values(), lane)
    assert sum(resources.values()) == pytest.approx(sum(operators.values()), rel=1e-12)
    assert resources["compute"] + resources["memory"] == pytest.approx(
        operators["feed_forward"] + operators["attention"], rel=1e-12
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_lane_waits_exactly_when_no_batch_is_in_flight(variant):
    _, lane, engine = read(requests(30, gap_s=0.6), **VARIANTS[variant])
    columns = engine.log.columns()
    begins = np.maximum(columns["start_s"], np.concatenate(([0.0], columns["end_s"][:-1])))

    assert lane[WAITING] > 0.1
    assert lane[WAITING] == pytest.approx(engine.clock.now - (columns["end_s"] - begins).sum(), rel=1e-9)


def test_requests_one_after_the_other_pay_for_all_that_the_lane_did():
    records, lane, _ = read(in_a_row(6))
    bills = np.array([record.bill for record in records]).sum(axis=0)

    for (kind, seconds), billed in zip(lane.items(), bills, strict=True):
        if kind not in (WAITING, QUEUED):
            assert billed == pytest.approx(seconds, rel=1e-9)
    assert bills[list(lane).index(WAITING)] == pytest.approx(0, abs=1e-9)
    assert bills[list(lane).index(QUEUED)] == pytest.approx(0, abs=1e-9)


def test_a_request_alone_is_billed_what_its_prices_say():
    prices = PlainPrices(bend=0.0)
    prompt, output = 100, 50
    (record,), lane, _ = read(
        [Request("only", 0.0, prompt, output)], prices=[prices], engine=options(cudagraph_sizes=())
    )
    attended = sum(range(prompt + 1, prompt + output)) * prices.context
    chunk = prompt * (prompt / 2) * 1e-9

    assert lane["compute", "feed_forward"] == pytest.approx(output * 0.01 + (prompt + output - 1) * 1e-5, rel=1e-9)
    assert lane["memory", "attention"] == pytest.approx(0.75 * attended + 0.5 * chunk, rel=1e-6)
    assert lane["compute", "attention"] == pytest.approx(0.25 * attended + 0.5 * chunk, rel=1e-6)
    assert sum(record.bill) == pytest.approx(record.finished_s, rel=1e-12)


def test_leaping_reads_what_stepping_reads():
    for variant in ("synchronous", "asynchronous", "host", "windows"):
        _, leapt, _ = read(requests(60), **VARIANTS[variant])
        _, stepped, _ = read(requests(60), **VARIANTS[variant], leap=False)

        assert leapt.keys() == stepped.keys()
        assert list(leapt.values()) == pytest.approx(list(stepped.values()), rel=1e-4, abs=1e-6)


def test_every_row_of_a_log_is_split_without_a_remainder():
    _, engine = run(requests(60), prices=[PlainPrices(host=0.003)])
    kinds, seconds = kind_seconds(engine.log, costs(engine))
    columns = engine.log.columns()

    assert seconds.shape == (len(engine.log), len(kinds))
    assert seconds.min() >= 0
    assert seconds.sum(axis=1) == pytest.approx(columns["end_s"] - columns["start_s"], rel=1e-9)


# ---------------------------------------------------------------------- pipelines


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_single_sequence_in_a_pipeline_leaves_all_stages_but_one_idle(stages):
    _, lane, engine = read(
        [Request("only", 0.0, 50, 100)],
        prices=[PlainPrices() for _ in range(stages)],
        engine=options(pipeline_parallel_size=stages),
    )

    assert lane[BUBBLE] == pytest.approx((1 - 1 / stages) * engine.clock.now, rel=1e-6)
    assert sum(lane.values()) == pytest.approx(engine.clock.now, rel=1e-9)


def test_stages_that_are_not_alike_are_busy_one_at_a_time_too():
    prices = [PlainPrices(fixed=0.003), PlainPrices(fixed=0.009)]
    _, lane, engine = read([Request("only", 0.0, 50, 100)], prices=prices, engine=options(pipeline_parallel_size=2))

    assert lane[BUBBLE] / engine.clock.now == pytest.approx(0.5, rel=1e-6)


def test_more_sequences_fill_the_bubbles_of_a_pipeline():
    def bubble(count: int) -> float:
        asked = [Request(str(number), 0.0, 200, 60) for number in range(count)]
        _, lane, engine = read(
            asked,
            prices=[PlainPrices(), PlainPrices()],
            engine=options(pipeline_parallel_size=2, max_num_batched_tokens=256),
            leap=False,
        )
        assert sum(lane.values()) == pytest.approx(engine.clock.now, rel=1e-9)
        return lane.get(BUBBLE, 0.0) / engine.clock.now

    assert bubble(1) == pytest.approx(0.5, rel=1e-6)
    assert bubble(8) < 0.1


# ---------------------------------------------------------------------- host

DEVICE_S = 0.01  # a step of PlainPrices takes a little more


def test_synchronous_scheduling_shows_the_host_at_every_step():
    _, lane, engine = read(requests(20), prices=[PlainPrices(host=0.004)])

    assert lane[HOST] == pytest.approx(engine.steps * 0.004, rel=1e-3)


def test_asynchronous_scheduling_hides_a_host_that_fits():
    _, lane, engine = read(requests(20), prices=[PlainPrices(host=0.004)], engine=options(async_scheduling=True))

    assert engine.steps > 100
    assert lane.get(HOST, 0.0) == pytest.approx(0.0, abs=1e-9)


def test_asynchronous_scheduling_shows_what_of_the_host_does_not_fit():
    _, lane, engine = read(
        [Request("only", 0.0, 1, 500)],
        prices=[PlainPrices(host=0.03, context=0.0, bend=0.0)],
        engine=options(async_scheduling=True),
    )

    assert engine.steps == 500
    assert lane[HOST] == pytest.approx(500 * (0.03 - DEVICE_S - 1e-5), rel=1e-3)
    assert engine.clock.now == pytest.approx(500 * 0.03, rel=1e-9)


def test_without_host_time_none_shows():
    for asynchronous in (False, True):
        _, lane, _ = read(requests(20), engine=options(async_scheduling=asynchronous))
        assert lane.get(HOST, 0.0) == pytest.approx(0.0, abs=1e-9)


# ---------------------------------------------------------------------- real prices


@cache
def simulated(**changes) -> llmsim.Run:
    plain = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 6, "num_prompts": 60, "seed": 3}
    return llmsim.simulate(llmsim.scenario(**{**plain, **changes}))


def share(result: llmsim.Run, resource: str) -> float:
    """Return the share of a resource in the time in which devices work."""
    times = result.time_by_resource()
    return times.get(resource, 0.0) / sum(times.get(name, 0.0) for name in ("compute", "memory", "communication"))


def test_the_compute_share_rises_with_the_prompts():
    shares = [
        share(simulated(input_len=prompt, output_len=output), "compute")
        for prompt, output in ((32, 256), (512, 128), (2048, 32), (8192, 2))
    ]

    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[-1] > 0.7


def test_only_devices_that_share_the_work_communicate():
    shares = [
        share(simulated(model="llama-3.1-70b", quantization=form, tensor_parallel_size=devices), "communication")
        for devices, form in ((1, "fp8"), (2, "fp8"), (4, "fp8"), (8, "fp8"))
    ]

    assert shares[0] == 0
    assert 0 < shares[1] < shares[2] < shares[3] < 1


def test_cycles_per_token_are_seconds_times_the_clock_over_tokens():
    result = simulated(replicas=2)
    cycles, times = result.cycles_per_token(), result.time_by_resource()
    tokens = sum(record.output_tokens for record in result.records)

    assert result.clock_hz is not None
    assert 1e9 < result.clock_hz < 3e9
    assert cycles.keys() == times.keys()
    for resource, seconds in times.items():
        assert cycles[resource] == pytest.approx(seconds * result.clock_hz / tokens, rel=1e-12)
    last_s = max(record.finished_s for record in result.records)
    assert sum(cycles.values()) == pytest.approx(2 * last_s * result.clock_hz / tokens, rel=1e-9)


def test_faster_devices_work_fewer_seconds_for_the_same_tokens():
    slow, fast = simulated(gpu="a100-80gb-sxm"), simulated(gpu="h200-sxm")

    for resource in ("compute", "memory"):
        assert slow.time_by_resource()[resource] > fast.time_by_resource()[resource]
    assert slow.metrics["total_output_tokens"] == fast.metrics["total_output_tokens"]
