"""A run's texts, tables and files, byte for byte where users compare them by eye or by hash."""

import csv
import io
import json
import math
import pickle

import numpy as np
import pandas
import pytest
from synthetic import synthetic_run
from test_metrics import THREE

from llmsim.errors import InputError
from llmsim.results import tables
from llmsim.results.formats import FORMATS, vllm_bench_json
from llmsim.results.laws import gap_balance, littles_law
from llmsim.results.records import Record
from llmsim.results.run import Run
from llmsim.results.setup import Setup
from llmsim.results.steps import StepLog

BLOCK = """\
============ Serving Benchmark Result ============
Successful requests:                     3         
Failed requests:                         1         
  of these rejected:                     1         
Maximum request concurrency:             8         
Request rate configured (RPS):           0.50      
Benchmark duration (s):                  6.00      
Total input tokens:                      60        
Total generated tokens:                  9         
Request throughput (req/s):              0.50      
Request goodput (req/s):                 0.33      
Output token throughput (tok/s):         1.50      
Peak output token throughput (tok/s):    3.00      
Peak concurrent requests:                2.00      
Total token throughput (tok/s):          11.50     
---------------Time to First Token----------------
Mean TTFT (ms):                          583.33    
Median TTFT (ms):                        500.00    
P99 TTFT (ms):                           990.00    
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          1000.00   
Median TPOT (ms):                        1000.00   
P99 TPOT (ms):                           1490.00   
---------------Inter-token Latency----------------
Mean ITL (ms):                           833.33    
Median ITL (ms):                         500.00    
P99 ITL (ms):                            1500.00   
----------------End-to-end Latency----------------
Mean E2EL (ms):                          2250.00   
Median E2EL (ms):                        2500.00   
P99 E2EL (ms):                           3970.00   
==================================================
slo: p90_ttft_ms 900.00 (target 500.00) MISSED
slo: request_throughput 0.50 (target 0.50) met
stopped early: time limit of 6 s (3 of 4 requests finished)
note: 3 finished requests are few for p99 (stable from 1,000 on): one slow request more or less moves it"""  # noqa: W291

REQUESTS = """\
request_id,replica,arrival_s,admitted_s,first_token_s,finished_s,input_tokens,output_tokens,cached_tokens,\
num_preemptions,queue_ms,prefill_ms,ttft_ms,tpot_ms,e2el_ms,priority,session_id,turn,status,good,reason
a,0,0.000000000,0.125000000,0.500000000,2.500000000,10,5,0,0,125.000000,375.000000,500.000000,500.000000,\
2500.000000,0,,,finished,true,
b,0,1.000000000,1.000000000,1.250000000,1.250000000,20,1,0,0,0.000000,250.000000,250.000000,,\
250.000000,0,,,finished,true,
c,0,2.000000000,2.500000000,3.000000000,6.000000000,30,3,0,0,500.000000,500.000000,1000.000000,1500.000000,\
4000.000000,0,,,finished,false,
d,0,2.000000000,,,2.000000000,9999,0,0,0,,,,,,0,,,rejected,false,too long
"""


def three() -> Run:
    """The run of the requests of `THREE`, with a log that gives their first tokens and their gaps."""
    log = StepLog()
    log.append((0.125, 0.5, 1, 0, 0, 10, 1, 0.375, 0.375, 1, 0, 1, 16, 1, 0, 0, 0, 0))
    log.first_tokens()
    log.append((1.0, 1.25, 1, 0, 0, 20, 1, 0.25, 0.25, 2, 0, 3, 32, 1, 0, 0, 0, 0))
    log.first_tokens()
    log.append((0.5, 2.5, 4, 1, 10, 0, 0, 0.5, 0.5, 1, 1, 2, 1, 1, 0, 0, 0, 1))
    log.append((2.5, 3.0, 1, 0, 0, 30, 1, 0.5, 0.5, 1, 0, 3, 32, 1, 0, 0, 0, 0))
    log.first_tokens()
    log.append((3.0, 6.0, 2, 1, 30, 0, 0, 1.5, 1.5, 1, 0, 4, 1, 1, 0, 0, 0, 1))
    return Run(
        records=list(THREE),
        steps=[log],
        stopped="time limit of 6 s",
        setup=Setup(version="0.1.0", max_concurrency=8, request_rate=0.5, blocks=16, model="llama-3.1-8b"),
        goodput={"ttft": 500, "tpot": 500},
        slo={"p90_ttft_ms": 500, "request_throughput": 0.5},
    )


@pytest.fixture(scope="module")
def run():
    return synthetic_run(requests=400, rejected=5, preempt_every=90, goodput={"ttft": 60.0}, seed=3)


def test_the_block_is_vllms_to_the_blank():
    assert three().summary(percentiles=(99,)) == BLOCK


def test_the_block_has_the_sections_that_are_asked_for():
    text = three().summary(percentiles=(99.9,), metrics=("e2el", "queue_time"))
    assert "P99.9 E2EL (ms):" in text
    assert "Queue Time (part of TTFT)" in text
    assert "TTFT (ms)" not in text
    with pytest.raises(ValueError, match="unknown metric \\(got 'tbt'\\)"):
        three().summary(metrics=("tbt",))


def test_a_run_without_results_says_so_and_does_not_fall_over():
    run = Run(records=[])
    assert "Mean TTFT (ms):                          n/a" in run.summary()
    assert run.resources["gpu_busy"] is None
    assert run.requests.empty
    assert run.steps_table.empty
    assert "no odometers" in run.where_the_time_went()
    assert json.loads(run.to_json())["metrics"]["p99_itl_ms"] is None
    assert run.closing_lines() == ["preemptions 0", "0 requests, 0 steps"]
    assert "n/a" in run._repr_html_()


def test_requests_csv_to_the_byte():
    assert "".join(tables.requests_csv(THREE, {"ttft": 500, "tpot": 500})) == REQUESTS


def test_requests_csv_without_a_goal_has_no_verdicts():
    rows = list(csv.DictReader(io.StringIO("".join(tables.requests_csv(THREE)))))
    assert {row["good"] for row in rows} == {""}


def test_requests_csv_quotes_what_needs_it():
    awkward = Record('say "hi"\n', None, "failed", "a, b", 0, 0.0, None, None, None, 1, 0, 0, 0, session_id="é,1")
    (row,) = csv.DictReader(io.StringIO("".join(tables.requests_csv([awkward])), newline=""))
    assert (row["request_id"], row["reason"], row["session_id"]) == ('say "hi"\n', "a, b", "é,1")
    assert (row["replica"], row["finished_s"], row["e2el_ms"]) == ("", "", "")


def test_requests_csv_and_requests_agree_to_the_nanosecond(run):
    read = pandas.read_csv(io.StringIO("".join(tables.requests_csv(run.records, run.goodput))))
    frame = run.requests
    assert list(read.columns) == list(frame.columns) == list(tables.REQUEST_COLUMNS)
    for name in read.columns:
        if name.endswith("_s"):
            np.testing.assert_allclose(read[name], frame[name], rtol=0, atol=0.6e-9)
        elif name.endswith("_ms"):
            np.testing.assert_allclose(read[name], frame[name], rtol=0, atol=0.6e-6)
        elif name not in ("session_id", "reason"):
            assert (read[name] == frame[name]).fillna(read[name].isna() & frame[name].isna()).all(), name


def test_the_metrics_are_those_of_the_table(run):
    frame = run.requests
    done = frame[frame.status == "finished"]
    assert run.metrics["p99_ttft_ms"] == pytest.approx(np.percentile(done.ttft_ms, 99), rel=1e-12)
    assert run.metrics["mean_tpot_ms"] == pytest.approx(done.tpot_ms.mean(), rel=1e-12)
    assert run.metrics["mean_queue_time_ms"] == pytest.approx(done.queue_ms.mean(), rel=1e-12)
    assert run.metrics["request_goodput"] == pytest.approx(frame.good.sum() / run.metrics["duration"], rel=1e-12)
    assert not frame.good[frame.status == "rejected"].any()
    np.testing.assert_allclose(done.queue_ms + done.prefill_ms, done.ttft_ms, rtol=1e-9)


def test_steps_csv_stands_for_all_steps(run):
    rows = list(csv.DictReader(io.StringIO("".join(tables.steps_csv(run.steps)))))
    assert len(rows) == run.counts["batches"]
    assert sum(int(row["steps"]) for row in rows) == run.counts["steps"]
    assert [int(row["step"]) for row in rows[:2]] == [0, int(rows[0]["steps"])]
    assert sum(int(row["prefill_tokens"]) for row in rows) >= run.metrics["total_input_tokens"]


def test_saving_twice_writes_the_same_bytes(run, tmp_path):
    again = synthetic_run(requests=400, rejected=5, preempt_every=90, goodput={"ttft": 60.0}, seed=3)
    again.resolved_yaml = run.resolved_yaml = "llmsim: 1\n"
    for name, each in (("a", run), ("b", again)):
        paths = each.save(tmp_path / name, formats=FORMATS, steps=True)
        names = ["summary.json", "vllm_bench.json", "scenario.resolved.yaml", "requests.csv", "steps.csv"]
        assert [path.name for path in paths] == names
    for path in paths:
        content = path.read_bytes()
        assert content == (tmp_path / "a" / path.name).read_bytes()
        assert content.endswith(b"\n")
        assert b"\r" not in content


def test_saving_can_leave_out_requests_and_draw_plots(tmp_path):
    paths = synthetic_run(requests=5).save(tmp_path / "new" / "folder", requests=False, plots=True)
    assert [path.name for path in paths[:2]] == ["summary.json", "latency_cdf.png"]
    assert all(path.stat().st_size > 0 for path in paths)


def test_saving_refuses_a_format_that_it_does_not_know_before_it_writes(run, tmp_path):
    with pytest.raises(InputError, match="unknown format \\(got 'xml'\\)\nhint: one of llmsim, vllm-bench"):
        run.save(tmp_path / "out", formats=("llmsim", "xml"))
    assert not (tmp_path / "out").exists()


def test_saving_where_a_file_lies_is_an_input_error(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write the results"):
        run.save(tmp_path / "file")


def test_summary_json_has_what_the_manual_says(run):
    summary = json.loads(run.to_json(created="2026-11-22T01:02:03+00:00"))
    assert summary["created"] == "2026-11-22T01:02:03+00:00"
    assert json.loads(run.to_json())["created"] is None
    assert summary["metrics"] == run.metrics
    assert summary["counts"]["rejected"] == 5
    assert summary["counts"]["requests"] == sum(summary["counts"][s] for s in ("finished", "rejected")) == 405
    assert summary["resources"]["gpu_busy"] == pytest.approx(1 - _idle(run) / run.lane_totals.sum(), rel=1e-12)
    assert 0 < summary["resources"]["kv_usage_mean"] < summary["resources"]["kv_usage_peak"] < 1
    assert summary["perf_model"] == {"name": "formula", "calibrated": False, "expected_error": "+-10 %"}
    assert "p99" in summary["warnings"][-1]
    assert all(not isinstance(v, float) or math.isfinite(v) for v in summary["metrics"].values())


def _idle(run):
    return sum(run.time_by_resource()[name] for name in ("host", "waiting"))


def test_without_odometers_busy_is_the_time_with_a_batch_in_flight(run):
    plain = Run(records=run.records, steps=run.steps)
    assert 0.9 < plain.resources["gpu_busy"] <= 1
    assert plain.resources["link_busy"] is None
    assert plain.cycles_per_token() == {}


def test_vllm_bench_json_has_vllms_keys(run):
    result = vllm_bench_json(run, date="20261122-010203", detailed=True)
    setup = "date endpoint_type backend label model_id tokenizer_id num_prompts request_rate burstiness max_concurrency"
    totals = (
        "duration completed failed total_input_tokens total_output_tokens request_throughput request_goodput "
        "output_throughput total_token_throughput max_output_tokens_per_s max_concurrent_requests rtfx"
    )
    assert list(result)[:22] == (setup + " " + totals).split()
    for metric in ("ttft", "tpot", "itl", "e2el"):
        for statistic in ("mean", "median", "std", "p50", "p90", "p95", "p99"):
            assert result[f"{statistic}_{metric}_ms"] == run.metrics[f"{statistic}_{metric}_ms"]
    for array in ("latencies", "queue_times", "input_lens", "output_lens", "start_times", "ttfts", "errors"):
        assert len(result[array]) == result["num_prompts"] == 405
    assert np.mean([t for t, e in zip(result["ttfts"], result["errors"], strict=True) if not e]) == pytest.approx(
        result["mean_ttft_ms"] / 1e3
    )
    assert "ttfts" not in vllm_bench_json(run)


@pytest.mark.parametrize(("rate", "written"), [(None, "inf"), (math.inf, "inf"), (2.5, 2.5)])
def test_a_rate_without_end_is_written_as_vllm_does(rate, written):
    run = Run(records=list(THREE), setup=Setup(request_rate=rate))
    assert json.loads(json.dumps(vllm_bench_json(run), allow_nan=False))["request_rate"] == written
    assert ("Request rate configured" in run.summary()) == (rate == 2.5)


def test_the_time_table_adds_up(run):
    lines = run.where_the_time_went().splitlines()
    shares = [float(line.split("%")[0].split()[-1]) for line in lines[1:]]
    assert shares[-1] == 100.0
    assert sum(shares[:-1]) == pytest.approx(100, abs=0.5)
    assert shares[:-1] == sorted(shares[:-1], reverse=True)
    assert lines[0].split() == ["resource", "operator", "share", "ms/token", "cycles/token"]


def test_header_and_closing_lines_tell_what_ran(run):
    header, closing = "\n".join(run.header_lines()), "\n".join(run.closing_lines(wall_s=0.94, folder="runs/x"))
    for text in ("llmsim 0.1.0 · engine preset vllm@0.33", "expect +-10 %", "4,000 blocks x 16 tokens", "seed 0"):
        assert text in header
    assert "in 0.9 s (simulated" in closing
    assert "bottleneck: memory bandwidth (" in closing
    assert "results: runs/x" in closing
    assert "steps (simulated" in "\n".join(run.closing_lines())


def test_objectives_may_name_a_percentile_that_is_not_shown():
    run = three()
    run.slo = {"p99.9_ttft_ms": 999.1, "p25_e2el_ms": 1374, "output_throughput": 2}
    assert {name: result["pass"] for name, result in run.slo_results().items()} == {
        "p99.9_ttft_ms": True,
        "p25_e2el_ms": False,
        "output_throughput": False,
    }
    run.slo = {"p99_tbt_ms": 5}
    with pytest.raises(ValueError, match="unknown metric"):
        run.slo_results()


def test_the_notebook_table_has_each_latency(run):
    html = run._repr_html_()
    for name in ("TTFT", "TPOT", "ITL", "E2EL"):
        assert f"<th>{name}</th>" in html
    assert "400 of 405 requests finished" in html
    assert repr(run) == f"Run(400 of 405 requests finished, {run.counts['steps']} steps)"


def test_a_run_survives_a_trip_to_another_process(run):
    assert pickle.loads(pickle.dumps(run)).metrics == run.metrics


def test_littles_law_holds_between_logs_and_records():
    # Steps, because a leap with all seats taken does not see who comes meanwhile.
    law = littles_law(synthetic_run(requests=2000, rate=20, replicas=3, seats=8, leap=False))
    assert law.mean_in_system == pytest.approx(law.expected_in_system, rel=0.015)
    with pytest.raises(ValueError, match="nothing finished"):
        littles_law(Run(records=[]))


def test_littles_law_catches_a_lost_request():
    run = synthetic_run(requests=300)
    run.records = run.records[:200]
    law = littles_law(run)
    assert law.mean_in_system != pytest.approx(law.expected_in_system, rel=0.03)


def test_logs_and_records_count_the_same_tokens_and_seconds(run):
    balance = gap_balance(run)
    assert balance.logged_tokens == balance.recorded_tokens > 10_000
    assert balance.logged_s == pytest.approx(balance.recorded_s, rel=1e-9)
