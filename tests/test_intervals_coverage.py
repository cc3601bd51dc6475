"""Do 95 % intervals of one run hold the true value in 95 % of runs, and is an overloaded run told from a busy one?

Of an M/M/1 queue the sojourn is exponential at rate (1 - load) / service, and its runs are Lindley's recursion:
W' = max(0, W + service - gap), so W = S - min(0, all partial sums S so far).  The seeds are fixed: a test passes
always or never.  The studies of 500 runs take half a minute (`pytest -m slow`); smaller ones are in the gate.
"""

import math
from collections import Counter

import numpy as np
import pytest
from simulations import PlainPrices, options, run

from llmsim.results.estimates import FEWEST, Series
from llmsim.results.outcome import Outcome
from llmsim.results.records import Record
from llmsim.results.steadiness import grows
from llmsim.results.throughputs import throughput_intervals, window
from llmsim.workload.request import Request

CUSTOMERS = 20_000
PERCENTILES = (50, 90, 99)
RATES = ("request_throughput", "output_throughput", "request_goodput")
RUNS = pytest.param(500, marks=pytest.mark.slow)


def queue(load: float, number: int, customers: int = CUSTOMERS) -> tuple[np.ndarray, np.ndarray]:
    """Return when each customer of a queue that starts empty comes and leaves, in service times."""
    random = np.random.default_rng([55, round(1000 * load), number])
    gaps, services = random.exponential(1 / load, customers), random.exponential(1.0, customers)
    sums = np.cumsum(np.concatenate(([0.0], services[:-1] - gaps[1:])))
    arrivals = np.cumsum(gaps)
    return arrivals, arrivals + sums - np.minimum.accumulate(np.minimum(sums, 0.0)) + services


def found_by_arrivals(arrivals: np.ndarray, ends: np.ndarray) -> np.ndarray:
    return np.arange(len(arrivals)) - np.searchsorted(np.sort(ends), arrivals).astype(float)


def study(load: float, runs: int) -> tuple[Counter, Counter]:
    """Return how many intervals hold the true value, and how many are not given, of the mean and the percentiles."""
    held, withheld = Counter(), Counter()
    for number in range(runs):
        arrivals, ends = queue(load, number)
        series = Series(ends - arrivals)
        estimates = {percent: series.percentile(percent) for percent in PERCENTILES} | {"mean": series.mean()}
        for name, estimate in estimates.items():
            true = (1.0 if name == "mean" else -math.log(1 - name / 100)) / (1 - load)
            withheld[name] += not estimate.estimable
            held[name] += estimate.estimable and estimate.low <= true <= estimate.high
    print(f"M/M/1 at {load}, {runs} runs: held {dict(held)}, not estimable {dict(withheld)}")
    return held, withheld


@pytest.mark.parametrize("runs", [60, RUNS])
def test_at_a_load_of_seventy_percent_intervals_hold_the_true_value(runs):
    held, withheld = study(0.7, runs)
    # Three standard errors of the few runs in the gate; the study is held to the promise itself.
    low, high = (0.92, 0.98) if runs == 500 else (0.88, 1.0)
    for name in ("mean", *PERCENTILES):
        assert low <= held[name] / runs <= high, (name, held[name])
    assert withheld["mean"] == withheld[50] == withheld[90] == 0
    assert withheld[99] <= 0.05 * runs


@pytest.mark.parametrize("runs", [60, RUNS])
def test_at_ninety_percent_they_hold_it_or_say_that_they_cannot(runs):
    held, withheld = study(0.9, runs)
    for name in ("mean", *PERCENTILES):
        assert (held[name] + withheld[name]) / runs >= (0.92 if runs == 500 else 0.88), (name, held[name])
    assert withheld[50] == 0
    assert withheld[99] >= 0.8 * runs  # 200 values, worth less than one independent one


@pytest.mark.parametrize("runs", [100, RUNS])
@pytest.mark.parametrize(("load", "least", "most"), [(0.7, 0.0, 0.0), (0.9, 0.0, 0.05), (1.05, 0.95, 1.0), (1.2, 1, 1)])
def test_an_overloaded_queue_grows_and_a_busy_one_does_not(load, least, most, runs):
    share = np.mean([grows(found_by_arrivals(*queue(load, number))) for number in range(runs)])
    print(f"M/M/1 at {load}, {runs} runs: {share:.1%} grow")
    assert least <= share <= most


def served(arrivals: np.ndarray, ends: np.ndarray) -> list[Record]:
    """Return the records of a queue's customers."""
    begun = np.maximum(arrivals, np.concatenate(([0.0], ends[:-1])))
    times = zip(arrivals.tolist(), begun.tolist(), ends.tolist(), strict=True)
    return [
        Record(str(number), 0, "finished", "length", 1, came, began, end, end, 1, 1, 0, 0)
        for number, (came, began, end) in enumerate(times)
    ]


@pytest.mark.parametrize("runs", [60, RUNS])
@pytest.mark.parametrize("customers", [1000, pytest.param(CUSTOMERS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("load", [0.7, 0.9, 1.05, 1.2])
def test_the_interval_of_a_throughput_holds_the_rate_of_an_endless_run(load, customers, runs):
    # A queue with load to spare serves all that come, an overloaded one as many as it can.
    true, held = min(load, 1.0), 0
    for number in range(runs):
        records = served(*queue(load, number, customers))
        run_s = records[-1].finished_s - records[0].arrival_s
        metrics = dict.fromkeys((*RATES[:2], "total_token_throughput"), customers / run_s)
        estimate = throughput_intervals(records, metrics)["request_throughput"]
        held += estimate.low <= true <= estimate.high
    print(f"M/M/1 at {load}, {customers} customers, {runs} runs: {held / runs:.1%} hold the rate")
    assert held / runs >= (0.88 if runs == 60 else 0.92)


def test_the_drain_and_the_beginning_are_not_counted():
    # One request a second, which takes 10 s: the first ends at 10 s, the last comes at 99 s and ends at 109 s.  In
    # between one ends each second, but 100 requests in 109 s are 0.917 a second.
    records = served(np.arange(100.0), np.arange(100.0) + 10.0)
    for record in records:
        record.admitted_s = record.arrival_s
    outcome = Outcome(records=records)
    assert outcome.metrics["request_throughput"] == pytest.approx(100 / 109)
    estimate = outcome.intervals()["request_throughput"]
    assert (estimate.low, estimate.high) == pytest.approx((1.0, 1.0), rel=0.05)
    assert estimate.value == outcome.metrics["request_throughput"]


def test_a_queue_is_served_until_its_last_admission():
    # All come at once to a server of one second each: what it does is seen until the last one is admitted, at 59 s.
    records = served(np.zeros(60), np.arange(1.0, 61.0))
    from llmsim.results.metrics import timings

    assert window(records, timings(records), -math.inf) == (1.0, 59.0)
    outcome = Outcome(records=records)
    assert outcome.steadiness.saturated
    assert outcome.intervals()["request_throughput"].low <= 1.0 <= outcome.intervals()["request_throughput"].high


def test_goodput_is_not_estimable_where_the_queue_grows():
    arrivals, ends = queue(1.3, 1, 2000)
    outcome = Outcome(records=served(arrivals, ends), goodput={"e2el": 20_000.0})
    assert outcome.steadiness.saturated
    found = outcome.intervals()
    assert found["request_goodput"].reason == "saturated: not estimable"
    assert found["request_throughput"].estimable


def test_few_requests_have_no_interval_of_their_throughput():
    outcome = Outcome(records=served(*queue(0.5, 1, FEWEST)))
    assert outcome.intervals()["request_throughput"].reason.startswith("fewer than")


def test_all_good_none_good():
    arrivals, ends = queue(0.5, 1, 500)
    everybody = Outcome(records=served(arrivals, ends), goodput={"e2el": 1e9}).intervals()
    assert everybody["request_goodput"] == everybody["request_throughput"]
    nobody = Outcome(records=served(arrivals, ends), goodput={"e2el": 1e-9}).intervals()["request_goodput"]
    assert nobody.value == 0.0
    assert not nobody.estimable


@pytest.mark.parametrize("runs", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_throughputs_of_a_batching_engine_are_within_their_intervals(runs):
    import llmsim

    random = {"name": "random", "input_len": 1024, "output_len": 128, "range_ratio": 0.8}
    base = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=12,
                           num_prompts=300 if runs == 10 else 1000, **{"workload.dataset": random})  # fmt: skip
    held = Counter()
    for number in range(runs):
        found = llmsim.simulate(base.with_(seed=1000 + number)).intervals()
        for name, true in (("request_throughput", 12.0), ("output_throughput", 12.0 * 128)):
            held[name] += found[name].low <= true <= found[name].high
    print(f"batching, {runs} runs: {dict(held)}")
    assert min(held.values()) / runs >= (0.7 if runs == 10 else 0.92)


# ---------------------------------------------------------------------- through the simulator


class PerToken(PlainPrices):
    """A step takes ``token`` seconds for each token; attention is free."""

    def __init__(self, token: float):
        super().__init__(fixed=0.0, token=token, context=0.0, bend=0.0)

    def mixed_attention(self, group, chunks, decodes, context_sum, longest_context):
        return 0.0, 0.0


def simulated(load: float, customers: int, seed: int) -> Outcome:
    """Return a run of an engine that serves one prompt at a time, of exponential length: an M/M/1 queue."""
    random = np.random.default_rng([56, seed])
    longest, service_s, tokens = 1 << 20, 0.01, 2000.0
    arrivals = random.exponential(service_s / load, customers).cumsum()
    lengths = np.maximum(1, np.rint(random.exponential(tokens, customers)))
    asked = [Request(str(number), float(arrivals[number]), int(lengths[number]), 1) for number in range(customers)]
    engine = options(max_num_seqs=1, max_num_batched_tokens=longest, max_model_len=longest, cudagraph_sizes=())
    records, served = run(asked, engine=engine, blocks=longest, prices=[PerToken(service_s / tokens)])
    records.sort(key=lambda record: int(record.id))
    return Outcome(records=records, steps=[served.log], seed=seed)


def test_a_simulated_queue_is_within_its_intervals():
    outcome = simulated(0.7, 4000, 1)
    found = outcome.intervals([50, 90, 99])
    mean_ms = 10.0 / 0.3
    assert outcome.steadiness.settled
    assert found["mean_e2el_ms"].low <= mean_ms <= found["mean_e2el_ms"].high
    for percent in (50, 90):
        estimate = found[f"p{percent}_e2el_ms"]
        assert estimate.value == pytest.approx(outcome.metrics[f"p{percent}_e2el_ms"])
        assert estimate.low <= -mean_ms * math.log(1 - percent / 100) <= estimate.high
    assert found["median_e2el_ms"] == found["p50_e2el_ms"]
    assert not any(note.startswith(("saturated", "not settled")) for note in outcome.notes())


def test_an_overloaded_simulated_queue_is_saturated_and_nothing_is_estimable():
    outcome = simulated(1.3, 3000, 1)
    assert outcome.steadiness.saturated
    found = outcome.intervals()
    latencies = [estimate for key, estimate in found.items() if key.endswith("_ms")]
    assert not any(estimate.estimable for estimate in latencies)
    assert {estimate.reason for estimate in latencies} == {"saturated: not estimable"}
    # What it serves is its capacity: one request in 10 ms.
    assert found["request_throughput"].low <= 100.0 <= found["request_throughput"].high
    assert outcome.intervals()["p99_ttft_ms"].value == pytest.approx(outcome.metrics["p99_ttft_ms"])
    assert any(note.startswith("saturated") for note in outcome.notes())
