"""The prediction of one set-up: one forward pass, a simulation, or a search for the largest rate that meets limits."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llmsim.accuracy.forward import predict_forward
from llmsim.accuracy.machines import Machine, Machines
from llmsim.accuracy.outcome import Outcome, is_saturated, numbers_of
from llmsim.accuracy.parts import parts_of
from llmsim.accuracy.setups import Setup
from llmsim.errors import LlmsimError

if TYPE_CHECKING:
    from llmsim.simulation import Simulation

# Halvings of the interval in which the largest rate lies: to 2 % or better.
HALVINGS = 6
# Requests of the first look at what a copy can do; bounds of a trial's requests and seconds; how far beyond that first
# look a rate may lie, which is short of a steady state.
FIRST_TRIAL = 1000
LEAST_TRIAL, MOST_TRIAL = 300, 20000
LEAST_TRIAL_S = 30.0
MOST_GROWTH = 16.0
SEED = 0
TIME_LIMIT_S = 180.0


def predict(setup: Setup, machines: Machines) -> Outcome:
    """Return what comes of a set-up; where it cannot run, an outcome with the reason."""
    started = time.perf_counter()
    try:
        outcome = _KINDS.get(setup.kind, _simulated)(setup, machines)
    except LlmsimError as error:
        lines = [line for line in str(error).splitlines() if not line.startswith("hint: ")]
        outcome = Outcome(reason="; ".join(lines))
    outcome.seconds = round(time.perf_counter() - started, 4)
    return outcome


def _simulated(setup: Setup, machines: Machines) -> Outcome:
    machine = machines.find(setup)
    return _run(machine, json.loads(setup.workload), setup, machines)[0]


def _run(
    machine: Machine, workload: Mapping[str, Any], setup: Setup, machines: Machines, warm: float = 0.0
) -> tuple[Outcome, "Simulation"]:
    from llmsim.simulation import Simulation

    simulation = Simulation(machine.with_workload(workload, SEED), costs=machine.costs)
    stopped = simulation.run(None, TIME_LIMIT_S)
    if stopped:
        return Outcome(reason=f"stopped: {stopped} of {TIME_LIMIT_S:g} s"), simulation
    logs = [engine.log for engine in simulation.parts.engines]
    numbers = numbers_of([record for record in simulation.records if record.arrival_s >= warm], logs)
    rejected = [record for record in simulation.records if record.status != "finished"]
    if not numbers or (rejected and setup.kind == "batch"):
        return Outcome(reason=f"rejected: {rejected[0].reason if rejected else 'no requests'}"), simulation
    cost = simulation.parts.engines[0].costs[0]
    layers = len(machine.resolved.model.layers) // setup.pipeline
    outcome = Outcome(
        numbers=numbers,
        layer=machines.layer(setup, getattr(cost.prices, "label", "")),
        saturated=setup.kind in ("open", "closed") and is_saturated(simulation.records, simulation.client_s),
        parts=parts_of(logs, cost, machines.correction(setup), layers),
    )
    return outcome, simulation


def _largest_rate(setup: Setup, machines: Machines) -> Outcome:
    """Search the largest rate of Poisson arrivals whose 99th percentiles meet the limits.

    One copy is simulated and stands for all: a router that spreads evenly gives each its part of the rate.  A trial
    lasts twice as long as a request at its limits, and its first third does not count.
    """
    one = replace(setup, replicas=1)
    machine = machines.find(one)
    workload, limits = json.loads(setup.workload), json.loads(setup.limits)
    burst = {**workload, "arrival": {"kind": "all_at_once"}, "num_prompts": FIRST_TRIAL}
    most, _ = _run(machine, burst, one, machines)
    if most.reason:
        return most
    tokens = most.numbers["output_tok_s"] / most.numbers["req_s"]
    longest_s = 1e-3 * (limits.get("e2e", 0.0) or limits.get("ttft", 0.0) + tokens * limits.get("tpot", 0.0))
    duration_s = max(LEAST_TRIAL_S, 2.0 * longest_s)
    best = Outcome(reason=f"no rate meets the limits: 99 % within {limits} ms")

    def meets(rate: float) -> bool:
        nonlocal best
        count = int(min(max(rate * duration_s, LEAST_TRIAL), MOST_TRIAL))
        trial = {**workload, "arrival": {"request_rate": rate}, "num_prompts": count}
        outcome, _ = _run(machine, trial, one, machines, warm=count / rate / 3)
        if any(outcome.numbers.get(f"{name}_ms:p99", float("inf")) > limit for name, limit in limits.items()):
            return False
        # The rate is the result: throughput over a finite run has a tail that a steady state has not.
        outcome.numbers |= {"req_s": rate * setup.replicas, "output_tok_s": rate * setup.replicas * tokens}
        best = outcome
        return True

    low, high = 0.0, most.numbers["req_s"]
    while meets(high) and high < MOST_GROWTH * most.numbers["req_s"]:
        low, high = high, 2.0 * high
    for _ in range(HALVINGS):
        rate = 0.5 * (low + high)
        low, high = (rate, high) if meets(rate) else (low, rate)
    return best


_KINDS = {"limit": _largest_rate, "forward": predict_forward}
