"""Never hang, never lose: caches that hardly hold one request, storms, victims that are the request itself.

Each case is played by all the ways an engine can go: leaping and stepping, synchronous and asynchronous.  What must
hold: the run ends, each request has exactly one record, and all blocks are free again.  Cases with two that do not
fit together, and many in a cache for one, are in `test_engine.py`; random ones in `test_invariants.py`.
"""

from __future__ import annotations

from dataclasses import astuple
from itertools import pairwise

import pytest
from simulations import options, run

from llmsim.results.records import Record
from llmsim.workload.request import Prefix, Request

WAYS = [(leap, ahead) for leap in (True, False) for ahead in (False, True)]
every_way = pytest.mark.parametrize(("leap", "ahead"), WAYS)


def ended(asked: list[Request], *, blocks: int, leap: bool, **engine) -> tuple[dict[str, Record], int]:
    """Run the requests; return their records by id and the number of preemptions, all books checked."""
    records, replica = run(asked, engine=options(**engine), blocks=blocks, leap=leap)
    assert sorted(record.id for record in records) == sorted(request.id for request in asked)
    assert replica.pool.free == blocks
    assert replica.load == 0
    by_id = {record.id: record for record in records}
    for request in asked:
        if by_id[request.id].status == "finished":
            assert by_id[request.id].output_tokens == request.output_tokens
    return by_id, replica.preemptions


def finished(records: dict[str, Record]) -> bool:
    return all(record.status == "finished" for record in records.values())


# ---------------------------------------------------------------------- a cache one block too small


@every_way
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_cache_one_block_too_small_rejects_with_the_figures(leap, ahead, policy):
    # 30 + 19 tokens, of which the last is never computed: 48 are three blocks of 16, 49 would be four.
    asked = [Request("fits", 0.0, 30, 19), Request("does not", 0.0, 30, 20), Request("fits too", 0.1, 1, 1)]
    records, _ = ended(asked, blocks=3, leap=leap, async_scheduling=ahead, scheduling_policy=policy)
    assert records["does not"].status == "rejected"
    assert records["does not"].reason == "needs 4 KV-cache blocks, the engine has 3"
    assert records["fits"].status == records["fits too"].status == "finished"


@every_way
def test_a_cache_with_exactly_enough_blocks_serves(leap, ahead):
    asked = [Request(str(number), 0.0, 30, 19) for number in range(3)]
    records, preemptions = ended(asked, blocks=3, leap=leap, async_scheduling=ahead)
    assert finished(records)
    # 30 tokens are two blocks: no second one is admitted beside the first.
    assert preemptions == 0


def test_a_watermark_that_leaves_no_block_still_lets_one_run_after_the_other():
    asked = [Request(str(number), 0.0, 30, 19) for number in range(3)]
    records, preemptions = ended(asked, blocks=8, leap=True, watermark=1.0)
    assert finished(records)
    assert preemptions == 0
    spans = sorted((record.admitted_s, record.finished_s) for record in records.values())
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("scheduler", ["continuous", "static"])
def test_a_window_context_that_is_exactly_filled_ends(scheduler):
    asked = [Request("full", 0.0, 100, 28), Request("over", 0.0, 100, 29)]
    records, replica = run(asked, engine=options(max_model_len=128), blocks=100, scheduler=scheduler)
    assert {record.id: record.status for record in records} == {"full": "finished", "over": "rejected"}
    assert replica.pool.free == 100


# ---------------------------------------------------------------------- storms


@every_way
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_preemption_storm_ends(leap, ahead, policy):
    # 24 requests, each of which alone nearly fills the cache, and all are admitted by their first chunk: whoever
    # decodes soon lacks blocks.
    asked = [Request(str(number), 0.0, 8, 72, priority=number % 3) for number in range(24)]
    records, preemptions = ended(
        asked, blocks=20, leap=leap, async_scheduling=ahead, scheduling_policy=policy, block_size=4,
        scheduler_reserve_full_isl=False,
    )  # fmt: skip
    assert finished(records)
    assert preemptions > 24


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
@pytest.mark.parametrize("ahead", [False, True])
def test_a_storm_is_the_same_whether_it_leaps_or_not(policy, ahead):
    asked = [Request(str(number), 0.01 * number, 8, 72, priority=number % 3) for number in range(24)]
    engine = options(async_scheduling=ahead, scheduling_policy=policy, block_size=4)
    ours, theirs = (run(asked, engine=engine, blocks=20, leap=leap)[0] for leap in (True, False))
    assert [astuple(record) for record in ours] == [astuple(record) for record in theirs]


@every_way
def test_a_storm_with_prefix_caching_ends(leap, ahead):
    # All prompts are one, so all blocks of prompts are shared, and victims find them again.
    prefix = Prefix((1, 2), 16)
    asked = [Request(str(number), 0.0, 32, 48, prefix=prefix) for number in range(16)]
    records, preemptions = ended(
        asked, blocks=12, leap=leap, async_scheduling=ahead, enable_prefix_caching=True, block_size=8
    )
    assert finished(records)
    assert preemptions > 0


# ---------------------------------------------------------------------- the victim is the request itself


@every_way
@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_victim_that_is_the_request_itself_comes_back(leap, ahead, policy):
    # Blocks of one token, ten of them, and two requests of one prompt token and nine of output each: nine tokens are
    # computed of each.  Both decode, and at the fifth token of each the cache is full.  The one that lacks a block in
    # its own turn is, by fcfs, the last admitted, and by priority the least important, which stands first in the list.
    asked = [Request("first", 0.0, 1, 9, priority=1), Request("second", 0.015, 1, 9, priority=0)]
    records, preemptions = ended(
        asked, blocks=10, leap=leap, async_scheduling=ahead, scheduling_policy=policy, block_size=1
    )
    assert finished(records)
    assert preemptions >= 1
    victim = "second" if policy == "fcfs" else "first"
    assert records[victim].preemptions == preemptions


@every_way
def test_a_chunk_that_no_block_is_left_for_comes_back(leap, ahead):
    # A prompt under way lacks blocks itself: it was admitted by its first chunk, and stands last.
    asked = [Request("decodes", 0.0, 4, 40), Request("prompt", 0.005, 40, 2)]
    records, preemptions = ended(
        asked, blocks=44, leap=leap, async_scheduling=ahead, block_size=1, scheduler_reserve_full_isl=False,
        max_num_batched_tokens=32,
    )  # fmt: skip
    assert finished(records)
    assert preemptions > 0


# ---------------------------------------------------------------------- everything is in the cache


@every_way
@pytest.mark.parametrize("blocks", [4, 5, 100])
def test_prompts_that_are_wholly_in_the_cache_still_compute_something(leap, ahead, blocks):
    # Four blocks of 16 each, the same for all.  Hits are at most 63 tokens, that is three blocks.
    prefix = Prefix((1, 2, 3, 4), 16)
    asked = [Request(str(number), 0.02 * number, 64, 1, prefix=prefix) for number in range(6)]
    records, _ = ended(asked, blocks=blocks, leap=leap, async_scheduling=ahead, enable_prefix_caching=True)
    assert finished(records)
    assert [records[str(number)].cached_tokens for number in range(6)] == [0, 48, 48, 48, 48, 48]


@every_way
def test_a_prompt_of_one_block_that_is_in_the_cache_is_computed(leap, ahead):
    asked = [Request(str(number), 0.1 * number, 16, 2, prefix=Prefix((7,), 16)) for number in range(3)]
    records, _ = ended(asked, blocks=2, leap=leap, async_scheduling=ahead, enable_prefix_caching=True)
    assert finished(records)
    assert all(record.cached_tokens == 0 for record in records.values())


# ---------------------------------------------------------------------- nothing to generate


@every_way
def test_answers_of_no_token_are_rejected_and_hold_up_nobody(leap, ahead):
    asked = [Request(str(number), 0.0, 10, number % 2) for number in range(6)]
    records, _ = ended(asked, blocks=10, leap=leap, async_scheduling=ahead, max_num_seqs=1)
    assert {number: record.status for number, record in records.items()} == {
        str(number): "finished" if number % 2 else "rejected" for number in range(6)
    }
    assert records["0"].reason == "asks for 0 output tokens on a prompt of 10"
    assert all(record.preemptions == 0 for record in records.values())


# ---------------------------------------------------------------------- queues with a limit


@every_way
def test_a_queue_with_a_limit_loses_nobody(leap, ahead):
    asked = [Request(str(number), 0.004 * number, 40, 30) for number in range(60)]
    records, _ = ended(
        asked, blocks=12, leap=leap, async_scheduling=ahead, max_num_seqs=2, max_num_queued_reqs=3,
        max_num_queued_tokens=100,
    )  # fmt: skip
    assert {record.status for record in records.values()} == {"finished", "rejected"}
