"""Whether a run settled, how long it takes to warm up, and what a run says of it."""

import json
import math

import numpy as np
import pytest

import llmsim
from llmsim.results.outcome import Outcome
from llmsim.results.records import Record
from llmsim.results.steadiness import FEWEST_ARRIVALS, grows, steadiness, warm_up


def record(number: int, arrival_s: float, admitted_s: float | None, end_s: float) -> Record:
    status = "cancelled" if admitted_s is None else "finished"
    return Record(str(number), 0, status, None, 1, arrival_s, admitted_s, admitted_s, end_s, 10, 1, 0, 0)


def served(count: int, gap_s: float, service_s: float, *, seats: int = 1) -> list[Record]:
    """Return the records of regular arrivals at ``seats`` servers."""
    free = [0.0] * seats
    records = []
    for number in range(count):
        seat = free.index(min(free))
        begin = max(free[seat], number * gap_s)
        free[seat] = begin + service_s
        records.append(record(number, number * gap_s, begin, free[seat]))
    return records


def verdict(records):
    return steadiness(records, records)


def test_a_server_that_keeps_up_is_settled():
    assert verdict(served(400, 1.0, 0.9)).settled
    assert verdict(served(400, 1.0, 0.9)).saturated is False
    assert verdict(served(400, 1.0, 0.9)).reason is None


def test_a_server_that_does_not_is_saturated():
    """A third more comes than is served: by hand, the n-th arrival finds n / 4 in the system."""
    told = verdict(served(400, 0.75, 1.0))
    assert (told.settled, told.saturated) == (False, True)
    assert told.reason == (
        "requests come faster than they are served (38 requests in the system in the second quarter of the arrivals, "
        "88 in the last)"
    )


def test_a_batch_that_still_fills_is_not_settled_but_not_saturated_either():
    told = verdict(served(400, 0.1, 100.0, seats=1000))
    assert (told.settled, told.saturated) == (False, False)
    assert told.reason.endswith("the batches were still filling")


def test_requests_that_all_come_at_once_are_no_steady_state():
    told = verdict(served(100, 0.0, 1.0))
    assert (told.settled, told.saturated) == (False, True)
    assert told.reason == "all 100 requests came at once"


def test_those_who_were_never_admitted_waited():
    records = served(200, 1.0, 0.5)
    late = [record(200 + n, 200.0 + n, None, 1000.0) for n in range(200)]
    assert verdict(records + late).saturated


def test_few_requests_say_nothing():
    told = verdict(served(FEWEST_ARRIVALS - 1, 0.5, 1.0))
    assert (told.settled, told.saturated) == (None, None)
    assert told.reason == "39 requests are too few to tell"


def test_a_burst_that_is_worked_off_is_not_growth():
    random = np.random.default_rng(3)
    found = np.concatenate((np.zeros(100), np.arange(100.0, 0.0, -1.0), random.poisson(3.0, 200)))
    assert not grows(found)


def test_noise_of_a_full_house_is_not_growth():
    """The number in an M/G/infinity system is Poisson; of independent looks none makes a trend."""
    found = [np.random.default_rng([4, number]).poisson(50.0, 400).astype(float) for number in range(200)]
    assert not any(grows(one) for one in found)


# ---------------------------------------------------------------------- warm-up


def test_the_warm_up_of_a_step_is_where_the_step_is():
    noise = np.random.default_rng(7).normal(10.0, 1.0, 1000)
    noise[:150] -= 8.0
    assert warm_up(noise) == 150


def test_mser_is_the_least_of_its_definition():
    """Against the formula as White writes it: the squared standard error of the mean of what is left."""
    values = np.random.default_rng(8).exponential(size=300) + 4.0 * np.exp(-np.arange(300) / 20.0)
    means = values.reshape(60, 5).mean(axis=1)
    errors = [np.sum((means[cut:] - means[cut:].mean()) ** 2) / (60 - cut) ** 2 for cut in range(56)]
    assert warm_up(values) == 5 * int(np.argmin(errors))


def test_a_drift_has_no_warm_up_in_sight():
    assert warm_up(np.arange(500.0) ** 2) is None
    assert warm_up(np.arange(7.0)) is None


def test_the_warm_up_found_is_left_out_and_told():
    random = np.random.default_rng(9)
    lengths = np.where(np.arange(400) < 100, 20.0, 5.0) + random.uniform(0.0, 1.0, 400)
    records = [record(n, float(n), n + 0.5, n + lengths[n]) for n in range(400)]
    plain, auto = Outcome(records=records), Outcome(records=records, warmup_requests=None)
    assert auto.found_warmup == plain.found_warmup == 100
    assert auto.metrics["completed"] == 300
    assert auto.metrics["mean_e2el_ms"] == pytest.approx(1e3 * lengths[100:].mean())
    assert "warmup: auto left out the first 100 requests" in auto.notes()
    [note] = [note for note in plain.notes() if "warm-up" in note]
    assert note.startswith("the first 100 requests look like a warm-up: without them (warmup: auto) the mean")


# ---------------------------------------------------------------------- of whole runs

ONE = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


@pytest.fixture(scope="module")
def busy():
    return llmsim.simulate(llmsim.scenario(**ONE, request_rate=10, num_prompts=400))


@pytest.fixture(scope="module")
def overloaded():
    return llmsim.simulate(llmsim.scenario(**ONE, request_rate=60, num_prompts=400, max_num_seqs=16))


THROUGHPUTS = {"request_throughput", "output_throughput", "total_token_throughput"}


def test_the_summary_has_an_interval_for_each_latency_and_throughput(busy):
    told = json.loads(busy.to_json())
    keys = {f"{name}_{latency}_ms" for latency in ("ttft", "tpot", "itl", "e2el", "queue_time")
            for name in ("mean", "median", "p50", "p90", "p95", "p99")}  # fmt: skip
    assert told["ci95"].keys() == keys | THROUGHPUTS
    assert told["saturated"] is False
    assert told["settled"] is True
    assert told["warmup_requests"] == 0
    for key, ends in told["ci95"].items():
        assert (ends is None) == (key in told["not_estimable"])
        # A throughput counts the drain, its interval does not.
        assert ends is None or key in THROUGHPUTS or ends[0] <= told["metrics"][key] <= ends[1], key
    assert sum(ends is not None for ends in told["ci95"].values()) > 20


def test_the_text_has_them_below_the_block(busy):
    lines = busy.summary().splitlines()
    low, high = json.loads(busy.to_json())["ci95"]["mean_ttft_ms"]
    assert any(line.startswith(f"ci95: TTFT (ms) mean {low:.2f} to {high:.2f}, p50 ") for line in lines)
    assert busy.summary([99], ["e2el"]).count("ci95: ") <= 2


def test_an_overloaded_run_says_so_and_its_latencies_have_no_intervals(overloaded):
    told = json.loads(overloaded.to_json())
    assert told["saturated"] is True
    assert {key for key, ends in told["ci95"].items() if ends is not None} <= THROUGHPUTS
    assert {told["not_estimable"][key] for key in told["ci95"] if key.endswith("_ms")} == {"saturated: not estimable"}
    assert any(warning.startswith("saturated: ") for warning in told["warnings"])
    lines = overloaded.summary().splitlines()
    assert any(line.startswith("note: saturated: ") for line in lines)
    assert not any(line.startswith("ci95") and "(ms)" in line for line in lines)


def test_intervals_are_the_same_each_time_and_however_it_ran(busy):
    again = llmsim.simulate(llmsim.scenario(**ONE, request_rate=10, num_prompts=400))
    stepped = llmsim.simulate(llmsim.scenario(**ONE, request_rate=10, num_prompts=400), leap=False)
    assert again.intervals() == busy.intervals()
    for key, estimate in stepped.intervals().items():
        assert estimate.low is None or estimate.low == pytest.approx(busy.intervals()[key].low, rel=0.05), key


def test_other_percentiles_can_be_asked_for(busy):
    found = busy.intervals([75])
    assert found["p75_ttft_ms"].value == pytest.approx(busy.measure([75])["p75_ttft_ms"])
    assert "p99_ttft_ms" not in found


def test_every_gap_has_the_start_of_its_batch(busy):
    for since_s in (-math.inf, 5.0):
        for log in busy.steps:
            starts = log.gap_starts(since_s)
            assert len(starts) == len(log.client_gaps(since_s)[0])
            assert starts.min() >= since_s


def test_warmup_auto_is_a_scenario():
    scenario = llmsim.scenario(**ONE, request_rate=10, num_prompts=100)
    run = llmsim.simulate(scenario.with_({"workload.warmup": "auto"}))
    assert run.warmup_requests is None
    assert len(run.measured_records()) == 100 - (run.found_warmup or 0)
    assert any(note.startswith("warmup: auto") for note in run.notes())


def test_a_sweep_says_which_points_are_saturated():
    scenario = llmsim.scenario(**ONE, num_prompts=200, max_num_seqs=16)
    frame = llmsim.sweep(scenario, {"request_rate": [2, 60]})
    assert list(frame["saturated"]) == [False, True]
