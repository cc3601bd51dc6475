"""Attention data parallelism and expert parallelism: plans, weights, caches, prices, flags of three engines, runs."""

from __future__ import annotations

import numpy as np
import pytest

from llmsim.engine_options import EngineOptions
from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.hardware import load_cluster, load_device
from llmsim.model import load_model
from llmsim.model.weights import stage_weight_bytes
from llmsim.parallel import Plan, Stage, check, place
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.collectives import Group
from llmsim.performance.kernels import experts
from llmsim.performance.kinds import KINDS
from llmsim.performance.memory import kv_blocks
from llmsim.performance.ranked_cost import RankedStepCost
from llmsim.performance.stage_prices import StagePrices
from llmsim.schema import load, resolve
from llmsim.simulation import Simulation

TALK = KINDS.index(("communication", "collective"))


def prices(plan: Plan, model: str = "deepseek-v3", device: str = "h200-sxm", **settings) -> StagePrices:
    shape = load_model(model)
    names = tuple(f"n0.gpu{index}" for index in range(plan.group))
    return StagePrices(shape, plan, Stage(0, 0, len(shape.layers), names), load_device(device), **settings)


def scenario(preset: str = "vllm@0.14", *, model: str = "deepseek-v3", **engine):
    return load(
        {
            "model": model,
            "cluster": {"gpu": "h200-sxm"},
            "engine": {"preset": preset, "enable_prefix_caching": False, **engine},
            "workload": {
                "dataset": {"name": "fixed", "prompt": {"value": 500}, "output": {"value": 30}},
                "closed_loop": {"concurrency": 24},
                "num_prompts": 60,
            },
        }
    )


# ---------------------------------------------------------------------- plans


def test_a_plan_counts_and_names_its_devices():
    plan = Plan(2, 2, 4, 8)
    assert (plan.group, plan.devices, plan.expert_tensor) == (8, 16, 1)
    assert plan.told == "TP2 PP2 DP4 EP8"
    assert Plan(8).told == "TP8"


@pytest.mark.parametrize(
    ("model", "plan", "words"),
    [
        ("llama-3.1-8b", Plan(1, 1, 2), "has no experts"),
        ("llama-3.1-8b", Plan(2, 1, 1, 2), "has no experts"),
        ("deepseek-v3", Plan(1, 1, 8, 3), "3 does not divide the 8 devices"),
        ("mixtral-8x7b", Plan(1, 1, 16, 16), "16 devices for 8 experts"),
        ("deepseek-v3", Plan(1, 1, 0), "sizes start at 1"),
    ],
)
def test_impossible_spreads_are_refused_with_a_reason(model, plan, words):
    with pytest.raises(InfeasibleError, match=words):
        check(load_model(model), plan)


def test_a_rank_lies_in_a_node_while_the_group_crosses():
    stage = place(load_model("deepseek-v3"), Plan(2, 1, 8, 16), load_cluster("dgx-h100-x2"))[0][0]
    assert len(stage.devices) == 16
    assert stage.inner is not None
    assert stage.collective is not None
    assert stage.inner.bandwidth > stage.collective.bandwidth


# ---------------------------------------------------------------------- memory


def test_ranks_hold_attention_whole_and_an_eighth_of_the_experts():
    # By hand: 58 layers x 256 experts x 3 x 7168 x 2048 elements of one byte are spread over eight; all else is whole.
    model = load_model("deepseek-v3")
    whole = stage_weight_bytes(model)
    routed = 58 * 256 * 3 * 7168 * 2048
    assert stage_weight_bytes(model, experts_over=8) == pytest.approx(whole - routed * 7 / 8, rel=1e-9)
    assert stage_weight_bytes(model, tensor=8, experts_over=8) == stage_weight_bytes(model, tensor=8)


def test_every_rank_has_a_cache_of_its_own():
    ready = resolve(scenario(data_parallel_size=8, enable_expert_parallel=True))
    parts = Simulation(ready).parts
    assert parts.engines[0].pool.blocks == 8 * parts.budget.usable
    # The latent cache is whole on each rank of either kind, so eight ranks keep about eight times the tokens.
    tensor = Simulation(resolve(scenario(tensor_parallel_size=8))).parts.budget
    assert 4 * tensor.usable < 8 * parts.budget.usable < 8 * tensor.usable
    shape = load_model("deepseek-v3")
    with pytest.raises(InfeasibleError, match="over 1 of"):
        kv_blocks(shape, Plan(1), (), ready.device, block_size=16, gpu_memory_utilization=0.9,
                  max_num_batched_tokens=8192, max_num_seqs=256)  # fmt: skip


# ---------------------------------------------------------------------- prices


def test_experts_compute_the_tokens_of_all_ranks_on_an_eighth_of_the_experts():
    # Performance model 2.6 with ep 8, for 8 x 16 tokens; what is beside it is priced for a rank's own 16.
    stage = prices(Plan(1, 1, 8, 8))
    known = Coefficients(load_device("h200-sxm"), "vllm")
    fit = known.experts("fp8_block").fit
    by_hand = experts(
        fit, known.chip, np.array([128.0]), 7168, 2048, 8, 256, tp=1, ep=8, compute="fp8", weight_bytes=1.0
    )
    shared = stage.shared_linear(np.array([128.0]))[:, 0]
    assert shared.sum() - shared[TALK] == pytest.approx(58 * by_hand.total[0], rel=1e-9)
    whole = stage.linear(np.array([16.0]))[:, 0]
    assert np.allclose(whole, stage.rank_linear(np.array([16.0]))[:, 0] + shared, rtol=1e-12)


def test_tokens_are_gathered_and_sums_scattered_over_all_ranks():
    stage = prices(Plan(1, 1, 8, 8))
    group = Group(Coefficients(load_device("h200-sxm"), "vllm"), 8, None)
    tokens = np.array([1024.0])
    # 16 bit each way; with the tokens go the numbers and weights of 8 experts, 8 bytes each.
    by_hand = group.all_gather((7168 * 2 + 8 * 8) * tokens) + group.reduce_scatter(7168 * 2 * tokens)
    assert stage.shared_linear(tokens)[TALK] == pytest.approx(58 * by_hand, rel=1e-12)
    # Attention and dense blocks of a rank on one device talk to nobody.
    assert stage.rank_linear(tokens)[TALK, 0] == 0.0


def test_deepep_sends_a_ranks_own_tokens_in_fp8_and_takes_16_bit_back():
    stage = prices(Plan(1, 1, 8, 8), exchange="deepep_low_latency")
    known = Coefficients(load_device("h200-sxm"), "vllm")
    there, back = (known.expert_exchange("ll", way, 1).fit for way in ("dispatch", "combine"))
    copies = 64 * 8 * 7168
    by_hand = there.a_us * 1e-6 + copies / (there.B_GBps * 1e9) + back.a_us * 1e-6 + 2 * copies / (back.B_GBps * 1e9)
    tokens = np.array([64.0])
    assert stage.rank_linear(tokens)[TALK, 0] == pytest.approx(58 * by_hand, rel=1e-9)
    assert stage.shared_linear(tokens)[TALK, 0] == 0.0
    many = prices(Plan(1, 1, 8, 8), exchange="deepep_auto")
    normal = prices(Plan(1, 1, 8, 8), exchange="deepep_high_throughput")
    assert many.rank_linear(tokens)[TALK, 0] == stage.rank_linear(tokens)[TALK, 0]
    assert many.rank_linear(np.array([4096.0]))[TALK, 0] == normal.rank_linear(np.array([4096.0]))[TALK, 0]
    assert "not measured" in prices(Plan(1, 1, 4, 4), device="a100-sxm", exchange="deepep_auto").warnings[-1]


def test_expert_parallelism_without_ranks_prices_whole_experts_on_fewer_devices():
    tokens = np.array([4.0])
    cut, dealt = (prices(Plan(8, 1, 1, size)).linear(tokens) for size in (1, 8))
    assert cut[TALK] == dealt[TALK]
    assert not np.allclose(cut, dealt)


def test_the_slowest_rank_has_the_longest_prompts():
    cost = RankedStepCost(prices(Plan(1, 1, 8, 8)), options(), ranks=8)
    assert cost.fullest([(500, 0)]) == [(500, 0)]
    assert cost.fullest([(100, 0)] * 7 + [(300, 0), (50, 0)]) == [(300, 0)]
    assert cost.fullest([(100, 0)] * 9) == [(100, 0)] * 2
    one = cost.step([(1000, 0)], 0, (0,), 0, 1)[0]
    eight = cost.step([(1000, 0)] * 8, 0, (0,), 0, 8)[0]
    nine = cost.step([(1000, 0)] * 9, 0, (0,), 0, 9)[0]
    assert one < eight < 4 * one  # attention side by side, experts and the exchange for all
    assert nine - eight > 0.5 * (eight - one) / 7  # one rank has two prompts


def test_a_step_that_decodes_is_that_of_the_fullest_rank():
    cost = RankedStepCost(prices(Plan(1, 1, 8, 8)), options(), ranks=8)
    assert cost.decode_step(57, (57 * 900,)) == cost.decode_step(64, (64 * 900,))
    assert cost.decode_step(64, (64 * 900,)) < cost.decode_step(65, (65 * 900,))


def options() -> EngineOptions:
    return EngineOptions(
        max_num_seqs=64, max_num_batched_tokens=8192, max_num_scheduled_tokens=8192, max_num_active_seqs=64,
        max_model_len=8192,
    )  # fmt: skip


# ---------------------------------------------------------------------- flags


@pytest.mark.parametrize(
    ("preset", "engine", "plan"),
    [
        ("vllm@0.14", {"data_parallel_size": 8, "enable_expert_parallel": True}, Plan(1, 1, 8, 8)),
        ("vllm@0.14", {"data_parallel_size": 4, "tensor_parallel_size": 2}, Plan(2, 1, 4, 1)),
        ("vllm@0.14", {"tensor_parallel_size": 8, "enable_expert_parallel": True}, Plan(8, 1, 1, 8)),
        ("sglang@0.5", {"tp_size": 8, "dp_size": 4, "enable_dp_attention": True, "ep_size": 8}, Plan(2, 1, 4, 8)),
        ("sglang@0.5", {"tp_size": 8, "ep_size": 4}, Plan(8, 1, 1, 4)),
        ("trtllm@1", {"tp_size": 8, "enable_attention_dp": True, "moe_expert_parallel_size": 8}, Plan(1, 1, 8, 8)),
        ("trtllm@1", {"tp_size": 8, "moe_expert_parallel_size": 2}, Plan(8, 1, 1, 2)),
    ],
)
def test_each_engine_says_it_in_its_own_words(preset, engine, plan):
    assert resolve(scenario(preset, **engine)).plan == plan


def test_limits_are_a_ranks_own_and_add_up_but_for_sglangs_which_are_divided():
    ready = resolve(scenario(data_parallel_size=8, max_num_seqs=32, max_num_batched_tokens=2048))
    whole = ready.options.together()
    assert (ready.options.max_num_seqs, whole.max_num_seqs, whole.ranks) == (32, 256, 8)
    assert (whole.max_num_batched_tokens, whole.max_chunk_tokens) == (8 * 2048, 2048)
    divided = resolve(scenario("sglang@0.5", tp_size=8, dp_size=8, enable_dp_attention=True, max_running_requests=256,
                               chunked_prefill_size=16384)).options  # fmt: skip
    assert (divided.max_num_seqs, divided.max_num_batched_tokens) == (32, 2048)
    assert divided.together().max_num_batched_tokens == 16384


def test_flags_that_cannot_be_are_refused_and_those_without_effect_said():
    with pytest.raises(ScenarioError, match="3 ranks do not divide tensor_parallel_size 8"):
        resolve(scenario("sglang@0.5", tp_size=8, dp_size=3, enable_dp_attention=True))
    with pytest.raises(ScenarioError, match="drafts are not simulated together"):
        resolve(scenario(data_parallel_size=8, speculative_config={"method": "mtp", "num_speculative_tokens": 1}))
    dense = resolve(scenario(model="llama-3.1-8b", data_parallel_size=2, enable_expert_parallel=True))
    assert dense.plan == Plan(1)
    said = "\n".join(dense.warnings)
    assert "2 copies share nothing here, one runs; use deployment.replicas" in said
    assert "enable_expert_parallel: changes nothing, llama-3.1-8b has no experts" in said
    odd = resolve(scenario(data_parallel_size=8, all2all_backend="pplx"))
    assert any("pplx is priced as allgather_reducescatter" in warning for warning in odd.warnings)


# ---------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    ("preset", "engine"),
    [
        ("vllm@0.14", {"data_parallel_size": 8, "enable_expert_parallel": True}),
        ("vllm@0.14", {"data_parallel_size": 8, "max_num_batched_tokens": 256, "max_num_seqs": 4}),
        ("sglang@0.5", {"tp_size": 8, "dp_size": 8, "enable_dp_attention": True}),
        ("trtllm@1", {"tp_size": 8, "enable_attention_dp": True, "moe_expert_parallel_size": 8}),
    ],
)
def test_runs_leap_as_they_step_and_bills_add_up(preset, engine):
    ready = resolve(scenario(preset, **engine))
    ends = []
    for leap in (True, False):
        simulation = Simulation(ready, leap=leap)
        simulation.run(None, None)
        assert [record.status for record in simulation.records] == ["finished"] * 60
        ends.append([(record.id, record.first_token_s, record.finished_s) for record in simulation.records])
        log = simulation.parts.engines[0].log
        columns = log.columns()
        spent = simulation.parts.engines[0].costs[0].kind_seconds(columns).sum(axis=0)
        assert np.allclose(spent, columns["busy_s"], rtol=0.02)
    assert ends[0] == ends[1]


def test_no_chunk_is_longer_than_the_budget_of_a_rank():
    # 500 tokens through ranks of 256 tokens take two steps each, however few requests there are.
    ready = resolve(scenario(data_parallel_size=8, max_num_batched_tokens=256, max_num_seqs=4))
    simulation = Simulation(ready)
    simulation.run(None, None)
    columns = simulation.parts.engines[0].log.columns()
    mixed = columns["prefill_sequences"] > 0
    assert (columns["prefill_tokens"][mixed] / columns["prefill_sequences"][mixed]).max() <= 256
