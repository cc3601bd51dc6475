"""TensorRT-LLM's two schedulers in a row: capacity, then micro-batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from seeds import many
from simulations import PlainPrices, options, run
from test_custom_scheduler import agree
from test_leaping import lives, scenario

from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.tensorrt_llm import InFlightBatching
from llmsim.testing.scheduler_suite import check_scheduler
from llmsim.workload.request import Prefix, Request

POLICIES = ["GUARANTEED_NO_EVICT", "MAX_UTILIZATION", "STATIC_BATCH"]
STEP = 0.25
# Every step takes a quarter of a second, whatever it computes.
EVEN = PlainPrices(fixed=STEP, token=0.0, context=0.0, bend=0.0)


def play(requests, *, engine=None, blocks=1000, policy="GUARANTEED_NO_EVICT", chunks="FIRST_COME_FIRST_SERVED"):
    """Return the records by id, in steps of a quarter of a second."""
    scheduler = partial(InFlightBatching, capacity_scheduler_policy=policy, context_chunking_policy=chunks)
    records, replica = run(requests, engine=engine, blocks=blocks, scheduler=scheduler, prices=[EVEN])
    assert replica.pool.free == blocks
    return {record.id: record for record in records}


def steps(moment: float) -> float:
    return round(moment / STEP, 2)  # the prices are tables, right to a millionth


# ---------------------------------------------------------------------- by hand


def test_nobody_starts_who_could_not_be_completed():
    # getRemainingBlocksToCompletion: A will need ceil((64 + 64) / 16) = 8 blocks, B ceil((32 + 16) / 16) = 3, and
    # there are 10.  So B waits for A's 64 tokens, one a step.  vLLM asks for B's prompt only, 2 of the 6 free blocks.
    requests = [Request("A", 0.0, 64, 64), Request("B", 0.0, 32, 16)]
    ours = play(requests, blocks=10)
    assert steps(ours["A"].finished_s) == 64
    assert steps(ours["B"].admitted_s) == 64
    theirs, _ = run(requests, blocks=10, prices=[EVEN])
    assert {record.admitted_s for record in theirs} == {0.0}


def test_with_one_block_more_both_start_at_once():
    ours = play([Request("A", 0.0, 64, 64), Request("B", 0.0, 32, 16)], blocks=11)
    assert ours["B"].admitted_s == 0.0


def test_the_head_of_the_line_is_not_skipped():
    # C would fit beside A (8 + 1 of 10 blocks), but B stands before it, and the walk ends with who does not fit.
    ours = play([Request("A", 0.0, 64, 64), Request("B", 0.0, 32, 16), Request("C", 0.0, 8, 8)], blocks=10)
    assert steps(ours["C"].admitted_s) == 64


@pytest.mark.parametrize("policy", POLICIES)
def test_a_request_that_fits_exactly_is_served(policy):
    # The last token is never computed: 33 + 16 - 1 = 48 tokens are 3 blocks, though 33 + 16 = 49 would be 4.
    ours = play([Request("A", 0.0, 33, 16), Request("B", 0.0, 33, 16)], blocks=3, policy=policy)
    assert [ours[name].status for name in "AB"] == ["finished"] * 2
    assert steps(ours["B"].admitted_s) == 16


def test_under_max_utilization_the_last_started_is_paused_and_computed_anew():
    # 7 blocks.  Step 1 computes both prompts, 3 blocks each.  In step 2 both compute their 49th token and need a
    # fourth block: A gets the last one, B is the last that has started and is paused.  Its 49 tokens need 4 blocks,
    # and A holds 4, later 6, so it waits for A's 40th token, then has its other 39 in steps 41 to 79.
    requests = [Request("A", 0.0, 48, 40), Request("B", 0.0, 48, 40)]
    ours = play(requests, blocks=7, policy="MAX_UTILIZATION")
    assert (ours["A"].preemptions, ours["B"].preemptions) == (0, 1)
    assert steps(ours["A"].finished_s) == 40
    assert steps(ours["B"].first_token_s) == 1
    assert steps(ours["B"].finished_s) == 79
    # GUARANTEED_NO_EVICT pauses nobody: 6 blocks are promised to A.
    guaranteed = play(requests, blocks=7)
    assert guaranteed["B"].preemptions == 0
    assert steps(guaranteed["B"].admitted_s) == 40


def test_blocks_of_a_whole_prompt_are_taken_with_its_first_chunk():
    # getNeededBlocksOneStep: A's first chunk is 32 of 80 tokens, but all 5 blocks are A's from then on.  B needs 4 of
    # 8: it waits till A ends (80 + 4 - 1 tokens, 6 blocks): 3 steps for the prompt, 3 more tokens.
    engine = options(max_num_batched_tokens=32, scheduler_reserve_full_isl=False)
    requests = [Request("A", 0.0, 80, 4), Request("B", 0.0, 64, 1)]
    ours = play(requests, engine=engine, blocks=8, policy="MAX_UTILIZATION")
    assert steps(ours["B"].admitted_s) == 6
    # vLLM takes blocks chunk by chunk: in step 3 A computes its last 16 tokens and B its first 16.
    theirs, _ = run(requests, engine=engine, blocks=8, prices=[EVEN])
    assert [steps(record.admitted_s) for record in theirs if record.id == "B"] == [2]


def test_static_batch_starts_nobody_while_somebody_generates():
    requests = [Request("A", 0.0, 16, 10), Request("B", 0.1, 16, 10), Request("C", 0.1, 16, 10)]
    ours = play(requests, policy="STATIC_BATCH")
    assert steps(ours["A"].finished_s) == 10
    assert [steps(ours[name].admitted_s) for name in "BC"] == [10, 10]
    assert steps(play(requests)["B"].admitted_s) == 1


def test_without_chunks_a_prompt_waits_for_a_step_that_takes_all_of_it():
    # 64 tokens a step.  Step 1: A's 40; B's 40 do not fit beside them, and C's 8 may not pass B.  Step 2: A's token,
    # B's 40, C's 8.  vLLM with chunks gives B its first 24 tokens in step 1.
    engine = options(max_num_batched_tokens=64, enable_chunked_prefill=False)
    requests = [Request("A", 0.0, 40, 4), Request("B", 0.0, 40, 4), Request("C", 0.0, 8, 4)]
    ours = play(requests, engine=engine)
    assert [steps(ours[name].admitted_s) for name in "ABC"] == [0, 1, 1]
    theirs, _ = run(requests, engine=options(max_num_batched_tokens=64), prices=[EVEN])
    assert {record.id: steps(record.admitted_s) for record in theirs}["B"] == 0


def test_a_chunk_that_is_not_the_rest_of_a_prompt_is_a_multiple_of_a_block():
    # setCtxRequestsChunkSize<kFIRST_COME_FIRST_SERVED>, 40 tokens a step, blocks of 16: A gets 32, 32 and all of
    # the last 36; the 8 tokens left in step 1 are too few for a chunk of B (24 tokens), but enough for all of C (8).
    # B comes in step 4.  vLLM would give A 40, 40 and 20, B the other 20 of step 3, and C nothing before.
    engine = options(max_num_batched_tokens=40)
    requests = [Request("A", 0.0, 100, 1), Request("B", 0.0, 24, 1), Request("C", 0.0, 8, 1)]
    ours = play(requests, engine=engine)
    assert [steps(ours[name].first_token_s) for name in "ABC"] == [3, 4, 1]
    theirs, _ = run(requests, engine=engine, prices=[EVEN])
    assert {record.id: steps(record.first_token_s) for record in theirs} == {"A": 3, "B": 4, "C": 4}


def test_prompts_make_equal_progress():
    # setCtxRequestsChunkSize<kEQUAL_PROGRESS>, 64 tokens a step, blocks of 16: two prompts of 64 get 32 each, twice.
    engine = options(max_num_batched_tokens=64)
    requests = [Request("A", 0.0, 64, 1), Request("B", 0.0, 64, 1)]
    equal = play(requests, engine=engine, chunks="EQUAL_PROGRESS")
    assert [steps(equal[name].first_token_s) for name in "AB"] == [2, 2]
    first = play(requests, engine=engine)
    assert [steps(first[name].first_token_s) for name in "AB"] == [1, 2]


def test_equal_progress_gives_the_rest_to_who_can_take_it():
    # 72 tokens, blocks of 16: A (24), B (80).  Round 1: 16 and 16.  Round 2: A's last 8, B 16.  Left 16: B once more.
    # B has 48 after step 1 and its last 32 in step 2.
    engine = options(max_num_batched_tokens=72)
    requests = [Request("A", 0.0, 24, 1), Request("B", 0.0, 80, 1)]
    equal = play(requests, engine=engine, chunks="EQUAL_PROGRESS")
    assert [steps(equal[name].first_token_s) for name in "AB"] == [1, 2]


def test_a_request_waits_for_the_block_that_another_one_is_computing():
    # beneficialToSkip: B's first block is new and the same as A's, so B starts when A's prompt has been computed, and
    # finds 4 blocks of it.  C has nothing in common with them and passes B.
    engine = options(enable_prefix_caching=True)
    common = Prefix((7,), 64)
    requests = [
        Request("A", 0.0, 72, 4, prefix=common),
        Request("B", 0.0, 72, 4, prefix=common),
        Request("C", 0.0, 72, 4),
    ]
    ours = play(requests, engine=engine)
    assert [steps(ours[name].admitted_s) for name in "ABC"] == [0, 1, 0]
    assert [ours[name].cached_tokens for name in "ABC"] == [0, 64, 0]
    theirs, _ = run(requests, engine=engine, prices=[EVEN])
    assert {record.id: steps(record.admitted_s) for record in theirs}["B"] == 0  # vLLM's blocks are found at once


def test_blocks_that_others_hold_need_not_be_free():
    # A's life is 5 blocks (72 + 8 tokens), B's too, but 4 of them are A's: 6 blocks are enough for both.
    engine = options(enable_prefix_caching=True)
    common = Prefix((7,), 64)
    requests = [Request("A", 0.0, 72, 8, prefix=common), Request("B", 0.0, 72, 8, prefix=common)]
    assert steps(play(requests, engine=engine, blocks=6)["B"].admitted_s) == 1
    assert steps(play(requests, engine=engine, blocks=5)["B"].admitted_s) == 8


# ---------------------------------------------------------------------- bad input


def test_settings_are_checked():
    pool = BlockPool(10, 16)
    with pytest.raises(ScenarioError, match="capacity_scheduler_policy: must be one of GUARANTEED_NO_EVICT, MAX"):
        InFlightBatching(options(), pool, capacity_scheduler_policy="GREEDY")
    with pytest.raises(ScenarioError, match="context_chunking_policy: must be one of"):
        InFlightBatching(options(), pool, context_chunking_policy="")
    with pytest.raises(
        ScenarioError, match=r"engine\.max_num_batched_tokens: tensorrt_llm needs at least block_size, 16"
    ):
        InFlightBatching(options(max_num_batched_tokens=8, max_num_seqs=8), pool)


def test_a_prompt_longer_than_a_step_is_refused_without_chunks():
    engine = options(max_num_batched_tokens=64, enable_chunked_prefill=False)
    ours = play([Request("A", 0.0, 65, 1), Request("B", 0.0, 64, 1)], engine=engine)
    assert [ours[name].status for name in "AB"] == ["rejected", "finished"]
    assert "without enable_chunked_prefill" in ours["A"].reason


def test_a_paused_request_that_has_outgrown_a_step_is_computed_all_the_same():
    engine = options(max_num_batched_tokens=48, enable_chunked_prefill=False)
    requests = [Request("A", 0.0, 24, 60), Request("B", 0.1, 24, 60)]
    ours = play(requests, engine=engine, blocks=8, policy="MAX_UTILIZATION")
    assert ours["B"].preemptions > 0
    assert [ours[name].output_tokens for name in "AB"] == [60, 60]


# ---------------------------------------------------------------------- invariants


def drawn(seed: int, *, pipelined: bool = False) -> dict:
    """Draw a scenario, with and without chunks, one in five of sessions."""
    plain = scenario(seed, pipelined=pipelined, sessions=seed % 5 == 0)
    engine = plain["engine"]
    tokens = max(engine.max_num_batched_tokens, engine.block_size)
    plain["engine"] = replace(
        engine, enable_chunked_prefill=seed % 3 > 0, max_num_batched_tokens=tokens, max_num_scheduled_tokens=tokens,
        scheduling_policy="fcfs",
    )  # fmt: skip
    return plain


def policy_of(name: str, seed: int, *, leap: bool = True, kind: type = InFlightBatching):
    chunks = ["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"][seed % 2]
    return partial(kind, leap=leap, capacity_scheduler_policy=name, context_chunking_policy=chunks)


@pytest.mark.parametrize("seed", many(150))
@pytest.mark.parametrize("policy", POLICIES)
def test_leaping_gives_the_records_of_stepping(policy, seed):
    plain = drawn(seed)
    leapt, engine = run(**plain, scheduler=policy_of(policy, seed))
    stepped, slow = run(**plain, scheduler=policy_of(policy, seed, leap=False))
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(plain["requests"])
    assert engine.steps == slow.steps
    assert engine.pool.free == engine.pool.blocks
    assert engine.scheduler._capacity.owed == 0
    if policy != "MAX_UTILIZATION":
        assert engine.preemptions == 0


@pytest.mark.parametrize("seed", many(40))
@pytest.mark.parametrize("policy", POLICIES)
def test_pipelines_serve_everybody(policy, seed):
    plain = drawn(seed, pipelined=True)
    records, engine = run(**plain, scheduler=policy_of(policy, seed))
    assert len(records) == len(plain["requests"])
    assert engine.pool.free == engine.pool.blocks


class OneByOne(InFlightBatching):
    """Looks at every sequence in every step."""

    def _plan_group(self, group):
        return None


@pytest.mark.parametrize("seed", many(60))
@pytest.mark.parametrize("policy", POLICIES)
def test_the_group_decides_as_one_by_one(policy, seed):
    plain = drawn(seed)
    grouped, engine = run(**plain, scheduler=policy_of(policy, seed))
    single, slow = run(**plain, scheduler=policy_of(policy, seed, kind=OneByOne))
    finished = [record for record in grouped if record.status == "finished"]
    agree(finished, [record for record in single if record.status == "finished"])
    assert engine.steps == slow.steps


def test_the_random_scenarios_pause_and_chunk():
    paused = sum(run(**drawn(seed), scheduler=policy_of("MAX_UTILIZATION", seed))[1].preemptions for seed in range(150))
    assert paused > 50


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("chunks", ["FIRST_COME_FIRST_SERVED", "EQUAL_PROGRESS"])
def test_it_keeps_what_every_scheduler_must(policy, chunks):
    check_scheduler(InFlightBatching, capacity_scheduler_policy=policy, context_chunking_policy=chunks)
