"""The decision log of a simulation: one line for each step of each engine, leaps written out."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import fixed_draws, scenarios
from scripted import ask, play
from simulations import options, run

import llmsim
from llmsim.cli.app import cli
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.decision_log import DecisionLog
from llmsim.schedulers.observed import Observed
from llmsim.schema import resolve
from llmsim.simulation import Simulation
from llmsim.workload.request import Request

DECIDED = ("scheduled", "new", "resumed", "preempted", "cached_tokens", "num_running", "num_waiting", "free_blocks")


def logged(asked, *, scheduler="continuous", leap=True, **more) -> tuple[list[dict], list, object]:
    """Run one engine; return the lines of its log, the records and the engine."""
    lines: list[dict] = []
    make = SCHEDULERS[scheduler] if isinstance(scheduler, str) else scheduler

    def observed(engine_options, pool):
        policy = make(engine_options, pool, leap=leap) if isinstance(scheduler, str) else make(engine_options, pool)
        return Observed(policy, [DecisionLog(policy, pool, 0, lines.append)])

    records, engine = run(asked, scheduler=observed, **more)
    return lines, records, engine


def sums(lines: list[dict]) -> Counter:
    """Return the tokens scheduled of each request over all lines."""
    total: Counter = Counter()
    for line in lines:
        total.update(line["scheduled"])
    return total


# ---------------------------------------------------------------------- the same lines as of the scheduler alone

SCRIPTS = {
    "decoding": ([("a", 20, 5), ("b", 30, 9), ("c", 7, 1)], {}),
    "chunks": ([("a", 50, 5), ("b", 90, 9), ("c", 7, 3)], {"max_num_batched_tokens": 32}),
    "seats": ([(name, 10, 6) for name in "abcdef"], {"max_num_seqs": 2}),
    "preempting": ([(name, 12, 30) for name in "abcd"], {"usable": 30}),
    "by priority": ([(name, 12, 30) for name in "abcd"], {"usable": 30, "policy": "priority"}),
}


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("case", SCRIPTS)
def test_requests_at_once_are_decided_as_the_scheduler_alone_decides(case, ahead):
    asked, limits = SCRIPTS[case]
    limits = {"usable": 200, "max_num_seqs": 8, "max_num_batched_tokens": 256, "block_size": 4, **limits}
    script = [ask(*one, priority=number % 2) for number, one in enumerate(asked)]
    alone = play(*script, async_scheduling=ahead, **limits)

    blocks, policy = limits.pop("usable"), limits.pop("policy", "fcfs")
    engine = options(async_scheduling=ahead, scheduling_policy=policy, **limits)
    requests = [Request(*one[:1], 0.0, *one[1:], priority=number % 2) for number, one in enumerate(asked)]
    lines, _, _ = logged(requests, engine=engine, blocks=blocks, leap=False)

    # With a step formed ahead, the scheduler alone has steps that only process the output of the one before.
    decided = [line for line in alone if line["scheduled"] or line["preempted"]]
    assert [[line[key] for key in DECIDED] for line in lines] == [[line[key] for key in DECIDED] for line in decided]
    assert [list(line["scheduled"]) for line in lines] == [list(line["scheduled"]) for line in decided]
    # There `finished` stands in the line in which the output was processed, here in that of the step itself.
    number = {line["step"]: place for place, line in enumerate(decided)}
    ends = {number[line["updated" if ahead else "step"]]: line["finished"] for line in alone if line["finished"]}
    assert {line["step"]: line["finished"] for line in lines if line["finished"]} == ends


# ---------------------------------------------------------------------- what every log says


@settings(fixed_draws, max_examples=60)
@given(scenarios() | scenarios(pipelined=True), st.booleans())
def test_lines_add_up_to_the_tokens_of_the_records(scenario, leap):
    asked = scenario.pop("requests")
    lines, records, engine = logged(asked, leap=leap, **scenario)
    total, preempted = sums(lines), Counter(name for line in lines for name in line["preempted"])
    for record in records:
        if record.status == "finished":
            needed = record.prompt_tokens + record.output_tokens - 1 - record.cached_tokens
            assert total[record.id] == needed if not record.preemptions else total[record.id] >= needed
        else:
            assert total[record.id] == 0
        assert preempted[record.id] == record.preemptions
    assert [line["step"] for line in lines] == list(range(len(lines)))
    assert sum(bool(line["scheduled"]) for line in lines) == engine.steps
    ended = [name for line in lines for name in line["finished"]]
    assert sorted(ended) == sorted(record.id for record in records if record.status == "finished")
    finished_s = {record.id: record.finished_s for record in records}
    for line in lines:
        assert all(finished_s[name] == line["end_s"] for name in line["finished"])
        assert 0 <= line["free_blocks"] <= engine.pool.blocks


def test_leaps_are_written_out():
    asked = [Request("a", 0.0, 30, 40), Request("b", 0.1, 17, 25)]
    leapt, _, engine = logged(asked)
    stepped, _, _ = logged(asked, leap=False)
    assert len(engine.log) < len(leapt) == engine.steps
    assert leapt == stepped


@pytest.mark.parametrize("windows", [(), (64,)])
def test_a_leap_says_how_many_blocks_each_of_its_steps_leaves(windows):
    asked = [Request("a", 0.0, 30, 200), Request("b", 0.0, 17, 150), Request("c", 0.0, 100, 90)]
    leapt, _, _ = logged(asked, windows=windows)
    stepped, _, _ = logged(asked, windows=windows, leap=False)
    assert [line["free_blocks"] for line in leapt] == [line["free_blocks"] for line in stepped]


@pytest.mark.parametrize("leap", [True, False])
def test_static_batching_schedules_those_whose_answers_are_not_complete(leap):
    lines, _, _ = logged([Request("a", 0.0, 10, 2), Request("b", 0.0, 20, 4)], scheduler="static", leap=leap)
    assert [line["scheduled"] for line in lines] == [{"a": 10, "b": 20}, {"a": 1, "b": 1}, {"b": 1}, {"b": 1}]
    assert [line["finished"] for line in lines] == [[], [], [], ["a", "b"]]
    assert lines[0]["new"] == ["a", "b"]


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "adaptive"])  # it wants a target
def test_every_policy_is_logged(name, leap):
    asked = [Request(str(n), 0.02 * n, 30 + 7 * n, 40 + 3 * n, tenant=str(n % 3)) for n in range(20)]
    engine = options(max_num_seqs=8, max_num_batched_tokens=1024)
    lines, records, replica = logged(asked, scheduler=name, leap=leap, engine=engine, blocks=60)
    assert sum(bool(line["scheduled"]) for line in lines) == replica.steps
    total = sums(lines)
    for record in records:
        needed = record.prompt_tokens + record.output_tokens - 1
        assert total[record.id] > needed if record.preemptions else total[record.id] == needed


class PlainChunks:
    """A scheduler of somebody's own, with no books that others could look into."""

    def __init__(self, engine_options, pool):
        self.mine = []

    def add(self, sequence):
        self.mine.append(sequence)
        return True

    def next_batch(self):
        chunks = [(sequence, sequence.remaining) for sequence in self.mine if not sequence.done]
        return Batch(chunks) if chunks else None

    def settle(self, batch, steps):
        for sequence in batch.ending:
            self.mine.remove(sequence)
        return batch.ending


def test_a_scheduler_of_ones_own_is_logged_too():
    lines, _, _ = logged([Request("a", 0.0, 10, 3), Request("b", 0.005, 20, 1)], scheduler=PlainChunks)
    assert [line["scheduled"] for line in lines] == [{"a": 10}, {"a": 1, "b": 20}, {"a": 1}]
    assert [line["new"] for line in lines] == [["a"], ["b"], []]
    assert [line["finished"] for line in lines] == [[], ["b"], ["a"]]
    assert lines[0]["num_running"] is lines[0]["num_waiting"] is None


class Leaper(ContinuousBatching):
    """One's own class that leaps."""


def test_leaps_of_a_scheduler_of_ones_own_are_written_out():
    asked = [Request("a", 0.0, 30, 40), Request("b", 0.1, 17, 25)]
    assert logged(asked, scheduler=Leaper)[0] == logged(asked, leap=False)[0]


# ---------------------------------------------------------------------- files

SMALL = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 20, "num_prompts": 20, "output_len": 20, "seed": 3}


def lines_of(path: Path) -> list[dict]:
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    return [json.loads(line) for line in text.splitlines()]


CASES = {
    "plain": {},
    "a pipeline": {"pipeline_parallel_size": 2},
    "two replicas": {"replicas": 2, "router": "round_robin"},
    "static": {"scheduler": "static", "max_num_seqs": 4},
    "preempting": {"num_gpu_blocks_override": 150, "input_len": 600, "output_len": 200},
}


@pytest.mark.parametrize("case", CASES)
def test_a_simulation_writes_the_steps_of_all_replicas(case, tmp_path):
    scenario = llmsim.scenario(**{**SMALL, **CASES[case]})
    result = llmsim.simulate(scenario, decisions=tmp_path / "log.jsonl.gz")
    lines = lines_of(tmp_path / "log.jsonl.gz")
    assert sum(bool(line["scheduled"]) for line in lines) == result.counts["steps"]
    assert {line["replica"] for line in lines} == set(range(len(result.steps)))
    total = sums(lines)
    for record in result.records:
        needed = record.prompt_tokens + record.output_tokens - 1 - record.cached_tokens
        assert total[record.id] == needed or (record.preemptions and total[record.id] > needed)
    plain = llmsim.simulate(scenario)
    result.save(tmp_path / "logged")
    plain.save(tmp_path / "plain")
    assert (tmp_path / "logged" / "requests.csv").read_bytes() == (tmp_path / "plain" / "requests.csv").read_bytes()


def test_equal_runs_write_equal_files(tmp_path):
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        llmsim.simulate(llmsim.scenario(**SMALL), decisions=tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_the_command_writes_it(tmp_path):
    said = ["--request-rate", "20", "--num-prompts", "8", "--no-output", "--quiet"]
    path = tmp_path / "log.jsonl"
    result = CliRunner().invoke(cli, ["simulate", *said, "--decisions", str(path)], prog_name="llmsim")
    assert result.exit_code == 0, result.output
    assert lines_of(path)[0]["step"] == 0


def test_a_file_that_cannot_be_written_is_an_error_before_the_run(tmp_path):
    path = tmp_path / "none" / "log.jsonl"
    result = CliRunner().invoke(cli, ["simulate", "--no-output", "--decisions", str(path)], prog_name="llmsim")
    assert result.exit_code == 3
    assert result.stderr.startswith(f"error: {path}: the decisions cannot be written (No such file")


@pytest.mark.parametrize("ahead", [True, False])
def test_drafts_count_as_scheduled_tokens(ahead):
    drafts = {
        "model": "llama-3.2-1b", "num_speculative_tokens": 3, "rejection_sample_method": "synthetic",
        "synthetic_acceptance_length": 2.0,
    }  # fmt: skip
    lines: list[dict] = []
    scenario = llmsim.scenario(**SMALL, async_scheduling=ahead, **{"engine.speculative_config": drafts})
    simulation = Simulation(resolve(scenario))
    simulation.log_decisions(lines.append)
    simulation.run(None, None)
    assert sum(bool(line["scheduled"]) for line in lines) == simulation.parts.engines[0].steps
    decoding = [tokens for line in lines for name, tokens in line["scheduled"].items() if name not in line["new"]]
    # A sequence computes its last token and three drafts, and fewer near its end only.
    assert max(decoding) == 4
    assert Counter(decoding).most_common(1)[0][0] == 4
