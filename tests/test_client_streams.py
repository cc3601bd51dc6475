"""`stream_interval`: the gaps that clients see when tokens come in chunks."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import fixed_draws, scenarios
from simulations import PlainPrices, options, run

import llmsim
from llmsim.engine_options import EngineOptions
from llmsim.results.metrics import measure
from llmsim.workload.request import Request

FLAT = {"token": 0.0, "context": 0.0, "bend": 0.0}


def client_gaps(asked, *, interval: int, leap: bool = True, scheduler="continuous", **engine) -> list[float]:
    """Return the gaps of clients in order of size; every step takes a quarter of a second."""
    engine = options(stream_interval=interval, **engine)
    stages = engine.pipeline_parallel_size
    prices = [PlainPrices(fixed=0.25 / stages, **FLAT) for _ in range(stages)]
    _, replica = run(asked, engine=engine, prices=prices, leap=leap, scheduler=scheduler)
    values, weights = replica.log.client_gaps()
    return sorted(np.repeat(values, weights).tolist())


@pytest.mark.parametrize("leap", [True, False])
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize(
    ("output", "interval", "gaps"),
    [
        # The first token goes out at once, then chunks of `interval`, then the rest; a token takes 0.25 s.
        (10, 4, [0.25, 1.0, 1.0]),  # 1 | 2-5 | 6-9 | 10
        (9, 4, [1.0, 1.0]),  # 1 | 2-5 | 6-9
        (12, 4, [0.75, 1.0, 1.0]),  # 1 | 2-5 | 6-9 | 10-12
        (3, 4, [0.5]),  # 1 | 2-3
        (1, 4, []),
        (2, 4, [0.25]),
        (5, 2, [0.5, 0.5]),
        (4, 1, [0.25, 0.25, 0.25]),
    ],
)
def test_a_chunk_is_one_gap(output, interval, gaps, ahead, leap):
    asked = [Request("a", 0.0, 10, output)]
    assert client_gaps(asked, interval=interval, leap=leap, async_scheduling=ahead) == pytest.approx(gaps, abs=1e-4)


def test_a_prompt_between_tokens_is_in_the_chunk_that_it_falls_into():
    # a's tokens come at 0.25, 0.5, ... up to 1.5: chunks 1 | 2-4 | 5-6, whoever else is there.  b joins at 0.5, and has
    # tokens at 0.75 and 1.0.
    asked = [Request("a", 0.0, 10, 6), Request("b", 0.5, 10, 2)]
    assert client_gaps(asked, interval=3) == pytest.approx([0.25, 0.5, 0.75], abs=1e-4)


def test_static_batching_streams_until_each_answer_is_complete():
    asked = [Request("short", 0.0, 10, 3), Request("long", 0.0, 10, 6)]
    # short: 1 | 2-3; long: 1 | 2-5 | 6.
    assert client_gaps(asked, interval=4, scheduler="static") == pytest.approx([0.25, 0.5, 1.0], abs=1e-4)


def test_a_pipeline_streams_tokens_as_they_come_out():
    # Two stages of 0.125 s: a token of the only request takes both, so 0.25 s.
    gaps = client_gaps([Request("a", 0.0, 10, 10)], interval=4, pipeline_parallel_size=2)
    assert gaps == pytest.approx([0.25, 1.0, 1.0], abs=1e-4)


@settings(fixed_draws, max_examples=60)
@given(scenarios() | scenarios(pipelined=True), st.integers(2, 20))
def test_chunks_add_up_to_the_time_between_first_and_last_token(scenario, interval):
    engine = EngineOptions(**{**{name: getattr(scenario["engine"], name) for name in EngineOptions.__slots__},
                              "stream_interval": interval})  # fmt: skip
    streamed = {**scenario, "engine": engine}
    records, replica = run(**streamed)
    values, weights = replica.log.client_gaps()
    finished = [record for record in records if record.status == "finished"]
    assert int(weights.sum()) == sum(-(-(record.output_tokens - 1) // interval) for record in finished)
    seconds = sum(record.finished_s - record.first_token_s for record in finished)
    assert float(values.sum()) == pytest.approx(seconds, rel=1e-9, abs=1e-6)
    assert [astuple(record) for record in records] == [astuple(record) for record in run(**scenario)[0]]
    stepped = run(**streamed, leap=False)[1].log.client_gaps()[0]
    assert sorted(values.tolist()) == sorted(stepped.tolist())


def test_only_the_latency_between_tokens_changes():
    plain = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=12, num_prompts=30, seed=7)
    once, chunked = llmsim.simulate(plain), llmsim.simulate(plain.with_({"engine.stream_interval": 16}))
    assert not chunked.warnings
    changed = {key for key in once.metrics if once.metrics[key] != chunked.metrics[key]}
    assert changed == {key for key in once.metrics if key.endswith("_itl_ms")}
    # 128 tokens are the first one and 127 more: eight chunks.
    assert chunked.metrics["mean_itl_ms"] == pytest.approx(once.metrics["mean_itl_ms"] * 127 / 8, rel=1e-4)


def test_the_warm_up_is_left_out_of_chunks_too():
    asked = [Request("a", 0.0, 10, 9), Request("b", 10.0, 10, 5)]
    prices = [PlainPrices(fixed=0.25, **FLAT)]
    records, replica = run(asked, engine=options(stream_interval=4), prices=prices)
    measured = measure(records[1:], [replica.log], since_s=10.0)
    assert len(replica.log.client_gaps()[0]) == 3
    assert measured["mean_itl_ms"] == pytest.approx(1000.0, rel=1e-3)
    assert len(replica.log.client_gaps(10.0)[0]) == 1


DRAFTS = {
    "model": "llama-3.2-1b", "num_speculative_tokens": 3, "rejection_sample_method": "synthetic",
    "synthetic_acceptance_rates": [0.8, 0.6, 0.4],
}  # fmt: skip
TIGHT = {"num_gpu_blocks_override": 150, "input_len": 600, "output_len": 200}


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("limits", [{}, TIGHT])
def test_accepted_drafts_come_in_one_chunk(ahead, limits):
    scenario = llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", request_rate=12, num_prompts=20, seed=7, stream_interval=8,
        async_scheduling=ahead, **limits, **{"engine.speculative_config": DRAFTS},
    )  # fmt: skip
    result = llmsim.simulate(scenario)
    values, _ = result.steps[0].client_gaps()
    assert (result.counts["preemptions"] > 0) is bool(limits)
    seconds = sum(record.finished_s - record.first_token_s for record in result.records)
    assert float(values.sum()) == pytest.approx(seconds, rel=1e-9)
    # A chunk has 8 tokens, and up to 3 more that came with the last of them.
    tokens = sum(record.output_tokens - 1 for record in result.records)
    assert tokens / 11 <= len(values) <= tokens / 8 + len(result.records)
