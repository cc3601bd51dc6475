"""Runs by the rules of MLPerf Inference: everything queued at once, or the largest rate that meets the limits.

Source: MLPerf inference rules (inference_policies/inference_rules.adoc) and the loadgen's configuration: a run lasts
ten minutes or more; offline, all queries are there at the start; server, queries arrive as a Poisson process, and
the 99th percentiles over all of them must meet the limits.  One copy is simulated and stands for all: a router that
spreads evenly gives each its part of the rate.
"""

import json
from collections.abc import Callable, Mapping
from math import inf
from typing import Any

from llmsim.accuracy.machines import Machines
from llmsim.accuracy.outcome import Outcome
from llmsim.accuracy.setups import Setup

# Simulates a workload once.
Run = Callable[[Mapping[str, Any], Setup, Machines], Outcome]

# Seconds of an offline run, and of a server run beside the longest answer; the rules ask for 600.
OFFLINE_S, SERVER_S = 600.0, 200.0
# Requests of the first look at what a copy can do; bounds of a trial's.
FIRST_TRIAL = 3000
LEAST_TRIAL, MOST_TRIAL = 300, 12000
# The largest rate is found to this part of itself, in steps from what the first look showed; far beyond that, a run of
# so many requests would end before its answers pile up.
PRECISION = 0.02
STEP, MOST_STEPS = 1.1, 30
MOST_GROWTH = 1.5
# A server run takes longer over everything than the offline run of the same system: its answers are streamed, and
# prompts come a few at a time.  One free number, shared by all submissions, from the ratio of their two results.
SERVER_SLOWER = 1.13
RATES = ("output_tok_s", "total_tok_s", "req_s")


def offline(setup: Setup, machines: Machines, run: Run) -> Outcome:
    """Return what comes of an offline run."""
    first = _burst(setup, machines, run, FIRST_TRIAL)
    count = int(min(first.numbers.get("req_s", 0.0) * OFFLINE_S, MOST_TRIAL))
    return first if first.reason or count <= FIRST_TRIAL else _burst(setup, machines, run, count)


def largest_rate(setup: Setup, machines: Machines, run: Run) -> Outcome:
    """Search the largest rate of Poisson arrivals whose 99th percentiles meet the limits.

    Where everything takes `SERVER_SLOWER` times as long, rates are as many times smaller: the search is that of a
    system that does not, under limits as many times shorter.
    """
    first = _burst(setup, machines, run, FIRST_TRIAL)
    if first.reason:
        return first
    workload = json.loads(setup.workload)
    limits = {name: limit / SERVER_SLOWER for name, limit in json.loads(setup.limits).items()}
    tokens = first.numbers["output_tok_s"] / first.numbers["req_s"]
    duration_s = SERVER_S + 1e-3 * (limits.get("e2e", 0.0) or _longest(workload) * limits.get("tpot", 0.0))
    most = inf
    if "e2e" in limits:
        # Tokens come too slowly before a system is overloaded; a limit of the whole request is met beyond that, for as
        # long as a trial lasts, and the rules' runs last longer.
        most = offline(setup, machines, run).numbers["req_s"]
    best = Outcome(reason=f"no rate meets the limits: 99 % within {setup.limits} ms")

    def meets(rate: float) -> bool:
        nonlocal best
        if rate > most:
            return False
        count = int(min(max(rate * duration_s, LEAST_TRIAL), MOST_TRIAL))
        outcome = run({**workload, "arrival": {"request_rate": rate}, "num_prompts": count}, setup, machines)
        if any(outcome.numbers.get(f"{name}_ms:p99", float("inf")) > limit for name, limit in limits.items()):
            return False
        # The rate is the result: throughput over a finite run has a tail that a steady state has not.
        outcome.numbers |= {"req_s": rate, "output_tok_s": rate * tokens}
        best = outcome
        return True

    _climb(min(first.numbers["req_s"], most), meets)
    return _slowed(best)


def _climb(start: float, meets: Callable[[float], bool]) -> None:
    """Try rates up from ``start`` until one fails, or down until one does not; then halve what is between them."""
    low, high = 0.0, start
    while high <= MOST_GROWTH * start and meets(high):
        low, high = high, high * STEP
    for _ in range(MOST_STEPS):
        if low:
            break
        rate = high / STEP
        low, high = (rate, high) if meets(rate) else (0.0, rate)
    while low and high - low > PRECISION * high:
        rate = 0.5 * (low + high)
        low, high = (rate, high) if meets(rate) else (low, rate)


def _burst(setup: Setup, machines: Machines, run: Run, count: int) -> Outcome:
    workload = {**json.loads(setup.workload), "arrival": {"kind": "all_at_once"}, "num_prompts": count}
    return run(workload, setup, machines)


def _longest(workload: Mapping[str, Any]) -> float:
    """Return the most tokens of an answer."""
    output = workload["dataset"]["output"]
    return float(output.get("max", output.get("value", 1)))


def _slowed(outcome: Outcome) -> Outcome:
    """Return an outcome in which everything takes `SERVER_SLOWER` times as long."""
    for name in outcome.numbers:
        outcome.numbers[name] *= 1.0 / SERVER_SLOWER if name in RATES else SERVER_SLOWER
    return outcome
