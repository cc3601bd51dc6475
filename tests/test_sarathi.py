"""Sarathi-Serve: decodes first, then the prompt under way, then newcomers, within one budget.

The cases are derived by hand from Algorithm 3 of Agrawal et al., OSDI 2024, and ``SarathiScheduler._schedule`` of
the authors' repository, each beside what `continuous` (vLLM V1) decides.
"""

from __future__ import annotations

import pytest
from policies import check_leaping, check_never_hangs, decided, drawn, play
from seeds import many
from simulations import options

from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.schedulers.sarathi import Sarathi
from llmsim.workload.request import Request


def limits(**changes):
    """Return small options: blocks of 4 tokens, 16 tokens a step."""
    return options(**{"block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 16, **changes})


def test_a_prompt_never_stalls_a_decode_and_takes_what_the_decodes_leave():
    # 8 tokens a step: A's token and 7 of B's prompt; the last chunk of 2 leaves 5 for C.
    requests = [Request("A", 0.0, 4, 6), Request("B", 0.0, 20, 1), Request("C", 0.0, 7, 1)]
    steps, _, _ = decided("sarathi", requests, engine=limits(), settings={"chunk_size": 8})
    assert steps == [
        {"A": 4, "B": 4}, {"A": 1, "B": 7}, {"A": 1, "B": 7}, {"A": 1, "B": 2, "C": 5}, {"A": 1, "C": 2}, {"A": 1}
    ]  # fmt: skip


def test_chunks_of_a_prompt_take_the_blocks_of_the_whole_prompt_at_once():
    # A budget of 4, a prompt of 10: three blocks from the first step on; V1 takes them as it goes.
    engine = limits(max_num_batched_tokens=4)
    steps, _, free = decided("sarathi", [Request("A", 0.0, 10, 2)], engine=engine, blocks=10)
    assert steps == [{"A": 4}, {"A": 4}, {"A": 2}, {"A": 1}]
    assert free == [7, 7, 7, 7]
    _, _, free = decided("continuous", [Request("A", 0.0, 10, 2)], engine=engine, blocks=10)
    assert free == [9, 8, 7, 7]


def test_who_is_preempted_may_be_admitted_again_in_the_same_step():
    # Four blocks, all taken by two prompts of 6.  Step 2: A finds no free block, though it needs none, and B gives
    # way; A's token takes nothing, so two blocks are free: enough for B's 7 tokens, computed anew beside A's token.
    # Step 3: the same again.
    requests = [Request("A", 0.0, 6, 3), Request("B", 0.0, 6, 3)]
    steps, preempted, free = decided("sarathi", requests, engine=limits(), blocks=4)
    assert steps == [{"A": 6, "B": 6}, {"A": 1, "B": 7}, {"A": 1, "B": 8}]
    assert preempted == [[], ["B"], ["B"]]
    assert free == [0, 0, 0]
    # V1 takes a block when one is needed: 8 computed tokens each fit into two.
    steps, preempted, _ = decided("continuous", requests, engine=limits(), blocks=4)
    assert steps == [{"A": 6, "B": 6}, {"A": 1, "B": 1}, {"A": 1, "B": 1}]
    assert preempted == [[], [], []]


def test_the_preempted_are_the_first_in_the_queue_at_once():
    # As in vLLM V0's case: B gives its three blocks, A takes one; B's three are not free, and N, which would fit
    # into the two that are, waits behind B (under V0 it would not).
    requests = [Request("A", 0.0, 8, 3), Request("B", 0.0, 12, 2), Request("N", 0.0, 4, 1)]
    steps, preempted, free = decided("sarathi", requests, engine=limits(), blocks=5)
    assert steps == [{"A": 8, "B": 8}, {"A": 1}, {"A": 1}, {"B": 12, "N": 4}, {"B": 1}]
    assert preempted == [[], ["B"], [], [], []]
    assert free == [0, 2, 2, 1, 1]


def test_an_admission_leaves_one_block_in_a_hundred_free():
    # 200 blocks, 2 of them the watermark: A's 197 and B's one leave 2, C's one would leave 1.
    requests = [Request("A", 0.0, 788, 1), Request("B", 0.0, 4, 1), Request("C", 0.0, 4, 1)]
    engine = limits(max_num_batched_tokens=1024)
    steps, _, free = decided("sarathi", requests, engine=engine, blocks=200)
    assert steps == [{"A": 788, "B": 4}, {"C": 4}]
    assert free == [2, 199]
    steps, _, _ = decided("continuous", requests, engine=engine, blocks=200)
    assert steps == [{"A": 788, "B": 4, "C": 4}]


def test_a_prompt_that_would_leave_less_than_the_watermark_is_refused():
    engine = limits(max_num_batched_tokens=1024)
    records, _, _ = play("sarathi", [Request("A", 0.0, 796, 1)], engine=engine, blocks=200)
    assert [record.status for record in records] == ["rejected"]
    records, _, _ = play("sarathi", [Request("A", 0.0, 796, 1)], engine=engine, blocks=200, settings={"watermark": 0})
    assert [record.status for record in records] == ["finished"]


# ---------------------------------------------------------------------- invariants


@pytest.mark.parametrize("seed", many(150))
def test_leaping_is_stepping_and_prompts_keep_to_the_budget(seed):
    scenario = drawn(seed)
    chunk = (None, 7, 64)[seed % 3]
    _, decisions = check_leaping("sarathi", scenario, chunk_size=chunk)
    engine = scenario["engine"]
    for tokens, decodes in zip(decisions.tokens, decisions.decodes, strict=True):
        assert len(tokens) <= engine.max_num_seqs
        if decodes < len(tokens):
            assert sum(tokens.values()) <= (chunk or engine.max_num_batched_tokens)
        else:
            assert sum(tokens.values()) == decodes


def test_the_random_scenarios_are_about_something():
    runs = [check_leaping("sarathi", drawn(seed))[0] for seed in range(20)]
    assert sum(engine.preemptions for engine in runs) > 100


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("chunk_size", [3, 64])
def test_nothing_hangs(chunk_size, asynchronous):
    engine = options(max_num_seqs=16, async_scheduling=asynchronous)
    check_never_hangs("sarathi", engine, chunk_size=chunk_size)


def test_what_cannot_be_is_said():
    with pytest.raises(ScenarioError, match="chunk_size: must be at least 1"):
        Sarathi(limits(), BlockPool(10, 4), chunk_size=0)
    with pytest.raises(ScenarioError, match="in order of arrival"):
        Sarathi(limits(scheduling_policy="priority"), BlockPool(10, 4))
    with pytest.raises(InfeasibleError, match="sarathi: pipeline stages are not modelled"):
        Sarathi(limits(pipeline_parallel_size=2), BlockPool(10, 4))
    with pytest.raises(InfeasibleError, match="sliding window"):
        Sarathi(limits(), BlockPool(10, 4, (BlockGroup(None), BlockGroup(8))))
