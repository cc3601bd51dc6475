"""Percentiles of runs that many results rest on, held to a baseline through the package's own pytest fixtures.

``pytest tests/test_regression.py --llmsim-update`` makes the baselines anew; a change of simulated numbers is a
line of CHANGELOG.md.
"""

from llmsim.testing import assert_slo

PERCENTILES = [f"{name}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for name in ("p50", "p99")]
THROUGHPUTS = ["request_throughput", "output_throughput", "duration", "completed"]


def test_llama_on_one_h100_at_eight_requests_a_second(llmsim_run, llmsim_baseline):
    run = llmsim_run(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=500)
    assert_slo(run, "completed >= 500", "p99_ttft_ms <= 200", "p99_tpot_ms <= 25", "request_throughput >= 7.5")
    llmsim_baseline.check(run, [*PERCENTILES, *THROUGHPUTS], rtol=0.005)


def test_an_overloaded_trace_on_four_gpus_with_preemption(llmsim_run, llmsim_baseline):
    run = llmsim_run(
        model="llama-3.1-70b",
        gpu="h100-sxm",
        tensor_parallel_size=4,
        num_gpu_blocks_override=1000,
        trace="chat-200.csv",
        **{"workload.trace.speedup": 20},
    )
    assert run.counts["preemptions"] > 0
    llmsim_baseline.check(run, [*PERCENTILES, *THROUGHPUTS, "p99_queue_time_ms"], rtol=0.005)
