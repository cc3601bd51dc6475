"""Metrics against figures by hand, against plain loops over single requests, and against numpy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import synthetic_run

from llmsim.results.metrics import measure
from llmsim.results.percentiles import percentiles, summarise, thin
from llmsim.results.records import Record
from llmsim.results.steps import StepLog


def record(id, arrival, admitted, first, end, prompt, output, status="finished", reason=None):
    return Record(id, 0, status, reason, 0, arrival, admitted, first, end, prompt, output, 0, 0)


THREE = [
    record("a", 0.0, 0.125, 0.5, 2.5, 10, 5),
    record("b", 1.0, 1.0, 1.25, 1.25, 20, 1),
    record("c", 2.0, 2.5, 3.0, 6.0, 30, 3),
    record("d", 2.0, None, None, 2.0, 9999, 0, "rejected", "too long"),
]


def test_totals_of_three_requests_by_hand():
    metrics = measure(THREE)
    assert metrics["duration"] == 6.0
    assert (metrics["completed"], metrics["failed"]) == (3, 1)
    assert (metrics["total_input_tokens"], metrics["total_output_tokens"]) == (60, 9)
    assert metrics["request_throughput"] == 0.5
    assert metrics["output_throughput"] == 1.5
    assert metrics["total_token_throughput"] == 11.5
    assert metrics["request_goodput"] is None


def test_latencies_of_three_requests_by_hand():
    metrics = measure(THREE, percentiles=(50, 90, 99.9))
    # TTFT 500, 250, 1000 ms; the request with one token has no TPOT: 500, 1500; E2E 2500, 250, 4000.
    assert metrics["mean_ttft_ms"] == pytest.approx(1750 / 3, rel=1e-15)
    assert metrics["median_ttft_ms"] == metrics["p50_ttft_ms"] == 500
    assert metrics["p90_ttft_ms"] == pytest.approx(900, rel=1e-15)
    assert metrics["p99.9_ttft_ms"] == pytest.approx(999, rel=1e-15)
    assert metrics["std_ttft_ms"] == pytest.approx(np.std([500, 250, 1000]), rel=1e-12)
    assert metrics["mean_tpot_ms"] == 1000
    assert metrics["std_tpot_ms"] == 500
    assert metrics["p90_tpot_ms"] == pytest.approx(1400, rel=1e-15)
    assert metrics["mean_e2el_ms"] == 2250
    assert metrics["mean_queue_time_ms"] == pytest.approx(625 / 3, rel=1e-15)


@pytest.mark.parametrize(
    ("goodput", "kept"),
    [
        ({"ttft": 500}, 2),  # the limit itself is good
        ({"ttft": 500, "tpot": 500}, 2),  # the single token has a TPOT of zero
        ({"ttft": 499.9}, 1),
        ({"tpot": 499}, 1),
        ({"e2el": 3000}, 2),
        ({"ttft": 1e6, "tpot": 1e6, "e2el": 1e6}, 3),
        ({}, 3),
    ],
)
def test_goodput_counts_requests_that_keep_all_limits(goodput, kept):
    assert measure(THREE, goodput=goodput)["request_goodput"] == kept / 6


def test_goodput_refuses_a_metric_that_is_not_per_request():
    with pytest.raises(ValueError, match="unknown metric \\(got 'itl'\\)"):
        measure(THREE, goodput={"itl": 20})


def test_nothing_finished_gives_none_and_never_nan():
    for records in ([], [THREE[3]]):
        metrics = measure(records, [StepLog()])
        assert metrics["completed"] == 0
        assert metrics["mean_ttft_ms"] is None
        assert metrics["p99_itl_ms"] is None
        assert metrics["max_concurrent_requests"] is None
    assert not any(isinstance(value, float) and math.isnan(value) for value in measure(THREE).values())


def test_an_answer_of_no_tokens_has_a_latency_but_no_time_to_first_token():
    metrics = measure([record("a", 0.0, 0.0, None, 2.0, 5, 0)])
    assert (metrics["completed"], metrics["mean_e2el_ms"], metrics["mean_ttft_ms"]) == (1, 2000.0, None)


def test_rejected_requests_leave_the_latencies_alone():
    with_rejected, without = measure(THREE), measure(THREE[:3])
    different = {key for key in without if with_rejected[key] != without[key]}
    assert different == {"failed"}


def test_throughput_over_no_time_is_none():
    assert measure([record("a", 1.0, 1.0, 1.0, 1.0, 5, 1)])["request_throughput"] is None


@pytest.fixture(scope="module")
def run():
    return synthetic_run(requests=300, rejected=4, preempt_every=60, replicas=2, rate=12)


def test_inter_token_latency_pools_the_gaps_of_all_requests(run):
    gaps = np.concatenate([np.diff(times) for times in run.scenario.values()]) * 1e3
    assert run.metrics["mean_itl_ms"] == pytest.approx(gaps.mean(), rel=1e-9)
    assert run.metrics["std_itl_ms"] == pytest.approx(gaps.std(), rel=1e-9)
    for percent in (50, 90, 95, 99):
        assert run.metrics[f"p{percent}_itl_ms"] == pytest.approx(np.percentile(gaps, percent), rel=1e-9)
    assert run.counts["preemptions"] > 5


def test_mean_itl_weighs_tokens_and_mean_tpot_weighs_requests(run):
    finished = [r for r in run.records if r.status == "finished" and r.output_tokens > 1]
    tpot = np.array([(r.finished_s - r.first_token_s) / (r.output_tokens - 1) for r in finished])
    tokens = np.array([r.output_tokens - 1 for r in finished])
    assert run.metrics["mean_tpot_ms"] == pytest.approx(tpot.mean() * 1e3, rel=1e-12)
    assert run.metrics["mean_itl_ms"] == pytest.approx((tpot @ tokens) / tokens.sum() * 1e3, rel=1e-9)
    assert abs(run.metrics["mean_itl_ms"] / run.metrics["mean_tpot_ms"] - 1) > 1e-4


def test_peaks_are_those_of_a_plain_loop_over_tokens_and_seconds(run):
    served = {r.id: r for r in run.records if r.status == "finished"}
    origin = min(r.arrival_s for r in served.values())
    end = max(r.finished_s for r in served.values())
    tokens, present = np.zeros(math.ceil(end - origin) + 1), np.zeros(math.ceil(end - origin) + 1)
    for id, times in run.scenario.items():
        for time in times:
            tokens[int(time - origin)] += 1
        for second in range(int(served[id].arrival_s - origin), int(served[id].finished_s - origin) + 1):
            present[second] += 1
    assert run.metrics["max_output_tokens_per_s"] == tokens.max()
    assert run.metrics["max_concurrent_requests"] == present.max()


def test_leaping_and_stepping_give_the_same_metrics():
    leap, step = (synthetic_run(requests=200, preempt_every=50, leap=leap) for leap in (True, False))
    assert len(leap.steps[0]) < len(step.steps[0]) / 3
    assert leap.counts["steps"] == step.counts["steps"] == len(step.steps[0])
    for key, value in step.metrics.items():
        assert (leap.metrics[key] or 0) == pytest.approx(value or 0, rel=1e-9), key


weighted = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.3, 1.7]) | st.floats(0, 1e3), st.integers(0, 7)), min_size=1, max_size=30
)


@settings(max_examples=200, deadline=None)
@given(weighted, st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_weighted_percentiles_are_numpys_on_the_expanded_sample(pairs, percents):
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs])
    expanded = np.repeat(values, weights)
    if len(expanded) == 0:
        assert summarise(values, percents, weights) is None
        return
    assert percentiles(values, percents, weights) == np.percentile(expanded, percents).tolist()
    summary = summarise(values, percents, weights)
    assert summary.count == len(expanded)
    assert summary.mean == pytest.approx(expanded.mean(), rel=1e-12, abs=1e-12)
    assert summary.std == pytest.approx(expanded.std(), rel=1e-9, abs=1e-9)


def test_weighted_percentiles_of_thirty_million_tokens_need_no_expansion():
    values, weights = np.array([2.0, 1.0]), np.array([3, 30_000_000_000])
    assert percentiles(values, [0, 50, 100], weights) == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("percent", [-1, 100.5, math.nan])
def test_a_percentage_outside_0_to_100_is_refused(percent):
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentiles(np.array([1.0]), [percent])


def test_a_percentile_wants_ten_samples_beyond_it():
    assert thin([50, 90, 95, 99, 99.9], 999) == [(99, 1000), (99.9, 10_000)]
    assert thin([50, 90, 95, 99], 1000) == []
    assert thin([90, 95, 99], 100) == [(95, 200), (99, 1000)]
    assert thin([100], 1) == []
