"""Sweeps: a tidy table in the order of the grid, common random numbers, nothing lost and nothing twice."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest

import llmsim
from llmsim import sweeps
from llmsim.errors import ScenarioError

BASE = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 8, "num_prompts": 30}
FIXED = {"name": "fixed", "prompt": 64, "output": 8}


@pytest.fixture(scope="module")
def scenario():
    return llmsim.scenario(**BASE)


@pytest.fixture(scope="module")
def uneven():
    """Return a scenario whose arrivals and lengths are both random."""
    return llmsim.scenario(**BASE).with_({"workload.dataset": {"name": "random", "input_len": 256, "output_len": 16,
                                                               "range_ratio": 0.5}})  # fmt: skip


def test_rows_come_in_the_order_of_the_grid_with_replications_together(scenario):
    frame = llmsim.sweep(scenario, {"max_num_seqs": [8, 16], "request_rate": [4, 2]}, replications=2)
    assert list(frame.columns[:6]) == ["max_num_seqs", "request_rate", "replication", "seed", "status", "reason"]
    order = list(zip(frame["max_num_seqs"], frame["request_rate"], frame["replication"], strict=True))
    assert order == [(a, b, c) for a in (8, 16) for b in (4, 2) for c in (0, 1)]
    assert (frame["status"] == "ok").all()
    assert (frame["reason"] == "").all()
    assert (frame["completed"] == 30).all()


def test_the_first_replication_is_what_simulate_gives(scenario):
    frame = llmsim.sweep(scenario.with_(seed=7), {"request_rate": [4, 8]}, replications=2)
    run = llmsim.simulate(scenario.with_(seed=7, request_rate=4))
    first = frame.iloc[0]
    assert first["seed"] == 7
    assert first["prices"] == run.setup.prices
    assert first["prices"].startswith("fitted (h100_sxm vllm")
    assert list(frame.columns) == ["request_rate", *sweeps.OWN_COLUMNS, *run.metrics]
    assert first["devices"] == 1
    for name, value in run.metrics.items():
        assert first[name] == value or (value is None and np.isnan(first[name])), name


def test_all_points_share_their_random_streams_and_replications_do_not(uneven):
    frame = llmsim.sweep(uneven, {"request_rate": [2, 4, 8]}, replications=3)
    assert (frame.groupby("replication")["seed"].nunique() == 1).all()
    assert frame["seed"].nunique() == 3
    # The same requests, whatever the rate; other ones in another replication.
    assert (frame.groupby("replication")["total_input_tokens"].nunique() == 1).all()
    assert frame["total_input_tokens"].nunique() == 3


def test_a_faster_machine_beats_a_slower_one_in_every_replication(uneven):
    frame = llmsim.sweep(uneven, {"gpu": ["a100-sxm", "h100-sxm"]}, replications=4)
    latency = frame.pivot_table(index="replication", columns="gpu", values="mean_e2el_ms")
    assert (latency["h100-sxm"] < latency["a100-sxm"]).all()


def test_infeasible_points_are_rows_with_a_reason(scenario):
    frame = llmsim.sweep(scenario, {"tensor_parallel_size": [1, 3], "model": ["llama-3.1-8b", "llama-3.1-70b"]})
    assert list(frame["status"]) == ["ok", "infeasible", "infeasible", "infeasible"]
    assert "KV cache" in frame["reason"][1]
    assert "3 does not divide 32 heads" in frame["reason"][2]
    assert "\n" not in "".join(frame["reason"])
    assert frame.loc[1:, "duration":].isna().all().all()


def test_a_grid_of_infeasible_points_only_still_has_all_columns(scenario):
    frame = llmsim.sweep(scenario, {"tensor_parallel_size": [3, 5]})
    assert list(frame["status"]) == ["infeasible"] * 2
    assert frame["p99_ttft_ms"].isna().all()
    assert frame["p99_ttft_ms"].dtype == np.float64


def test_options_that_contradict_each_other_at_one_point_are_a_row(scenario):
    frame = llmsim.sweep(scenario, {"max_num_batched_tokens": [64, 512], "max_num_seqs": [128]})
    assert list(frame["status"]) == ["infeasible", "ok"]
    assert "fewer than max_num_seqs 128" in frame["reason"][0]


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ({"max_num_sequences": [1]}, "max_num_sequences: unknown key"),
        ({"request_rate": ["many"]}, "not a number"),
        ({"request_rate": 8}, "not a list of values"),
        ({"model": "llama-3.1-8b"}, "not a list of values"),
        ({"request_rate": []}, "no values"),
        ({"seed": [1, 2]}, "replications"),
        ({"request_rate": [1], "workload.arrival.request_rate": [2]}, "the same key"),
        ({"model": ["lama"]}, "unknown name 'lama'"),
    ],
)
def test_a_mistake_is_an_error_before_anything_runs(scenario, over, message, monkeypatch):
    monkeypatch.setattr(sweeps, "run_point", lambda *_, **__: pytest.fail("a run was begun"))
    with pytest.raises(ScenarioError, match=message):
        llmsim.sweep(scenario, over)


def test_at_least_one_replication(scenario):
    with pytest.raises(ScenarioError, match=r"replications must be at least 1 \(got 0\)"):
        llmsim.sweep(scenario, {}, replications=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"trace": "chat-200.csv", "num_prompts": 20},
        {"workload": {"arrival": {"kind": "constant", "request_rate": 8}, "dataset": FIXED, "num_prompts": 20}},
        {"workload": {"closed_loop": {"concurrency": 4}, "dataset": FIXED, "num_prompts": 20}},
    ],
    ids=["trace", "constant", "closed loop"],
)
def test_replications_that_would_all_be_the_same_are_refused(changes):
    fixed = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", **changes)
    with pytest.raises(ScenarioError, match="nothing is random"):
        llmsim.sweep(fixed, {"max_num_seqs": [8, 16]}, replications=2)
    assert (llmsim.sweep(fixed, {"max_num_seqs": [8]})["status"] == "ok").all()
    assert sweeps.usual_replications(fixed, [{}, {"max_num_seqs": 8}]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"trace": "chat-200.csv", "num_prompts": 20, "workload.trace.jitter_s": 0.5},
        {"trace": "chat-200.csv", "num_prompts": 20, "workload.trace.thin": 0.5},
        {"trace": "chat-200.csv", "num_prompts": 20, "replicas": 2, "router": "random"},
        {"workload": {"closed_loop": {"concurrency": 4}, "num_prompts": 20,
                      "dataset": {"name": "random", "input_len": 64, "output_len": 8, "range_ratio": 0.5}}},
    ],
    ids=["jitter", "thinned", "random router", "random lengths"],
)  # fmt: skip
def test_replications_of_anything_random_differ(changes):
    random = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", **changes)
    frame = llmsim.sweep(random, {}, replications=None)
    assert frame["mean_e2el_ms"].nunique() == 3


def test_a_time_limit_leaves_rows_that_say_so(scenario):
    frame = llmsim.sweep(scenario, {"num_prompts": [3000]}, time_limit_s=1e-6)
    assert list(frame["status"]) == ["stopped"]
    assert frame["reason"][0] == "time limit"
    assert 0 <= frame["completed"][0] < 3000


@pytest.mark.parametrize("way", ["raised", "returned"])
def test_an_interrupted_sweep_returns_what_it_has(scenario, way, monkeypatch):
    real = sweeps.run_point

    def interrupted_at_the_second(told, point, seed, **options):
        if point["request_rate"] != 4:
            return real(told, point, seed, **options)
        if way == "raised":
            raise KeyboardInterrupt
        return {"status": "stopped", "reason": "interrupted", "completed": 3}

    monkeypatch.setattr(sweeps, "run_point", interrupted_at_the_second)
    frame = llmsim.sweep(scenario, {"request_rate": [2, 4, 8]})
    assert list(frame["status"]) == ["ok", "stopped", "stopped"]
    assert list(frame["reason"]) == ["", "interrupted", "interrupted"]
    assert frame["completed"][0] == 30
    assert np.isnan(frame["completed"][2])


def test_numbers_of_numpy_and_nested_values_may_be_swept(scenario):
    frame = llmsim.sweep(scenario, {"request_rate": np.array([2, 4]), "max_num_seqs": range(8, 10)})
    assert len(frame) == 4
    assert (frame["status"] == "ok").all()
    sizes = [[1, 2, 4], [1, 2, 4, 8]]
    nested = llmsim.sweep(scenario, {"cudagraph_capture_sizes": sizes})
    assert list(nested["cudagraph_capture_sizes"]) == sizes
    assert list(nested["status"]) == ["ok", "ok"]


def test_percentiles_of_the_scenario_are_columns(scenario):
    frame = llmsim.sweep(scenario.with_({"output.percentiles": [25, 99.9]}), {})
    assert {"p25_ttft_ms", "p99.9_ttft_ms"} <= set(frame.columns)
    assert "p90_ttft_ms" not in frame.columns


def test_the_same_sweep_twice_gives_the_same_table(uneven):
    one = llmsim.sweep(uneven, {"max_num_seqs": [4, 8]}, replications=2)
    two = llmsim.sweep(uneven, {"max_num_seqs": [4, 8]}, replications=2)
    assert one.equals(two)


def test_the_job_is_plain_data_for_another_process(scenario):
    told, point, seed = scenario.to_dict(), {"request_rate": 4}, sweeps.replication_seed(0, 1)
    assert pickle.loads(pickle.dumps(sweeps.run_point)) is sweeps.run_point
    code = (
        "import json, sys; from llmsim.sweeps import run_point; "
        "told, point, seed = json.loads(sys.argv[1]); print(json.dumps(run_point(told, point, seed)))"
    )
    arguments = json.dumps([told, point, seed])
    other = subprocess.run([sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True)
    assert json.loads(other.stdout) == sweeps.run_point(told, point, seed)


def test_seeds_of_replications_are_distinct_and_those_of_numpys_legacy_generator():
    seeds = [sweeps.replication_seed(base, number) for base in range(20) for number in range(1, 20)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert sweeps.replication_seed(12, 0) == 12


def test_the_public_name_stays_a_function_when_the_module_has_been_imported():
    assert callable(llmsim.sweep)
    assert llmsim.sweep is sweeps.sweep


def test_a_list_of_points_may_have_keys_of_their_own(scenario):
    points = [{"max_num_seqs": 8}, {"request_rate": 4, "max_num_seqs": 8}, {"request_rate": 4}]
    frame = llmsim.sweep(scenario, points)
    assert list(frame.columns[:2]) == ["max_num_seqs", "request_rate"]
    assert frame["request_rate"].isna().tolist() == [True, False, False]
    assert (frame["status"] == "ok").all()
    grid = llmsim.sweep(scenario, {"request_rate": [4], "max_num_seqs": [8]})
    assert frame["mean_e2el_ms"][1] == grid["mean_e2el_ms"][0]


@pytest.mark.parametrize("points", [[], [5], [{"max_num_sequences": 1}], [{"seed": 3}], "gpu"])
def test_points_that_make_no_sense(scenario, points):
    with pytest.raises(ScenarioError):
        llmsim.sweep(scenario, points)
