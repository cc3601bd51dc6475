"""What must hold of real runs: models, machines and prices of the catalogue."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from random import Random

import pytest
from watched import check_run

import llmsim
from llmsim.schema import resolve
from llmsim.simulation import Simulation

PLAIN = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 12, "num_prompts": 80, "seed": 7}
TIGHT = {"num_gpu_blocks_override": 420, "input_len": 600, "output_len": 200, "max_num_seqs": 24}
LOGNORMAL = {
    "name": "lognormal",
    "input": {"mean": 500, "sd": 400, "max": 4000},
    "output": {"mean": 100, "sd": 80, "max": 1000},
    "shared_prefix": {"count": 3, "tokens": 300},
}
CACHING = {"workload.dataset": LOGNORMAL, "num_gpu_blocks_override": 420, "request_rate": 30}
CASES = {
    "plain": {},
    "preempting": TIGHT,
    "synchronous": {**TIGHT, "async_scheduling": False},
    "static": {"scheduler": "static", "max_num_seqs": 8},
    "three replicas": {"replicas": 3, "router": "least_requests", "request_rate": 40},
    "any replica": {"replicas": 2, "router": "random"},
    "pipeline": {"pipeline_parallel_size": 2},
    "caching": {**CACHING, "async_scheduling": False},
    "caching ahead": CACHING,
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_scenario_gives_the_same_bytes(case, tmp_path):
    for folder in ("once", "again"):
        llmsim.simulate(llmsim.scenario(**{**PLAIN, **CASES[case]})).save(tmp_path / folder, steps=True)
    for name in ("requests.csv", "steps.csv", "scenario.resolved.yaml", "summary.json"):
        assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.parametrize("case", list(CASES))
def test_the_invariants_hold_of_real_runs(case):
    check_run(llmsim.simulate(llmsim.scenario(**{**PLAIN, **CASES[case]})), 80)


@pytest.mark.parametrize("case", CASES)
def test_leaping_gives_the_bytes_of_stepping(case, tmp_path):
    scenario = llmsim.scenario(**{**PLAIN, **CASES[case]})
    for leap in (True, False):
        llmsim.simulate(scenario, leap=leap).save(tmp_path / str(leap))
    assert (tmp_path / "True" / "requests.csv").read_bytes() == (tmp_path / "False" / "requests.csv").read_bytes()


SCRIPT = """
import sys, llmsim
options = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 30, "num_prompts": 120, "replicas": 2,
           "router": "random", "num_gpu_blocks_override": 420, "input_len": 600, "output_len": 200}
llmsim.simulate(llmsim.scenario(**options)).save(sys.argv[1], steps=True)
"""


def test_the_order_of_hashes_changes_no_byte(tmp_path):
    """No set is iterated where order matters: another seed of Python's hashes gives the same files."""
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path / seed)], env=environment, check=True, timeout=120)
    names = sorted(path.name for path in (tmp_path / "1").iterdir())
    assert {"requests.csv", "steps.csv"} <= set(names)
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_all_that_is_compared_faces_the_same_requests():
    """A draw has its stream: schedulers, routers and machines do not shift arrivals or lengths; another seed does."""

    def asked(**changes):
        options_ = {**PLAIN, "workload.dataset": LOGNORMAL, "num_prompts": 40, **changes}
        result = llmsim.simulate(llmsim.scenario(**options_))
        return [(record.id, record.arrival_s, record.prompt_tokens) for record in result.records]

    plain = asked()
    for changes in (
        {"scheduler": "static"},
        {"replicas": 2, "router": "random"},
        {"pipeline_parallel_size": 2},
        {"gpu": "a100-80gb-sxm"},
        {"max_num_seqs": 2},
    ):
        assert asked(**changes) == plain
    assert asked(seed=8) != plain


def test_a_pipeline_that_leaps_can_be_billed():
    scenario = llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", num_prompts=8, input_len=1000, output_len=300,
        pipeline_parallel_size=2, max_num_batched_tokens=2048, enable_prefix_caching=False,
    )  # fmt: skip
    check_run(llmsim.simulate(scenario), 8)


def interrupted(call: int) -> Simulation:
    """Run with a Ctrl-C in the middle of things: as the ``call``-th function is called."""
    simulation = Simulation(resolve(llmsim.scenario(**{**PLAIN, "num_prompts": 400, "output_len": 20})))
    left = [call]

    def count(*_):
        left[0] -= 1
        if left[0] == 0:
            signal.raise_signal(signal.SIGINT)

    sys.setprofile(count)
    try:
        stopped = simulation.run(None, None)
    finally:
        sys.setprofile(None)
    assert stopped == "interrupted"
    return simulation


@pytest.mark.usefixtures("hears_ctrl_c")
def test_an_interrupt_at_any_moment_loses_no_request():
    random = Random(0)
    for _ in range(40):
        simulation = interrupted(random.randint(1000, 8000))
        ended = [record.id for record in simulation.records]
        assert len(ended) == len(set(ended))
        assert set(ended) == set(simulation._order)
