"""Figures of fixed small scenarios, held to 1e-9, each with the invariants that make them worth holding.

``pytest tests/test_golden.py --regen-golden`` writes tests/golden/ anew; a change of simulated numbers is a line of
CHANGELOG.md.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import llmsim
from llmsim.schema import resolve
from llmsim.simulation import Simulation

GOLDEN = Path(__file__).parent / "golden"
STATISTICS = ("mean", "p50", "p90", "p99")
FIGURES = [
    *(f"{figure}_{metric}_ms" for metric in ("ttft", "tpot", "itl", "e2el") for figure in STATISTICS),
    "output_throughput",
    "duration",
    "completed",
]

PROMPT, OUTPUT = 600, 100
PLAIN = {
    "model": "llama-3.1-8b",
    "gpu": "h100-sxm",
    "input_len": PROMPT,
    "output_len": OUTPUT,
    "request_rate": 8,
    "num_prompts": 100,
    "seed": 5,
}
SCENARIOS = {
    "poisson": {"num_prompts": 200},
    "preempting": {
        "model": "llama-3.1-70b",
        "tensor_parallel_size": 4,
        "num_gpu_blocks_override": 420,
        "request_rate": 12,
    },
    "windows": {"model": "gpt-oss-20b"},
    "pipeline": {"pipeline_parallel_size": 2},
    "static": {"scheduler": "static", "max_num_seqs": 16},
    "closed_loop": {"request_rate": None, "concurrency": 16, "async_scheduling": False},
    "three_replicas": {"replicas": 3, "router": "least_requests", "request_rate": 40, "num_prompts": 150},
}


def scenario(name: str) -> llmsim.Scenario:
    options = {**PLAIN, **SCENARIOS[name]}
    return llmsim.scenario(**{key: value for key, value in options.items() if value is not None})


@cache
def simulated(name: str, *, leap: bool = True) -> llmsim.Run:
    return llmsim.simulate(scenario(name), leap=leap)


def figures(run: llmsim.Run) -> dict[str, float | int | None]:
    return {**{name: run.metrics[name] for name in FIGURES}, "preemptions": run.counts["preemptions"]}


def causal(record: llmsim.Record) -> bool:
    return record.arrival_s <= record.admitted_s < record.first_token_s <= record.finished_s


# ---------------------------------------------------------------------- the figures


@pytest.mark.parametrize("name", SCENARIOS)
def test_figures_are_those_of_the_golden_file(name, pytestconfig):
    found = figures(simulated(name))
    path = GOLDEN / f"{name}.json"
    if pytestconfig.getoption("regen_golden"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    golden = json.loads(path.read_text(encoding="utf-8"))
    assert found.keys() == golden.keys()
    assert found == pytest.approx(golden, rel=1e-9, abs=0)


def test_there_is_no_golden_file_without_a_scenario():
    assert {path.stem for path in GOLDEN.iterdir()} == SCENARIOS.keys()


def test_the_scenarios_differ_in_what_they_are_there_for():
    preempting = {name for name in SCENARIOS if simulated(name).counts["preemptions"]}
    bubbles = {name for name in SCENARIOS if simulated(name).time_by_resource().get("bubble", 0) > 0}

    assert preempting == {"preempting"}
    assert bubbles == {"pipeline"}
    assert {record.replica for record in simulated("three_replicas").records} == {0, 1, 2}
    assert "closed loop, concurrency 16" in simulated("closed_loop").setup.workload
    windows = [group.window for group in Simulation(resolve(scenario("windows"))).parts.engines[0].pool.groups]
    assert windows[0] is None
    assert windows[1] == 128


# ---------------------------------------------------------------------- the invariants


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_request_ends_as_one_record_with_the_tokens_it_asked_for(name):
    run = simulated(name)
    asked = {**PLAIN, **SCENARIOS[name]}["num_prompts"]

    assert len({record.id for record in run.records}) == len(run.records) == asked
    assert {record.status for record in run.records} == {"finished"}
    assert {record.output_tokens for record in run.records} == {OUTPUT}
    assert {record.prompt_tokens for record in run.records} == {PROMPT}
    assert run.metrics["total_output_tokens"] == asked * OUTPUT
    assert all(causal(record) for record in run.records)
    arrivals = [record.arrival_s for record in run.records]
    assert arrivals == sorted(arrivals)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_logs_have_every_token(name):
    run = simulated(name)
    sampled = sum(int(log.tokens()[1].sum()) for log in run.steps)
    computed = sum(
        int((columns["prefill_tokens"] + columns["decodes"] * columns["steps"]).sum())
        for columns in (log.columns() for log in run.steps)
    )
    needed = len(run.records) * (PROMPT + OUTPUT - 1)

    assert sampled == len(run.records) * OUTPUT
    # What was preempted is computed again; static batching computes on for those that are done.
    assert computed > needed if run.counts["preemptions"] else computed >= needed
    if name not in ("preempting", "static"):
        assert computed == needed


@pytest.mark.parametrize("name", SCENARIOS)
def test_all_blocks_are_free_at_the_end_and_nobody_is_left(name):
    simulation = Simulation(resolve(scenario(name)))
    assert simulation.run(None, None) is None

    for engine in simulation.parts.engines:
        assert engine.pool.free == engine.pool.blocks
        assert engine.load == 0
        assert not engine.timeline.in_flight
    served = Counter(record.replica for record in simulation.records)
    assert served == {engine.replica: len(engine.ended) for engine in simulation.parts.engines}


@pytest.mark.parametrize("name", SCENARIOS)
def test_bills_add_up_to_latencies_and_lanes_to_the_clock(name):
    run = simulated(name)
    latencies = np.array([record.finished_s - record.arrival_s for record in run.records])
    bills = np.array([record.bill for record in run.records])
    queued = bills[:, run.bill_kinds.index(("queued", "none"))]

    assert bills.shape == (len(run.records), len(run.bill_kinds))
    assert bills.sum(axis=1) == pytest.approx(latencies, rel=0, abs=1e-6)
    assert queued == pytest.approx([record.admitted_s - record.arrival_s for record in run.records], abs=1e-9)
    last_s = max(record.finished_s for record in run.records)
    assert run.lane_totals.sum(axis=1) == pytest.approx([last_s] * len(run.steps), rel=1e-9)
    assert run.lane_totals.min() >= 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_stepping_gives_the_same_records(name):
    leapt, stepped = simulated(name), simulated(name, leap=False)

    # A bill reads the middle of a leap for all of its steps: the same but for rounding, and for bends of the price.
    assert [replace(record, bill=None) for record in leapt.records] == [
        replace(record, bill=None) for record in stepped.records
    ]
    bills = [np.array([record.bill for record in run.records]) for run in (leapt, stepped)]
    assert leapt.bill_kinds == stepped.bill_kinds
    assert np.abs(bills[0] - bills[1]).max() <= 1e-6
    assert leapt.counts["steps"] == stepped.counts["steps"]
    if name != "pipeline":  # there a leap is logged step by step
        assert leapt.counts["batches"] < stepped.counts["batches"] / 2
    names = [figure for figure in FIGURES if "_itl_" not in figure]
    assert [leapt.metrics[figure] for figure in names] == [stepped.metrics[figure] for figure in names]
    for figure in STATISTICS:
        assert leapt.metrics[f"{figure}_itl_ms"] == pytest.approx(stepped.metrics[f"{figure}_itl_ms"], rel=1e-3)
