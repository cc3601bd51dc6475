"""The adaptive policy against the best static setting that a sweep finds, workload by workload.

Usage: python benchmarks/adaptive_policy.py [--replications N] [--num-prompts N] [--only TEXT]

For each model, workload and load: a sweep over the static settings (``max_num_batched_tokens`` x ``max_num_seqs`` x
``long_prefill_token_threshold``) on seeds of its own picks the three with the most requests within both targets.
They and ``scheduler: adaptive`` then face the same requests on other seeds (common random numbers), and the best of
the three there is the baseline: the benefit of hindsight is the static setting's.  The table shows the
share of requests within both targets, its paired difference with a 95 % Student t interval over the replications,
the share of ``adaptive`` when nobody steps back in line (``steps_back: false``), and the means over replications of
the 99th percentiles.  A load is a multiple of the throughput with all requests there at once, which is below what a
long run reaches.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

import llmsim
from llmsim.results.intervals import mean_interval

MODELS: dict[str, dict[str, Any]] = {
    "llama-3.1-8b, H100": {"model": "llama-3.1-8b", "gpu": "h100-sxm"},
    "llama-3.1-70b, 4 x H100": {"model": "llama-3.1-70b", "gpu": "h100-sxm", "tensor_parallel_size": 4},
}
CHAT = {
    "name": "lognormal",
    "prompt": {"mean": 500, "sd": 600, "max": 6000},
    "output": {"mean": 200, "sd": 150, "max": 1000},
}
DOCUMENTS = {
    "name": "lengths",
    "prompt": {"distribution": "normal", "mean": 6000, "sd": 1500, "min": 500},
    "output": {"distribution": "lognormal", "median": 150, "sigma": 0.7, "max": 1000},
}
MIXED = {
    "name": "lengths",
    "prompt": {
        "distribution": "mixture",
        "parts": [
            {"weight": 0.9, "distribution": "lognormal", "mean": 500, "sd": 600},
            {"weight": 0.1, "distribution": "normal", "mean": 12000, "sd": 2000},
        ],
        "max": 20000,
    },
    "output": {"distribution": "lognormal", "mean": 200, "sd": 150, "max": 1000},
}
# Lengths, CV of the gaps between arrivals, and targets in ms: (TTFT, TPOT) of the smaller and of the larger model.
WORKLOADS: dict[str, tuple[dict[str, Any], float, tuple[tuple[float, float], tuple[float, float]]]] = {
    "short chat": (CHAT, 1.0, ((500, 15), (800, 30))),
    "long prompts": (DOCUMENTS, 1.0, ((2000, 25), (4000, 50))),
    "mixed": (MIXED, 1.0, ((1500, 20), (2500, 40))),
    "bursty chat": (CHAT, 4.0, ((500, 15), (800, 30))),
}
LOADS = {"low": 0.5, "medium": 1.0, "high": 1.5}
STATIC = {
    "max_num_batched_tokens": [256, 512, 1024, 2048, 8192],
    "max_num_seqs": [32, 64, 128, 256],
    "long_prefill_token_threshold": [0, 512],
}
TUNING_SEED, SEED = 1000, 1


def good_share(table: Any) -> Any:
    """Return the share of all requests of each run that kept both targets."""
    total = table["completed"] + table["failed"]
    return table["request_goodput"] * table["duration"] / total


def scenario(model: str, workload: str, num_prompts: int) -> Any:
    dataset, cv, targets = WORKLOADS[workload]
    ttft, tpot = targets[list(MODELS).index(model)]
    return llmsim.scenario(**MODELS[model], num_prompts=num_prompts).with_(
        {
            "workload.dataset": dataset,
            "workload.arrival": {"kind": "gamma", "request_rate": 1.0, "cv": cv},
            "goodput": {"ttft": ttft, "tpot": tpot},
            "max_model_len": 32768,
        }
    )


def cell(model: str, workload: str, load: float, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one row of the table."""
    plain = scenario(model, workload, arguments.num_prompts)
    targets = plain.to_dict()["goodput"]
    full = llmsim.simulate(plain.with_({"workload.arrival": {"kind": "all_at_once"}}))
    rate = round(load * full.metrics["request_throughput"], 2)
    plain = plain.with_({"request_rate": rate})
    tuned = llmsim.sweep(plain.with_({"seed": TUNING_SEED}), STATIC, replications=2)
    tuned["good"] = good_share(tuned)
    ranked = tuned.groupby(list(STATIC), sort=False)["good"].mean().sort_values(ascending=False, kind="stable")
    fresh = plain.with_({"seed": SEED})
    tried = []
    for best in ranked.index[:3]:
        point = {key: [int(value)] for key, value in zip(STATIC, best, strict=True)}
        tried.append((best, llmsim.sweep(fresh, point, replications=arguments.replications)))
    best, static = max(tried, key=lambda one: good_share(one[1]).mean())
    policy = {"name": "adaptive", "ttft_target_ms": targets["ttft"], "tpot_target_ms": targets["tpot"]}
    adaptive = llmsim.sweep(fresh, {"scheduler": [policy]}, replications=arguments.replications)
    in_line = llmsim.sweep(fresh, {"scheduler": [{**policy, "steps_back": False}]}, replications=arguments.replications)
    difference = mean_interval(100 * (good_share(adaptive).to_numpy() - good_share(static).to_numpy()))
    return {
        "rate": rate,
        "targets": f"{targets['ttft']:g} / {targets['tpot']:g}",
        "best": " / ".join(str(int(value)) for value in best),
        "static": 100 * good_share(static).mean(),
        "adaptive": 100 * good_share(adaptive).mean(),
        "in_line": 100 * good_share(in_line).mean(),
        "difference": difference,
        **{
            f"{name} {metric}": float(np.mean(table[f"p99_{metric}_ms"]))
            for name, table in (("static", static), ("adaptive", adaptive))
            for metric in ("ttft", "tpot")
        },
    }


def verdict(difference: Any) -> str:
    """Say who wins, where the interval leaves no doubt."""
    if not difference.excludes(0.0):
        return "even"
    return "wins" if difference.estimate > 0 else "loses"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=8)
    parser.add_argument("--num-prompts", type=int, default=300)
    parser.add_argument("--only", default="", help="rows whose model, workload and load contain this")
    arguments = parser.parse_args()
    started = time.process_time()
    print(
        "| model | workload | load (req/s) | TTFT / TPOT target, ms | best static: tokens / seqs / long "
        "| static, % good | adaptive, % good | difference, points | | adaptive, nobody steps back, % good "
        "| p99 TTFT static, adaptive, ms | p99 TPOT static, adaptive, ms |"
    )
    print("|" + " --- |" * 12)
    for model in MODELS:
        for workload in WORKLOADS:
            for name, load in LOADS.items():
                if arguments.only not in f"{model} {workload} {name}":
                    continue
                row = cell(model, workload, load, arguments)
                gap = row["difference"]
                print(
                    f"| {model} | {workload} | {name} ({row['rate']:g}) | {row['targets']} | {row['best']} "
                    f"| {row['static']:.1f} | {row['adaptive']:.1f} "
                    f"| {gap.estimate:+.1f} [{gap.low:+.1f}, {gap.high:+.1f}] | {verdict(gap)} "
                    f"| {row['in_line']:.1f} "
                    f"| {row['static ttft']:.0f}, {row['adaptive ttft']:.0f} "
                    f"| {row['static tpot']:.1f}, {row['adaptive tpot']:.1f} |",
                    flush=True,
                )
    print(f"\n{time.process_time() - started:.0f} s of CPU time, llmsim {llmsim.__version__}")


if __name__ == "__main__":
    main()
