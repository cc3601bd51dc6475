"""All scheduling policies side by side on two public traces, with paired differences over replications.

    python benchmarks/policies.py AzureLLMInferenceTrace_conv.csv conversation_trace.jsonl

takes the Azure LLM inference trace 2023 (conversation) and Mooncake's conversation trace.  One sweep simulates every
policy on both, each replication on another random half of the rows, the same for all policies; each policy is then
compared with `continuous`, vLLM's, pair by pair.  All have the same model, device, memory and batch limits, so that
the policy is what differs; the presets of other engines differ in those too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import llmsim
from llmsim.cli.sweep import comparison, points

POLICIES = [
    "continuous",
    "static",
    "vllm_v0",
    "orca",
    "sarathi",
    "sglang",
    {"name": "sglang", "schedule_policy": "lpm"},
    {"name": "tensorrt_llm", "capacity_scheduler_policy": "GUARANTEED_NO_EVICT"},
    {"name": "tensorrt_llm", "capacity_scheduler_policy": "MAX_UTILIZATION"},
    {"name": "shortest_job_first", "prediction_error": 0.0},
    {"name": "shortest_job_first", "prediction_error": 1.0},
    "fair",
    "earliest_deadline",
    {"name": "adaptive", "tpot_target_ms": 50},
]
METRICS = ["mean_ttft_ms", "p99_ttft_ms", "mean_tpot_ms"]
# Neither trace names tenants or deadlines, so these are dealt to the requests.
TENANTS = {
    "large": {"weight": 0.7, "slack_s": 20.0},
    "medium": {"weight": 0.2, "slack_s": 5.0},
    "small": {"weight": 0.1, "slack_s": 1.0},
}


def main() -> None:
    """Simulate, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("azure", type=Path)
    parser.add_argument("mooncake", type=Path)
    parser.add_argument("--replications", type=int, default=5)
    parser.add_argument("--rows", type=int, default=1500, help="requests of each run")
    parser.add_argument("--jobs", type=int, default=-1)
    arguments = parser.parse_args()
    scenario = llmsim.load(
        {
            "model": "llama-3.1-8b",
            "cluster": {"gpu": "h100-sxm"},
            "workload": {
                "trace": {"path": str(arguments.azure)},
                "dataset": {"tenants": TENANTS},
            },
        }
    )
    half = {"thin": 0.5, "limit": arguments.rows}
    traces = [
        {"path": str(arguments.azure), "speedup": 12, **half},
        {"path": str(arguments.mooncake), "speedup": 0.7, **half},
    ]
    table = llmsim.sweep(
        scenario,
        {"workload.trace": traces, "scheduler": POLICIES},
        replications=arguments.replications,
        n_jobs=arguments.jobs,
    )
    table["workload.trace"] = [Path(value["path"]).stem for value in table["workload.trace"]]
    print(points(llmsim.summarise(table, METRICS), METRICS))
    print()
    print(comparison(llmsim.paired(table, "scheduler", METRICS)))


if __name__ == "__main__":
    main()
