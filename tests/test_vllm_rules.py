"""vLLM's V1 scheduler (`Scheduler.schedule`, 0.33.0) rule by rule: the scan, the budget, the seats, the queue.

Each case is small enough to be worked out on paper, and the working stands beside it.  Blocks hold one token and
are only counted, so that a sequence holds as many as it has computed tokens.  Preemption has a file of its own,
and so has the prefix cache.
"""

from __future__ import annotations

import pytest
from scripted import ask, play, scheduled, tokens_of
from simulations import options

import llmsim
from llmsim.schema import resolve

# ---------------------------------------------------------------------- the running ones come first


def test_running_requests_are_served_before_waiting_ones_in_order_of_admission():
    log = play(ask("a", 4, 3), ask("b", 20, 2, at=1), ask("c", 2, 2, at=2), max_num_batched_tokens=8)
    # Step 1: a decodes, b has the rest of the 8 tokens.  Step 2: a, then b's next chunk; nothing is left for c.
    assert scheduled(log)[:3] == [[("a", 4)], [("a", 1), ("b", 7)], [("a", 1), ("b", 7)]]


def test_there_are_no_phases_a_step_mixes_decodes_chunks_and_new_prompts():
    log = play(ask("a", 2, 5), ask("b", 9), ask("c", 5, at=1), max_num_batched_tokens=8)
    # Step 0: 2 + 6 of b's 9.  Step 1: a decodes, b computes its last 3, c gets the 4 that are left.
    assert scheduled(log)[:3] == [[("a", 2), ("b", 6)], [("a", 1), ("b", 3), ("c", 4)], [("a", 1), ("c", 1)]]
    assert log[1]["finished"] == ["b"]


def test_the_running_list_is_never_sorted_again():
    log = play(ask("x", 1, 3, priority=5), ask("y", 1, 3, at=1, priority=0), policy="priority")
    assert scheduled(log)[1:3] == [[("x", 1), ("y", 1)], [("x", 1), ("y", 1)]]


# ---------------------------------------------------------------------- budget


def test_the_token_budget_is_max_num_scheduled_tokens():
    log = play(ask("a", 20), max_num_batched_tokens=64, max_num_scheduled_tokens=8)
    assert tokens_of("a", log) == [8, 8, 4]


def test_the_token_budget_is_max_num_batched_tokens_by_default():
    assert tokens_of("a", play(ask("a", 20), max_num_batched_tokens=12)) == [12, 8]


def test_the_scan_of_the_running_ends_with_the_budget():
    log = play(ask("a", 6, 2), ask("b", 9, 2), ask("c", 1, 2), max_num_batched_tokens=4, max_num_scheduled_tokens=4)
    # a needs two steps for its prompt; b the rest of step 1 and two more; c is admitted when tokens are left.
    assert scheduled(log)[:4] == [[("a", 4)], [("a", 2), ("b", 2)], [("a", 1), ("b", 3)], [("b", 4)]]


def test_an_engine_needs_a_budget_of_a_token_for_each_seat():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", max_num_batched_tokens=64, max_num_seqs=128)
    with pytest.raises(llmsim.InputError, match="max_num_batched_tokens"):
        resolve(scenario)


def test_without_chunked_prefill_the_budget_must_hold_the_longest_prompt():
    scenario = llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", max_num_batched_tokens=2048, enable_chunked_prefill=False
    )
    with pytest.raises(llmsim.InputError, match="max_num_batched_tokens"):
        resolve(scenario)


# ---------------------------------------------------------------------- the long-prefill threshold


def test_long_cap_counts_running_and_waiting():
    log = play(ask("a", 24), ask("b", 3, at=1), max_num_batched_tokens=8, long_prefill_token_threshold=4)
    # Step 0: a is alone, so only the budget of 8 holds.  Step 1: b waits, that makes two: 4 for a.  Then a is alone.
    assert scheduled(log) == [[("a", 8)], [("a", 4), ("b", 3)], [("a", 8)], [("a", 4)]]


def test_long_cap_is_off_for_the_only_request():
    assert tokens_of("a", play(ask("a", 12), long_prefill_token_threshold=4)) == [12]


def test_long_cap_holds_for_those_that_arrive_in_the_same_step():
    log = play(ask("a", 6), ask("b", 6), long_prefill_token_threshold=4)
    assert scheduled(log) == [[("a", 4), ("b", 4)], [("a", 2), ("b", 2)]]


def test_long_cap_is_shared_out_when_adaptive():
    def first_step(count: int) -> set[int]:
        requests = [ask(str(number), 40) for number in range(count)]
        return set(
            play(
                *requests,
                max_num_batched_tokens=32,
                long_prefill_token_threshold=4,
                long_prefill_token_threshold_adaptive=True,
            )[0]["scheduled"].values()
        )

    # max(4, 32 // present): 16 for two, 8 for four; 3 would be less than the threshold of 4.
    assert first_step(2) == {16}
    assert first_step(4) == {8}
    assert first_step(10) == {4}


def test_long_cap_comes_before_the_test_for_chunking():
    log = play(
        ask("a", 10), ask("b", 10), max_num_batched_tokens=6, enable_chunked_prefill=False,
        long_prefill_token_threshold=4,
    )  # fmt: skip
    # With a threshold prompts are chunked although chunked prefill is off: b gets the 2 tokens that a leaves.
    assert scheduled(log)[:2] == [[("a", 4), ("b", 2)], [("a", 4), ("b", 2)]]


# ---------------------------------------------------------------------- prompts and chunks


def test_prompts_are_cut_to_what_is_left_of_the_budget():
    log = play(ask("a", 5), ask("b", 5), max_num_batched_tokens=8)
    assert scheduled(log) == [[("a", 5), ("b", 3)], [("b", 2)]]


def test_without_chunked_prefill_a_prompt_longer_than_the_budget_left_ends_the_scan():
    log = play(ask("a", 6), ask("b", 6), ask("c", 1), max_num_batched_tokens=10, enable_chunked_prefill=False)
    # b's 6 are more than the 4 left, and c, for whom there would be room, stands behind it.
    assert scheduled(log) == [[("a", 6)], [("b", 6), ("c", 1)]]


def test_computed_moves_when_a_step_is_scheduled_not_when_it_has_run():
    log = play(ask("a", 8), max_num_batched_tokens=4, async_scheduling=True)
    # Step 1 is decided before step 0 has been processed, and goes on where that will end.
    assert [line["updated"] for line in log][:2] == [None, 0]
    assert tokens_of("a", log)[:2] == [4, 4]


def test_prompts_are_computed_in_one_step_of_the_prefill_interval():
    log = play(ask("a", 2, 9), ask("b", 2, 2, at=1), prefill_schedule_interval=3)
    # Step 0 had a prompt in it; so, while a decodes, b waits until step 3.
    assert tokens_of("b", log)[:4] == [0, 0, 0, 2]


# ---------------------------------------------------------------------- who is admitted


def test_seats_are_max_num_seqs():
    log = play(*(ask(name, 2, 2) for name in "abc"), max_num_seqs=2)
    # a and b end with step 1, c is admitted in step 2.
    assert [line["new"] for line in log] == [["a", "b"], [], ["c"], []]


def test_max_num_active_seqs_limits_admission():
    log = play(*(ask(name, 2, 2) for name in "abc"), max_num_seqs=3, max_num_active_seqs=1)
    assert [line["new"] for line in log] == [["a"], [], ["b"], [], ["c"], []]


def test_the_head_of_the_queue_is_never_skipped():
    log = play(ask("a", 6, 3), ask("b", 8, at=1), ask("c", 1, at=1), usable=10)
    # Step 1: a holds 7 of 10 blocks, b needs 8, c would need one.  Both wait for a's end with step 2.
    assert [line["num_waiting"] for line in log] == [0, 2, 2, 0]
    assert scheduled(log)[3] == [("b", 8), ("c", 1)]


def test_admission_asks_for_the_whole_known_sequence():
    log = play(ask("a", 4, 4), ask("b", 6, at=1), usable=10, max_num_batched_tokens=4)
    # Step 1: a holds 5, so 5 are free: b's chunk of 3 tokens would fit, its prompt of 6 does not.
    assert scheduled(log)[1] == [("a", 1)]


def test_admission_never_asks_for_future_output():
    log = play(ask("a", 4, 2), ask("b", 5, 6, at=1), usable=10, max_num_batched_tokens=4)
    # The same 5 free blocks are enough for a prompt of 5, whatever b will generate.
    assert scheduled(log)[1] == [("a", 1), ("b", 3)]


def test_without_reserve_full_isl_blocks_for_the_first_chunk_are_enough():
    log = play(ask("a", 4, 4), ask("b", 6, at=1), usable=10, max_num_batched_tokens=4, scheduler_reserve_full_isl=False)
    assert scheduled(log)[1] == [("a", 1), ("b", 3)]


def test_watermark_only_when_something_runs():
    # int(0.2 * 11) = 2 blocks are kept free, but not from the first one.
    assert scheduled(play(ask("a", 10), usable=10, watermark=0.2)) == [[("a", 10)]]


@pytest.mark.parametrize(("prompt", "admitted"), [(3, True), (4, False)])
def test_watermark_keeps_blocks_free_when_admitting(prompt, admitted):
    log = play(ask("a", 4, 3), ask("b", prompt, at=1), usable=10, watermark=0.2)
    # Step 1: a holds 5, 5 are free, and 2 must stay so.
    assert (log[1]["new"] == ["b"]) is admitted


def test_watermark_is_taken_of_all_blocks_the_null_block_included():
    log = play(ask("a", 4, 3), ask("b", 4, at=1), usable=10, watermark=0.19)
    # int(0.19 * 11) = 2; of the ten usable blocks it would be 1, and b would fit into the 5 free ones.
    assert log[1]["new"] == []


def test_watermark_does_not_hold_for_the_running():
    log = play(ask("a", 4, 7), usable=10, watermark=0.5)
    # 4 + 7 - 1 tokens are all ten blocks.
    assert [line["free_blocks"] for line in log] == [6, 5, 4, 3, 2, 1, 0]
    assert not any(line["preempted"] for line in log)


def test_one_block_is_not_usable():
    log = play(ask("a", 5), ask("b", 5), num_blocks=10)
    # Of ten blocks nine are there: a's 5 leave 4.
    assert log[0]["free_blocks"] == 4
    assert [line["new"] for line in log] == [["a"], ["b"]]


# ---------------------------------------------------------------------- the order of the queue


def test_fcfs_is_the_order_of_arrival():
    log = play(ask("late", 1, at=1), ask("b", 1, 2), ask("a", 1), max_num_seqs=1)
    assert [line["new"] for line in log] == [["b"], [], ["a"], ["late"]]


def test_priority_serves_the_lowest_number_first():
    log = play(ask("a", 1, priority=2), ask("b", 1, priority=0), ask("c", 1, priority=1), max_num_seqs=1,
               policy="priority")  # fmt: skip
    assert [line["new"] for line in log] == [["b"], ["c"], ["a"]]


def test_equal_priorities_are_served_by_arrival_time():
    log = play(ask("a", 1, arrival_time=0.2), ask("b", 1, arrival_time=0.1), max_num_seqs=1, policy="priority")
    assert [line["new"] for line in log] == [["b"], ["a"]]


def test_full_ties_are_served_by_the_request_id_as_text():
    log = play(ask("q2", 1, arrival_time=0.0), ask("q10", 1, arrival_time=0.0), max_num_seqs=1, policy="priority")
    assert [line["new"] for line in log] == [["q10"], ["q2"]]


def test_a_waiting_request_never_preempts_a_running_one():
    log = play(ask("x", 1, 3, priority=5), ask("y", 1, at=1, priority=0), max_num_seqs=1, policy="priority")
    assert [line["scheduled"] for line in log] == [{"x": 1}, {"x": 1}, {"x": 1}, {"y": 1}]
    assert not any(line["preempted"] for line in log)


# ---------------------------------------------------------------------- how requests end


def test_a_request_ends_at_max_tokens():
    log = play(ask("a", 3, 4))
    # The prompt gives the first token, each step after it one more; the last token is never computed.
    assert tokens_of("a", log) == [3, 1, 1, 1]
    assert log[-1]["finished"] == ["a"]
    assert "finish_reason" not in log[-1]


def test_a_request_ends_at_a_stop_that_nobody_could_foresee():
    log = play(ask("a", 3, 2, max_tokens=9))
    assert tokens_of("a", log) == [3, 1]
    assert log[-1]["finish_reason"] == {"a": "stop"}


def test_a_request_ends_at_max_model_len():
    log = play(ask("a", 6, 10), max_model_len=10)
    # 6 + 4 tokens are the window; its last token is not computed.
    assert tokens_of("a", log) == [6, 1, 1, 1]
    assert log[-1]["finished"] == ["a"]


# ---------------------------------------------------------------------- asynchronous scheduling


def test_zero_tokens_skip_and_do_not_stop_the_scan():
    log = play(ask("a", 4, 2), ask("b", 4, 5), async_scheduling=True)
    # Step 2 is decided with step 1 unprocessed, which brings a's second and last token: a computes nothing and keeps
    # its seat, and b, behind it in the list, goes on.
    assert scheduled(log)[:4] == [[("a", 4), ("b", 4)], [("a", 1), ("b", 1)], [("b", 1)], [("b", 1)]]
    assert [line["num_running"] for line in log][:4] == [2, 2, 2, 1]


def test_batches_in_flight_are_one_a_stage_and_one_more_when_asynchronous():
    assert options().max_concurrent_batches == 1
    assert options(async_scheduling=True).max_concurrent_batches == 2
    assert options(pipeline_parallel_size=4, async_scheduling=True).max_concurrent_batches == 5


def test_async_frees_seats_one_step_later():
    requests = ask("a", 4), ask("b", 4)
    assert tokens_of("b", play(*requests, max_num_seqs=1)) == [0, 4]
    # Step 1 is decided while a's only step has not been processed.
    assert tokens_of("b", play(*requests, max_num_seqs=1, async_scheduling=True))[:3] == [0, 0, 4]


def test_async_frees_blocks_one_step_later():
    requests = ask("a", 6), ask("b", 6)
    assert tokens_of("b", play(*requests, usable=8)) == [0, 6]
    assert tokens_of("b", play(*requests, usable=8, async_scheduling=True))[:3] == [0, 0, 6]


def test_async_an_unforeseen_stop_costs_one_wasted_token():
    request = ask("a", 3, 2, max_tokens=9)
    assert sum(tokens_of("a", play(request))) == 4
    # Step 2 is decided before the stop that step 1 brings is seen.
    assert sum(tokens_of("a", play(request, async_scheduling=True))) == 5


def test_async_reaching_max_tokens_wastes_nothing():
    assert sum(tokens_of("a", play(ask("a", 3, 2), async_scheduling=True))) == 4
