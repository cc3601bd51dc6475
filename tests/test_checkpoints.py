"""Sweeps that go on where they were interrupted."""

from __future__ import annotations

import pandas
import pytest

import llmsim
from llmsim import sweeps

OVER = {"engine.max_num_seqs": [2, 64], "model": ["llama-3.1-8b", "llama-3.1-405b"]}


@pytest.fixture
def scenario():
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=15)


@pytest.fixture
def simulated(monkeypatch):
    """Return the points that are simulated from here on."""
    seen = []
    run_point = sweeps.run_point

    def watched(told, point, seed, **options):
        seen.append((point, seed))
        return run_point(told, point, seed, **options)

    monkeypatch.setattr(sweeps, "run_point", watched)
    return seen


def test_a_sweep_goes_on_where_it_was_interrupted(scenario, simulated, tmp_path):
    whole = llmsim.sweep(scenario, OVER, replications=2)
    simulated.clear()
    file = tmp_path / "new" / "sweep.jsonl"

    def stop_at_three(done, total):
        if done == 3:
            raise SystemExit

    with pytest.raises(SystemExit):
        llmsim.sweep(scenario, OVER, replications=2, checkpoint=file, progress=stop_at_three)
    assert len(simulated) == 3
    again = llmsim.sweep(scenario, OVER, replications=2, checkpoint=file)
    assert len(simulated) == 8
    pandas.testing.assert_frame_equal(whole, again, check_exact=True)
    assert len(file.read_text().splitlines()) == 8


def test_more_points_and_replications_may_be_asked_for(scenario, simulated, tmp_path):
    file = tmp_path / "sweep.jsonl"
    llmsim.sweep(scenario, {"engine.max_num_seqs": [2]}, checkpoint=file)
    llmsim.sweep(scenario, {"engine.max_num_seqs": [2, 4]}, replications=2, checkpoint=file)
    assert len(simulated) == 4


def test_another_scenario_finds_nothing(scenario, simulated, tmp_path):
    file = tmp_path / "sweep.jsonl"
    llmsim.sweep(scenario, {"engine.max_num_seqs": [2]}, checkpoint=file)
    llmsim.sweep(scenario.with_({"num_prompts": 16}), {"engine.max_num_seqs": [2]}, checkpoint=file)
    assert len(simulated) == 2


def test_a_run_that_was_stopped_is_repeated(scenario, simulated, tmp_path):
    file = tmp_path / "sweep.jsonl"
    long = scenario.with_({"num_prompts": 100_000})
    stopped = llmsim.sweep(long, {"engine.max_num_seqs": [2]}, checkpoint=file, time_limit_s=0.01)
    assert list(stopped["status"]) == ["stopped"]
    assert not file.exists()


def test_a_line_that_was_cut_off_is_repeated(scenario, simulated, tmp_path):
    file = tmp_path / "sweep.jsonl"
    llmsim.sweep(scenario, {"engine.max_num_seqs": [2, 4]}, checkpoint=file)
    text = file.read_text()
    file.write_text(text[:-20])
    llmsim.sweep(scenario, {"engine.max_num_seqs": [2, 4]}, checkpoint=file)
    assert len(simulated) == 3
    assert file.read_text() == text


def test_a_file_that_is_something_else_is_named(scenario, tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("buy milk\n")
    with pytest.raises(llmsim.InputError, match=r"notes.txt:1: not a line of a sweep's checkpoint"):
        llmsim.sweep(scenario, {"engine.max_num_seqs": [2]}, checkpoint=file)
    assert file.read_text() == "buy milk\n"
