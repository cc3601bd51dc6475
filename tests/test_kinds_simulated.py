"""Encoders, encoders with decoders and recurrent models, simulated from end to end."""

from dataclasses import replace

import pytest

from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.schema import load, resolve
from llmsim.simulation import Simulation, simulate


def scenario(model, *, gpu="a100-sxm-80gb", prompt=128, output=16, count=200, rate=50.0, **sections):
    return load({
        "model": model,
        "cluster": {"gpu": gpu},
        "workload": {
            "dataset": {"name": "random", "input_len": prompt, "output_len": output, "range_ratio": 0.5},
            "arrival": {"kind": "poisson", "request_rate": rate},
            "num_prompts": count,
        },
        **sections,
    })  # fmt: skip


def test_classification_traffic_ends_with_its_forward_pass():
    run = simulate(scenario("bert-base"))
    assert {record.status for record in run.records} == {"finished"}
    assert all(record.first_token_s == record.finished_s for record in run.records)
    assert all(record.output_tokens == 0 for record in run.records)
    assert any("an encoder" in warning for warning in run.warnings)


def test_a_step_takes_many_texts_and_never_a_part_of_one():
    run = simulate(scenario("bert-base", rate=float("inf"), count=64))
    columns = run.steps[0].columns()
    # 64 texts at once: fewer steps than texts, and as many tokens in the steps as in the texts.
    assert len(columns["prefill_tokens"]) < 64
    assert columns["prefill_tokens"].sum() == sum(record.prompt_tokens for record in run.records)


def test_a_text_longer_than_the_positions_is_rejected_with_the_reason():
    run = simulate(scenario("bert-base", prompt=2000, count=20))
    rejected = [record for record in run.records if record.status == "rejected"]
    assert rejected
    assert "output of 0 tokens are more than max_model_len 512" in rejected[0].reason
    # 500 tokens fit although the output that nobody computes would not.
    assert {one.status for one in simulate(scenario("bert-base", prompt=300, output=400, count=20)).records} == {
        "finished"
    }


def test_chunked_prefill_of_an_encoder_is_refused():
    with pytest.raises(ScenarioError, match="an encoder reads a prompt as a whole"):
        resolve(scenario("bert-base", engine={"enable_chunked_prefill": True}))


@pytest.mark.parametrize("model", ["t5-base", "gnmt-v2", "mamba2-130m", "transformer-xl-base", "longformer-base"])
def test_leaping_is_stepping(model):
    wanted = scenario(model, count=60)
    leapt, stepped = (simulate(wanted, leap=leap).records for leap in (True, False))
    for one, other in zip(leapt, stepped, strict=True):
        assert one.bill == pytest.approx(other.bill, rel=1e-3, abs=1e-6)
    assert [replace(one, bill=None) for one in leapt] == [replace(one, bill=None) for one in stepped]


@pytest.mark.parametrize("scheduler", ["continuous", "static", "fair", "shortest_job_first"])
def test_every_scheduler_serves_encoders_and_states(scheduler):
    for model in ("bert-base", "mamba2-130m"):
        run = simulate(scenario(model, count=40, scheduler=scheduler))
        assert {record.status for record in run.records} == {"finished"}


def test_a_state_takes_its_blocks_whatever_the_length():
    pool = BlockPool(100, 16, (BlockGroup(None),), constant=7)
    assert [pool.held(tokens, 0) for tokens in (1, 16, 17, 160)] == [8, 8, 9, 17]
    assert pool.needed(33) == 10


def test_concurrency_of_a_hybrid_is_bound_by_its_states():
    parts = Simulation(resolve(scenario("qwen3.5-27b", gpu="h100-sxm"))).parts
    budget = parts.budget
    # 149.6 MiB of state in fp32 (see test_model_kinds) in blocks of 16 x 64 KiB: 150.
    assert budget.state_blocks == 150
    pool = parts.engines[0].pool
    assert pool.constant == 150
    assert not parts.resolved.options.enable_prefix_caching


def test_a_model_of_states_alone_has_one_block_a_sequence():
    parts = Simulation(resolve(scenario("mamba2-2.7b", gpu="h100-sxm"))).parts
    pool = parts.engines[0].pool
    assert pool.held(1, 0) == pool.held(parts.resolved.options.max_model_len, 0) == 1
    assert parts.budget.bytes_per_block == pytest.approx(81.97 * 2**20, rel=1e-3)


def test_pool_is_whole_again_after_states_are_given_up():
    small = scenario("nemotron-h-8b", gpu="h100-sxm", count=80, rate=200.0, engine={"num_gpu_blocks_override": 700})
    simulation = Simulation(resolve(small))
    simulation.run(None, None)
    engine = simulation.parts.engines[0]
    # A sequence holds 198 blocks of state: three run at once, and nothing is lost when they leave.
    assert engine.pool.constant == 198
    assert engine.pool.free == engine.pool.blocks
    assert max(row for row in engine.log.columns()["running"]) <= 3
