"""The time to the first N output tokens: exact in leaps, after preemptions, with drafts, in pipelines and in chunks."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from random_scenarios import fixed_draws, scenarios
from simulations import PlainPrices, options, run

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import ScenarioError
from llmsim.results.metrics import measure
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.first_tokens import FirstTokens
from llmsim.schedulers.observed import Observed, step_times
from llmsim.workload.request import Request

FLAT = {"token": 0.0, "context": 0.0, "bend": 0.0}


class EveryToken:
    """Writes down when each token of each request came; the plain way, with all who are in a batch."""

    def __init__(self) -> None:
        self.moments: dict[str, list[float]] = {}
        self.served: dict[object, list] = {}

    def formed(self, batch) -> None:
        if batch.decodes is not None and batch.verified is None:
            self.served[batch] = list(batch.decodes.served())

    def settled(self, batch, steps, finished) -> None:
        for _, end in step_times(batch, steps):
            for sequence in self.served.get(batch, ()):
                self.moments.setdefault(sequence.request.id, []).append(end)
        for sequence in batch.sampling:
            self.moments.setdefault(sequence.request.id, []).append(batch.end_s)


def watched(count: int, *, scheduler: str = "continuous", leap: bool = True, **scenario):
    """Return the records, when token ``count`` of each request was out, and when each token came."""
    moments: dict[str, float] = {}
    every = EveryToken()

    def build(engine_options, pool):
        policy = SCHEDULERS[scheduler](engine_options, pool, leap=leap)
        return Observed(policy, [FirstTokens(count, moments, interval=engine_options.stream_interval), every])

    records, replica = run(scenario.pop("requests"), scheduler=build, **scenario)
    return records, moments, every.moments, replica


def moment_of(count: int, *, output: int = 10, interval: int = 1, stages: int = 1, **more) -> float:
    """Return when the first ``count`` tokens of one request are out; a step takes a quarter of a second."""
    prices = [PlainPrices(fixed=0.25 / stages, **FLAT) for _ in range(stages)]
    engine = options(stream_interval=interval, pipeline_parallel_size=stages)
    asked = [Request("a", 0.0, 10, output)]
    return watched(count, requests=asked, engine=engine, prices=prices, **more)[1]["a"]


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("scheduler", ["continuous", "static"])
@pytest.mark.parametrize(
    ("count", "output", "moment"),
    [
        # The step with the prompt gives the first token at 0.25 s, each step after it one more.
        (1, 10, 0.25),
        (4, 10, 1.0),
        (10, 10, 2.5),
        (12, 10, 2.5),  # a shorter answer: all of it
        (3, 1, 0.25),
    ],
)
def test_token_n_comes_with_its_own_step(count, output, moment, scheduler, leap):
    found = moment_of(count, output=output, scheduler=scheduler, leap=leap)
    assert found == pytest.approx(moment, abs=1e-5)


def test_a_token_in_a_pipeline_is_out_as_it_leaves_the_last_stage():
    # Two stages of 0.125 s; the only request waits for its token to come out before it goes in again.
    assert moment_of(4, stages=2) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize(
    ("count", "output", "token"),
    # Chunks of four: 1 | 2-5 | 6-9 | 10.
    [(1, 10, 1), (2, 10, 5), (5, 10, 5), (6, 10, 9), (10, 10, 10), (7, 8, 8)],
)
def test_a_token_in_a_chunk_is_out_with_the_chunk(count, output, token, leap):
    assert moment_of(count, output=output, interval=4, leap=leap) == pytest.approx(0.25 * token, abs=1e-5)


def test_a_prompt_between_two_tokens_moves_those_after_it():
    # Steps of 0.25 s and 0.01 s a prompt token.  a: 10 tokens of prompt, so its token 1 is out at 0.35 s, token 2 at
    # 0.35 + 0.26 (a decode is one token) = 0.61 s.  b (20 tokens of prompt) comes at 0.5 s, so the step that begins at
    # 0.61 s has both and takes 0.25 + 21 x 0.01: token 3 at 1.07 s; then two decode: token 4 at 1.34 s.
    prices = [PlainPrices(fixed=0.25, token=0.01, context=0.0, bend=0.0)]
    asked = [Request("a", 0.0, 10, 8), Request("b", 0.5, 20, 8)]
    engine = options(cudagraph_sizes=())
    moments = [watched(count, requests=asked, engine=engine, prices=prices)[1]["a"] for count in (1, 2, 3, 4)]
    assert moments == pytest.approx([0.35, 0.61, 1.07, 1.34], abs=1e-6)


@hypothesis_settings(fixed_draws, max_examples=120)
@given(scenarios() | scenarios(pipelined=True), st.integers(1, 40))
def test_the_moment_is_that_of_the_token_and_leaping_is_stepping(scenario, count):
    records, moments, every, _ = watched(count, leap=False, **scenario)
    finished = {record.id: record for record in records if record.status == "finished"}
    assert set(moments) == set(finished)
    for name, record in finished.items():
        assert len(every[name]) == record.output_tokens
        assert (every[name][0], every[name][-1]) == (record.first_token_s, record.finished_s)
        assert moments[name] == every[name][min(count, record.output_tokens) - 1]
    leapt = watched(count, **scenario)
    assert leapt[1] == moments
    assert [replace(record, bill=None) for record in leapt[0]] == [replace(record, bill=None) for record in records]


def test_the_random_scenarios_preempt_and_leap():
    # Else the test above would say little.
    import random

    from random_scenarios import scenario_of

    preempted = leapt = 0
    for seed in range(40):
        records, _, _, replica = watched(12, **scenario_of(random.Random(seed), 30))
        preempted += sum(record.preemptions > 0 and record.output_tokens > 1 for record in records)
        leapt += int((replica.log.columns()["steps"] > 3).sum())
    assert preempted > 20
    assert leapt > 100


# ---------------------------------------------------------------------- whole scenarios

VOICE = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 12, "num_prompts": 60, "seed": 3}
DRAFTS = {
    "model": "llama-3.2-1b", "num_speculative_tokens": 3, "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": [1.0, 1.0, 1.0],
}  # fmt: skip


def test_a_run_has_the_metric_only_when_it_is_asked_for():
    plain = llmsim.simulate(llmsim.scenario(**VOICE))
    asked = llmsim.simulate(llmsim.scenario(**VOICE, first_tokens=12))
    assert not any("ttfn" in key for key in plain.metrics)
    assert "ttfn_ms" not in plain.requests
    assert plain.metrics == {key: value for key, value in asked.metrics.items() if "ttfn" not in key}
    times = asked.requests["ttfn_ms"].to_numpy()
    assert np.isfinite(times).all()
    assert asked.metrics["p95_ttfn_ms"] == pytest.approx(np.percentile(times, 95), rel=1e-12)
    assert asked.intervals()["mean_ttfn_ms"].estimable
    assert "Time to First 12 Tokens" in asked.summary()
    stepped = llmsim.simulate(llmsim.scenario(**VOICE, first_tokens=12), leap=False)
    assert [one.nth_token_s for one in stepped.records] == [one.nth_token_s for one in asked.records]


def test_drafts_that_are_all_accepted_bring_four_tokens_a_step():
    # Token 1 with the prompt, then 4 a step: tokens 2-5, 6-9, 10-13.  So 6, 7 and 9 are out at once, 10 a step later.
    scenario = llmsim.scenario(**{**VOICE, "num_prompts": 1}, **{"engine.speculative_config": DRAFTS})
    moments = {
        count: llmsim.simulate(scenario.with_({"first_tokens": count})).records[0].nth_token_s
        for count in (1, 5, 6, 9, 10)
    }
    first = llmsim.simulate(scenario).records[0].first_token_s
    assert moments[1] == first < moments[5] < moments[6] == moments[9] < moments[10]


def test_a_chunk_of_drafts_is_out_when_it_is_sent():
    # stream_interval 8: token 1 | the first verification at which 8 are held back, tokens 2-9 after two of them.
    scenario = llmsim.scenario(
        **{**VOICE, "num_prompts": 1}, stream_interval=8, **{"engine.speculative_config": DRAFTS}
    )
    plain = llmsim.scenario(**{**VOICE, "num_prompts": 1}, **{"engine.speculative_config": DRAFTS})
    chunked = llmsim.simulate(scenario.with_({"first_tokens": 3})).records[0].nth_token_s
    assert chunked == llmsim.simulate(plain.with_({"first_tokens": 9})).records[0].nth_token_s


def test_goodput_objectives_and_sweeps_know_it():
    scenario = llmsim.scenario(**VOICE, first_tokens=12)
    run_ = llmsim.simulate(scenario)
    limit = run_.metrics["p50_ttfn_ms"]
    limited = llmsim.simulate(scenario.with_({"goodput": {"ttfn": limit}, "slo": {"p90_ttfn_ms": limit}}))
    below = (run_.requests["ttfn_ms"] <= limit).sum()
    assert limited.metrics["request_goodput"] == pytest.approx(below / limited.metrics["duration"])
    assert limited.slo_results()["p90_ttfn_ms"]["pass"] is False
    table = llmsim.sweep(scenario, {"request_rate": [2, 8]})
    assert table["p99_ttfn_ms"].notna().all()
    swept = llmsim.sweep(llmsim.scenario(**VOICE), {"first_tokens": [4, 16]})
    assert swept["mean_ttfn_ms"].is_monotonic_increasing


@pytest.mark.parametrize(
    ("more", "where"),
    [({"slo": {"p95_ttfn_ms": 700}}, "slo.p95_ttfn_ms"), ({"goodput": {"ttfn": 700}}, "goodput.ttfn"),
     ({"output": {"metrics": ["ttfn"]}}, "output.metrics")],
)  # fmt: skip
def test_without_n_there_is_a_hint(more, where):
    with pytest.raises(ScenarioError, match="N is not given") as caught:
        llmsim.simulate(llmsim.scenario(**VOICE).with_(more))
    assert where in str(caught.value)
    assert "--first-tokens 12" in str(caught.value)


def test_an_encoder_has_no_tokens():
    scenario = llmsim.scenario(model="bert-base-uncased", gpu="h100-sxm", request_rate=8, num_prompts=5,
                               input_len=64, output_len=1, first_tokens=3)  # fmt: skip
    assert llmsim.simulate(scenario).metrics["mean_ttfn_ms"] is None


def test_capacity_searches_under_it_and_cuts_runs_short():
    answer = llmsim.capacity(
        llmsim.scenario(**{**VOICE, "num_prompts": 150}, first_tokens=12), {"p90_ttfn_ms": 300.0}, replications=1
    )
    assert answer.binding == "p90_ttfn_ms"
    assert any(probe.status == "cut short" for probe in answer.probes)
    assert answer.max_rate is not None


def test_the_command_shows_writes_and_compares_it(tmp_path):
    words = "simulate --gpu h100-sxm --request-rate 8 --num-prompts 50 --first-tokens 12 --slo p95_ttfn_ms=5000"
    result = CliRunner().invoke(cli, [*words.split(), "-o", str(tmp_path / "a")], prog_name="llmsim")
    assert result.exit_code == 0, result.output
    assert "Time to First 12 Tokens" in result.output
    assert "slo: p95_ttfn_ms" in result.output
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["first_tokens"] == 12
    lines = (tmp_path / "a" / "requests.csv").read_text().splitlines()
    assert lines[0].endswith(",reason,ttfn_ms")
    assert all(float(line.rsplit(",", 1)[1]) > 0 for line in lines[1:])
    again = CliRunner().invoke(
        cli, ["simulate", f"{tmp_path}/a/scenario.resolved.yaml", "-o", str(tmp_path / "b")], prog_name="llmsim"
    )
    assert "Time to First 12 Tokens" in again.output
    gated = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--fail-on", "p95_ttfn_ms>+1%"]
    assert CliRunner().invoke(cli, gated, prog_name="llmsim").exit_code == 0
    other = CliRunner().invoke(cli, [*words.replace("12", "40").split(), "-o", str(tmp_path / "c")], prog_name="llmsim")
    assert other.exit_code == 0
    compared = CliRunner().invoke(cli, ["compare", str(tmp_path / "a"), str(tmp_path / "c")], prog_name="llmsim")
    assert "not the same ttfn" in compared.output


def test_the_names_of_its_metrics_are_there_before_a_run():
    assert {"mean_ttfn_ms", "p99_ttfn_ms"} <= set(measure([], first_tokens=True))
