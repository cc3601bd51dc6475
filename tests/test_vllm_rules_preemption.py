"""vLLM's V1 scheduler (`Scheduler.schedule`, 0.33.0) rule by rule: who gives way when blocks run out, and what then.

Blocks hold one token, so a sequence holds as many as it has computed tokens; "a 3" below says that a holds three.
"""

from __future__ import annotations

from scripted import ask, play, scheduled, tokens_of


def test_fcfs_victim_is_the_last_admitted():
    # Blocks of 4, four of them.  Step 0: a and b compute 7 tokens each, that is 2 blocks each; step 1: their 8th.
    # Step 2: a's 9th token wants a third block, there is none, and b, admitted last, gives way.
    log = play(ask("a", 7, 4), ask("b", 7, 4), usable=4, block_size=4)
    assert [line["preempted"] for line in log][:3] == [[], [], ["b"]]
    assert scheduled(log)[2] == [("a", 1)]
    assert log[2]["free_blocks"] == 1


def test_fcfs_victim_that_is_the_request_itself_ends_the_scan():
    # Five blocks.  Step 0: a 1, b 1; step 1: a 2, b 2; step 2: a 3, none is left for b, the last admitted itself.
    log = play(ask("a", 1, 4), ask("b", 1, 4), usable=5)
    assert log[2]["preempted"] == ["b"]
    assert scheduled(log)[2] == [("a", 1)]


def test_priority_victim_is_the_least_important_not_the_last_admitted():
    # Five blocks.  Step 0: x 1; 1: x 2, y 1; 2: x 3, y 2; 3: x finds none, and is the least important itself.
    log = play(ask("x", 1, 5, priority=2), ask("y", 1, 4, at=1, priority=0), usable=5, policy="priority")
    assert log[3]["preempted"] == ["x"]


def test_priority_victim_is_the_latest_among_equals():
    # Like fcfs, though c is served first in the list: c 1, then a and b with it.  Seven blocks: c 3, a 2, b 2.
    log = play(
        ask("c", 1, 6), ask("a", 1, 6, at=1), ask("b", 1, 6, at=1, arrival_time=0.5), usable=7, policy="priority"
    )
    # Step 3: c wants a fourth block.  Arrival times are 0, 1.000001 and 0.5: a came last, though b stands last.
    assert log[3]["preempted"] == ["a"]


def test_priority_victim_is_the_first_in_the_list_in_a_full_tie():
    # Step 2: a 3, b 2 are all five blocks.  b finds none; priorities and times are equal, so a gives way, scheduled
    # already as it was.
    requests = (ask(name, 1, 4, arrival_time=0.0) for name in "ab")
    log = play(*requests, usable=5, policy="priority")
    assert log[2]["preempted"] == ["a"]
    assert scheduled(log)[2] == [("b", 1)]


def test_priority_victim_that_is_itself_lets_the_scan_go_on():
    # Step 3 of above: x finds no block and gives way itself; y, behind it, still gets its token.
    log = play(ask("x", 1, 5, priority=2), ask("y", 1, 4, at=1, priority=0), usable=5, policy="priority")
    assert scheduled(log)[3] == [("y", 1)]


GIVING = {
    "usable": 8, "policy": "priority", "max_num_batched_tokens": 4, "scheduler_reserve_full_isl": False,
}  # fmt: skip


def test_priority_victim_gives_its_tokens_back():
    # Eight blocks, four tokens a step.  Step 0: x 1.  Step 1: x 2, y 1.  Step 2: x 3, y 2, z the 2 tokens left.
    # Step 3: x 4, all eight are taken; y finds none and x gives way, with its four blocks and its token of this step.
    # So z has 4 - 1 = 3 tokens; without x's token it would have 2.
    log = play(ask("x", 1, 5, priority=2), ask("y", 1, 5, at=1, priority=0), ask("z", 8, 1, at=2, priority=1), **GIVING)
    assert scheduled(log)[:3] == [[("x", 1)], [("x", 1), ("y", 1)], [("x", 1), ("y", 1), ("z", 2)]]
    assert log[3]["preempted"] == ["x"]
    assert scheduled(log)[3] == [("y", 1), ("z", 3)]


def test_tokens_given_back_help_only_those_later_in_the_scan():
    # Seven blocks, four tokens a step.  Step 2: x 3, z 3 of its 7.  Step 3: x 4, that makes seven; z wants 4 tokens,
    # may have the 3 that are left and finds no block, so x gives way with its token.  z's chunk was cut to 3 before.
    log = play(ask("x", 1, 5, priority=2), ask("z", 7, 1, at=2, priority=0), **(GIVING | {"usable": 7}))
    assert log[3]["preempted"] == ["x"]
    assert scheduled(log)[3] == [("z", 3)]


def test_waiting_is_not_tried_after_a_preemption():
    # x 3, y 2 in step 2.  Step 3: x gives way, y 3: two of five blocks and a seat are free, w asks for one block and is
    # more important than x, but this step admits nobody.  The next one does.
    log = play(
        ask("x", 1, 5, priority=2), ask("y", 1, 4, at=1, priority=0), ask("w", 1, 1, at=2, priority=1),
        usable=5, policy="priority", max_num_seqs=2,
    )  # fmt: skip
    assert log[3]["preempted"] == ["x"]
    assert (log[3]["free_blocks"], log[3]["num_running"], log[3]["new"]) == (2, 1, [])
    assert log[4]["new"] == ["w"]


def test_a_victim_goes_to_the_front_of_the_queue():
    # Two seats, so c waits from step 2 on.  Step 2: a 3, b gives way.  Step 3: a 4, one of five blocks is free: c would
    # fit, but b, with three tokens, is before it.  Step 4: a has ended, both are admitted, b first.
    log = play(ask("a", 1, 4), ask("b", 1, 4), ask("c", 1, 1, at=2), usable=5, max_num_seqs=2)
    assert log[2]["preempted"] == ["b"]
    assert scheduled(log)[3:5] == [[("a", 1)], [("b", 3), ("c", 1)]]


def test_a_victim_goes_to_its_rank_by_priority():
    # x (2) gives way in step 3 while w (1) waits for a seat; w is tried first in step 4, and x after it.
    log = play(
        ask("x", 1, 5, priority=2), ask("y", 1, 4, at=1, priority=0), ask("w", 1, 1, at=2, priority=1),
        usable=5, policy="priority", max_num_seqs=2,
    )  # fmt: skip
    assert [line["new"] + line["resumed"] for line in log][4:6] == [["w"], ["x"]]


def test_several_victims_wait_in_the_order_of_their_admission():
    # A cap of 4 a prompt and eight blocks.  Step 0: a 4, b 1, c 1.  Step 1: a's next chunk wants four, two are free:
    # c gives way, then b.  Step 2: a has ended; b comes back before c, as it was admitted before it.
    log = play(ask("a", 8), ask("b", 1, 3), ask("c", 1, 3), usable=8, long_prefill_token_threshold=4)
    assert log[1]["preempted"] == ["c", "b"]
    assert log[2]["resumed"] == ["b", "c"]


def test_a_victim_is_computed_anew_prompt_and_output():
    # b gives way in step 2 with one prompt token and two of output (of steps 0 and 1): three tokens in step 4.
    log = play(ask("a", 1, 4), ask("b", 1, 4), usable=5)
    assert log[4]["resumed"] == ["b"]
    assert tokens_of("b", log) == [1, 1, 0, 0, 3, 1]
    assert log[5]["finished"] == ["b"]


def test_admission_of_a_victim_asks_for_its_prompt_and_its_output():
    # Step 3: a 4 leaves one block free.  b's prompt of one token would fit, but b has generated two more.
    log = play(ask("a", 1, 4), ask("b", 1, 4), usable=5)
    assert (log[3]["resumed"], log[3]["num_waiting"]) == ([], 1)


def test_a_victim_finds_what_is_left_of_its_blocks():
    # With prefix caching.  b gives its two blocks back last one first; a takes the first of them in step 3, so in
    # step 4 b finds its first token in the cache and computes the other two.
    log = play(ask("a", 1, 4), ask("b", 1, 4), usable=5, enable_prefix_caching=True)
    assert log[4]["cached_tokens"] == {"b": 1}
    assert scheduled(log)[4] == [("b", 2)]


def test_all_blocks_of_a_victim_fall_free():
    log = play(ask("a", 1, 4), ask("b", 1, 4), usable=5)
    # Step 2: a 3 of five.
    assert log[2]["free_blocks"] == 2


def test_async_a_victims_token_in_flight_is_delivered_and_it_can_end_while_it_waits():
    # Four blocks: a 2, b 2 in step 1, which brings b's second and last token.  Step 2 is decided before that is
    # processed: a wants a third block, and b gives way, done as it is.  Then its token comes, and it ends in the queue.
    log = play(ask("a", 1, 4), ask("b", 1, 2), usable=4, async_scheduling=True)
    assert log[2]["preempted"] == ["b"]
    assert log[2]["num_waiting"] == 1
    assert (log[2]["updated"], log[2]["finished"]) == (1, ["b"])
    assert sum(tokens_of("b", log)) == 2
