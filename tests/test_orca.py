"""Orca: whole prompts beside decodes, memory reserved for the longest answer, order of arrival.

The cases are derived by hand from Algorithm 1 of Yu et al., OSDI 2022, each beside what `continuous` (vLLM V1)
decides.
"""

from __future__ import annotations

import pytest
from policies import check_leaping, check_never_hangs, decided, drawn, play
from seeds import many
from simulations import options

from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.orca import Orca
from llmsim.workload.request import Request


def limits(**changes):
    """Return small options: blocks of 4 tokens, 8 tokens a step for those who have a budget."""
    return options(**{"block_size": 4, "max_num_seqs": 4, "max_num_batched_tokens": 8, **changes})


REQUESTS = [Request("A", 0.0, 6, 4), Request("B", 0.0, 10, 2), Request("C", 0.0, 2, 2), Request("D", 0.0, 1, 1)]


def test_memory_for_the_longest_answer_is_reserved_and_the_first_that_lacks_it_stops_the_selection():
    # 6 blocks of 4 are 24 slots.  A reserves 6 + 4, B 10 + 2: 22.  C's 4 are too many, and D's 2, which would do,
    # come after C.  Both prompts are computed whole in one iteration.  B ends with the second; then C and D come in
    # beside A's third token (10 + 4 + 2 slots).  Blocks of reserved slots: 22 -> 6, 16 -> 4, 14 -> 4.
    steps, preempted, free = decided("orca", REQUESTS, engine=limits(), blocks=6)
    assert steps == [{"A": 6, "B": 10}, {"A": 1, "B": 1}, {"A": 1, "C": 2, "D": 1}, {"A": 1, "C": 1}]
    assert preempted == [[], [], [], []]
    assert free == [0, 0, 2, 2]
    # V1 cuts B's prompt to its budget of 8, admits C when the tokens that are there fit, and preempts it again when
    # A needs a third block: A's two and B's three leave one, which is C's.
    steps, preempted, _ = decided("continuous", REQUESTS, engine=limits(), blocks=6)
    assert steps[:3] == [{"A": 6, "B": 2}, {"A": 1, "B": 7}, {"A": 1, "B": 1, "C": 2}]
    assert preempted[3] == ["C"]


def test_a_fixed_reservation_serves_fewer_at_once():
    # 24 slots, 12 for each request: two at a time, whatever they ask for.
    steps, _, _ = decided("orca", REQUESTS, engine=limits(), blocks=6, settings={"reserve_tokens": 12})
    assert steps == [{"A": 6, "B": 10}, {"A": 1, "B": 1}, {"A": 1, "C": 2}, {"A": 1, "C": 1}, {"D": 1}]
    # 13 for each: one at a time.
    steps, _, _ = decided("orca", REQUESTS, engine=limits(), blocks=6, settings={"reserve_tokens": 13})
    assert [list(tokens) for tokens in steps] == [["A"]] * 4 + [["B"]] * 2 + [["C"]] * 2 + [["D"]]


def test_the_largest_batch_bounds_who_runs():
    requests = [Request(str(number), 0.0, 5, 2) for number in range(3)]
    steps, _, _ = decided("orca", requests, engine=limits(max_num_seqs=2))
    assert steps == [{"0": 5, "1": 5}, {"0": 1, "1": 1}, {"2": 5}, {"2": 1}]


def test_who_can_never_reserve_is_refused():
    # 24 slots: 20 + 5 tokens are too many for Orca, though the last token is never computed and V1 would serve it.
    requests = [Request("A", 0.0, 20, 5), Request("B", 0.0, 20, 4)]
    records, _, _ = play("orca", requests, engine=limits(), blocks=6)
    assert {record.id: record.status for record in records} == {"A": "rejected", "B": "finished"}
    records, _, _ = play("orca", requests[1:], engine=limits(), blocks=6, settings={"reserve_tokens": 23})
    assert records[0].reason == "prompt and output of 24 tokens are more than reserve_tokens 23"


# ---------------------------------------------------------------------- invariants


@pytest.mark.parametrize("seed", many(150))
def test_leaping_is_stepping_and_nobody_is_ever_preempted(seed):
    scenario = drawn(seed, windowed=True)
    engine, decisions = check_leaping("orca", scenario)
    assert engine.preemptions == 0
    asked = {request.id: request for request in scenario["requests"]}
    slots = engine.pool.blocks // engine.pool.copies * engine.pool.block_size
    for tokens in decisions.tokens:
        assert len(tokens) <= scenario["engine"].max_num_seqs
        # Whoever computes anything has all its slots.
        assert sum(asked[one].prompt_tokens + asked[one].output_tokens for one in tokens) <= slots
        assert all(count in (1, asked[one].prompt_tokens) for one, count in tokens.items())


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("reserve_tokens", [None, 16])
def test_nothing_hangs(reserve_tokens, asynchronous):
    engine = options(max_num_seqs=16, async_scheduling=asynchronous)
    check_never_hangs("orca", engine, reserve_tokens=reserve_tokens)


def test_what_cannot_be_is_said():
    with pytest.raises(ScenarioError, match="reserve_tokens: must be 1 to 40, the tokens that the cache holds"):
        Orca(limits(), BlockPool(10, 4), reserve_tokens=41)
    with pytest.raises(ScenarioError, match="in order of arrival"):
        Orca(limits(scheduling_policy="priority"), BlockPool(10, 4))
    with pytest.raises(InfeasibleError, match="orca: pipeline stages are not modelled"):
        Orca(limits(pipeline_parallel_size=2), BlockPool(10, 4))
