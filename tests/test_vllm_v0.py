"""vLLM's V0 scheduler: prompts alone before decodes, one free block to go on, the watermark; and chunked prefill.

The cases are derived by hand from ``Scheduler._schedule_default``, ``_schedule_chunked_prefill`` and
``SelfAttnBlockSpaceManager`` of vLLM 0.6.3 to 0.7, each beside what `continuous` (V1) decides.
"""

from __future__ import annotations

import pytest
from policies import check_leaping, check_never_hangs, decided, drawn, play
from seeds import many
from simulations import PlainPrices, options, run

from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.schedulers.vllm_v0 import VllmV0
from llmsim.workload.request import Prefix, Request

QUARTERS = {"fixed": 0.25, "token": 0.0, "context": 0.0, "bend": 0.0}


def limits(**changes):
    """Return options of V0's defaults, small: blocks of 4 tokens, prompts whole."""
    plain = {"block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 64, "max_model_len": 64}
    return options(**{**plain, "enable_chunked_prefill": False, "cudagraph_sizes": (), **changes})


# ---------------------------------------------------------------------- without chunked prefill


def test_a_prompt_is_computed_alone_and_holds_up_those_who_decode():
    # Every step takes 0.25 s.  B comes during the second step, so the third is B's prompt, alone.
    requests = [Request("A", 0.0, 8, 4), Request("B", 0.3, 8, 2)]
    scenario = {"engine": limits(), "prices": [PlainPrices(**QUARTERS)]}
    steps, _, _ = decided("vllm_v0", requests, **scenario)
    assert steps == [{"A": 8}, {"A": 1}, {"B": 8}, {"A": 1, "B": 1}, {"A": 1}]
    # V1 computes the prompt beside A's token, and A ends a step earlier.
    steps, _, _ = decided("continuous", requests, **scenario)
    assert steps == [{"A": 8}, {"A": 1}, {"A": 1, "B": 8}, {"A": 1, "B": 1}]


@pytest.mark.parametrize("leap", [True, False])
def test_the_gap_of_who_was_held_up_spans_the_prompt(leap):
    requests = [Request("A", 0.0, 8, 4), Request("B", 0.3, 8, 2)]
    records, engine = run(
        requests, engine=limits(), prices=[PlainPrices(**QUARTERS)],
        scheduler=lambda engine_options, pool: VllmV0(engine_options, pool, leap=leap),
    )  # fmt: skip
    ends = {record.id: record.finished_s for record in records}
    assert ends == pytest.approx({"A": 1.25, "B": 1.0}, abs=1e-5)
    firsts = {record.id: record.first_token_s for record in records}
    assert firsts == pytest.approx({"A": 0.25, "B": 0.75}, abs=1e-5)
    assert engine.steps == 5
    # A's three gaps, the second one through B's prompt, and B's.
    gaps, counts = engine.log.gaps()
    every = sorted(gap for gap, count in zip(gaps, counts, strict=True) for _ in range(count))
    assert every == pytest.approx([0.25, 0.25, 0.25, 0.5], abs=1e-5)


def test_a_sequence_goes_on_only_while_a_block_is_free_though_it_needs_none():
    # Four blocks of 4: both prompts of 6 take two, none is free, and there is room for two more tokens in each.
    # Step 2: A finds no free block, so B gives way; B is at the front of the queue, its 7 tokens need 2 blocks.
    # Step 3: prompts first: B alone.  Step 4: A again finds none, B gives way again; A ends.  Step 5: B's 8 tokens.
    requests = [Request("A", 0.0, 6, 3), Request("B", 0.0, 6, 3)]
    steps, preempted, free = decided("vllm_v0", requests, engine=limits(), blocks=4)
    assert steps == [{"A": 6, "B": 6}, {"A": 1}, {"B": 7}, {"A": 1}, {"B": 8}]
    assert preempted == [[], ["B"], [], ["B"], []]
    assert free == [0, 2, 0, 2, 2]
    # V1 takes a block when one is needed: 8 computed tokens each fit into two.
    steps, preempted, _ = decided("continuous", requests, engine=limits(), blocks=4)
    assert steps == [{"A": 6, "B": 6}, {"A": 1, "B": 1}, {"A": 1, "B": 1}]
    assert preempted == [[], [], []]


def test_who_is_alone_and_holds_all_blocks_is_computed_anew_for_each_token():
    # Two blocks, 5 tokens: no block is free, so A gives way to itself, and its prompt, one longer, gives a token.
    steps, preempted, _ = decided("vllm_v0", [Request("A", 0.0, 5, 4)], engine=limits(), blocks=2)
    assert steps == [{"A": 5}, {"A": 6}, {"A": 7}, {"A": 8}]
    assert preempted == [[], ["A"], ["A"], ["A"]]


def test_an_admission_leaves_one_block_in_a_hundred_free():
    # 200 blocks, 2 of them the watermark.  A takes 197; B's one leaves 2; C's would leave 1, so C waits for the end
    # of the others.  (Their second tokens need a block each, which the watermark does not forbid.)
    requests = [Request("A", 0.0, 788, 2), Request("B", 0.0, 4, 2), Request("C", 0.0, 4, 1)]
    engine = limits(max_num_batched_tokens=1024, max_model_len=1024)
    steps, _, free = decided("vllm_v0", requests, engine=engine, blocks=200)
    assert steps == [{"A": 788, "B": 4}, {"A": 1, "B": 1}, {"C": 4}]
    assert free == [2, 0, 199]
    steps, _, _ = decided("continuous", requests, engine=engine, blocks=200)
    assert steps[0] == {"A": 788, "B": 4, "C": 4}


def test_a_prompt_that_would_leave_less_than_the_watermark_is_refused():
    # 200 - 199 blocks are less than 2; vLLM V0: AllocStatus.NEVER, the request is ignored.
    requests = [Request("A", 0.0, 796, 1), Request("B", 0.0, 792, 1)]
    engine = limits(max_num_batched_tokens=1024, max_model_len=1024)
    records, _, _ = play("vllm_v0", requests, engine=engine, blocks=200)
    refused, served = sorted(records, key=lambda record: record.id)
    assert (refused.status, served.status) == ("rejected", "finished")
    assert refused.reason == "its prompt needs 199 KV-cache blocks, the engine has 200 and keeps 2 free"


def test_the_first_that_does_not_fit_the_budget_stops_the_prompts_of_a_step():
    requests = [Request("A", 0.0, 40, 1), Request("B", 0.0, 30, 1), Request("C", 0.0, 4, 1)]
    steps, _, _ = decided("vllm_v0", requests, engine=limits())
    assert steps == [{"A": 40}, {"B": 30, "C": 4}]


# ---------------------------------------------------------------------- with chunked prefill


def test_chunks_of_a_prompt_take_the_blocks_of_the_whole_prompt_at_once():
    # A budget of 4, a prompt of 10: three blocks from the first step on; V1 takes them as it goes.
    engine = limits(max_num_batched_tokens=4, enable_chunked_prefill=True)
    steps, _, free = decided("vllm_v0", [Request("A", 0.0, 10, 2)], engine=engine, blocks=10)
    assert steps == [{"A": 4}, {"A": 4}, {"A": 2}, {"A": 1}]
    assert free == [7, 7, 7, 7]
    steps, _, free = decided("continuous", [Request("A", 0.0, 10, 2)], engine=engine, blocks=10)
    assert steps == [{"A": 4}, {"A": 4}, {"A": 2}, {"A": 1}]
    assert free == [9, 8, 7, 7]


def test_newcomers_are_admitted_before_the_preempted_go_back_to_the_queue():
    # Five blocks of 4, 16 tokens a step.  Step 1: A's 8 tokens and 8 of B's 12, whose three blocks are taken: none
    # is free, N waits.  Step 2: A finds none, B gives way (3 free), A's 9th token takes one, and N, still the head
    # of the queue, takes one: only then does B come to its front.  Step 3: B's three blocks are not free (2 are).
    # Step 4: A has ended.
    requests = [Request("A", 0.0, 8, 3), Request("B", 0.0, 12, 2), Request("N", 0.0, 4, 1)]
    engine = limits(max_num_batched_tokens=16, enable_chunked_prefill=True)
    steps, preempted, free = decided("vllm_v0", requests, engine=engine, blocks=5)
    assert steps == [{"A": 8, "B": 8}, {"A": 1, "N": 4}, {"A": 1}, {"B": 12}, {"B": 1}]
    assert preempted == [[], ["B"], [], [], []]
    assert free == [0, 1, 2, 2, 1]
    # V1 admits nobody in a step with a preemption, and B is the first to be tried after it.
    steps, preempted, _ = decided("continuous", requests, engine=engine, blocks=5)
    assert steps == [{"A": 8, "B": 8}, {"A": 1}, {"A": 1}, {"B": 12, "N": 4}, {"B": 1}]
    assert preempted == [[], ["B"], [], [], []]


def test_decodes_come_first_and_the_prompt_under_way_takes_what_they_leave():
    requests = [Request("A", 0.0, 4, 4), Request("B", 0.0, 20, 1)]
    engine = limits(max_num_batched_tokens=8, enable_chunked_prefill=True)
    steps, _, _ = decided("vllm_v0", requests, engine=engine)
    assert steps == [{"A": 4, "B": 4}, {"A": 1, "B": 7}, {"A": 1, "B": 7}, {"A": 1, "B": 2}]


# ---------------------------------------------------------------------- prefix caching


def test_a_cached_beginning_is_not_computed_but_its_blocks_must_be_free_all_the_same():
    # The second request finds three of its four blocks of 4; V0 asks for all four to be free, then shares.
    shared = Prefix((1, 2, 3), 4)
    requests = [Request("A", 0.0, 16, 1, prefix=shared), Request("B", 1.0, 16, 1, prefix=shared)]
    engine = limits(enable_prefix_caching=True)
    records, _, decisions = play("vllm_v0", requests, engine=engine, blocks=10)
    assert decisions.tokens == [{"A": 16}, {"B": 4}]
    assert [record.cached_tokens for record in records] == [0, 12]


# ---------------------------------------------------------------------- invariants

KINDS = {
    "plain": {"budget_holds_all": True},
    "chunked": {},
    "plain-cached": {"budget_holds_all": True, "caching": True},
    "chunked-cached": {"caching": True},
}


@pytest.mark.parametrize("seed", many(60))
@pytest.mark.parametrize("kind", KINDS)
def test_leaping_is_stepping_and_the_budget_holds(kind, seed):
    scenario = drawn(seed, **KINDS[kind])
    _, decisions = check_leaping("vllm_v0", scenario)
    engine = scenario["engine"]
    for tokens, decodes in zip(decisions.tokens, decisions.decodes, strict=True):
        assert sum(tokens.values()) <= engine.max_num_batched_tokens
        assert len(tokens) <= engine.max_num_seqs
        if kind == "plain":
            assert decodes in (0, len(tokens))  # prompts or decodes, never both


def test_the_random_scenarios_are_about_something():
    runs = [check_leaping("vllm_v0", drawn(seed, budget_holds_all=True))[0] for seed in range(20)]
    assert sum(engine.preemptions for engine in runs) > 100


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_nothing_hangs(chunked, asynchronous):
    engine = options(
        max_num_batched_tokens=32 if chunked else 4096, enable_chunked_prefill=chunked, async_scheduling=asynchronous
    )
    check_never_hangs("vllm_v0", engine)
    check_never_hangs("vllm_v0", engine, watermark=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_num_batched_tokens": 63}, "at least max_model_len 64"),
        ({"max_num_batched_tokens": 3, "enable_chunked_prefill": True}, "at least max_num_seqs 4"),
        ({"scheduling_policy": "priority"}, "in order of arrival"),
    ],
)
def test_limits_with_which_it_does_not_start(changes, message):
    with pytest.raises(ScenarioError, match=message):
        VllmV0(limits(**changes), BlockPool(10, 4))


def test_what_is_not_modelled_is_said():
    with pytest.raises(InfeasibleError, match="vllm_v0: pipeline stages are not modelled"):
        VllmV0(limits(pipeline_parallel_size=2), BlockPool(10, 4))
    with pytest.raises(InfeasibleError, match="sliding window"):
        VllmV0(limits(), BlockPool(10, 4, (BlockGroup(None), BlockGroup(8))))
    with pytest.raises(ScenarioError, match="watermark: must be at least 0 and below 1"):
        VllmV0(limits(), BlockPool(10, 4), watermark=1.0)
