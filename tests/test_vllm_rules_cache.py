"""vLLM's V1 scheduler and block pool (0.33.0) rule by rule: what is found in the prefix cache, and what is evicted.

Blocks hold four tokens unless a test says otherwise.  The free queue in the comments is written head first: its head is
taken next.  "-" is a block without a name; X0 is the first block of the content X.
"""

from __future__ import annotations

import pytest
from scripted import ask, play, scheduled, tokens_of
from simulations import options

from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import Request

CACHING = {"block_size": 4, "enable_prefix_caching": True}


def found(name: str, log: list[dict]) -> int:
    """Return how many tokens of a request were found at its first admission."""
    return next(line["cached_tokens"][name] for line in log if name in line["new"])


# ---------------------------------------------------------------------- hits


def test_full_hit_recomputes_the_last_block():
    log = play(ask("a", [["s", 8]]), ask("b", [["s", 8]], at=1), **CACHING)
    # At most 8 - 1 tokens may be found, which is one block.
    assert found("b", log) == 4
    assert tokens_of("b", log) == [0, 4]


def test_full_hit_recomputes_a_single_token_where_blocks_are_single_tokens():
    log = play(ask("a", [["s", 8]]), ask("b", [["s", 8]], at=1), enable_prefix_caching=True)
    assert found("b", log) == 7


def test_only_full_blocks_are_found():
    log = play(ask("a", [["s", 10]]), ask("b", [["s", 10], ["t", 2]], at=1), **CACHING)
    assert found("b", log) == 8


def test_a_block_is_found_only_behind_the_blocks_before_it():
    # b's second block holds the tokens of a's second block, but another block before it: another chain.
    log = play(ask("a", [["s", 8]]), ask("b", [["t", 4], ["s", 4, 4], ["t", 1, 4]], at=1), **CACHING)
    assert found("b", log) == 0


def test_nothing_is_found_without_prefix_caching():
    log = play(ask("a", [["s", 8]]), ask("b", [["s", 8]], at=1), block_size=4)
    assert found("b", log) == 0


def test_blocks_are_findable_within_the_step_that_computes_them():
    log = play(ask("a", [["s", 12]]), ask("b", [["s", 12], ["t", 2]]), **CACHING)
    # a is scheduled first in step 0, and its three blocks are in the cache when b is tried in the same step.
    assert scheduled(log)[0] == [("a", 12), ("b", 2)]
    assert found("b", log) == 12


def test_only_who_starts_looks_into_the_cache():
    # A cap of 4.  Step 0: a computes block 0, b finds it and computes block 1.  Step 1: block 1 is there, but a has
    # begun, and computes it too; so it goes on to the end.
    log = play(ask("a", [["s", 16]]), ask("b", [["s", 16]]), long_prefill_token_threshold=4, **CACHING)
    assert found("b", log) == 4
    assert tokens_of("a", log) == [4, 4, 4, 4]
    assert tokens_of("b", log)[:3] == [4, 4, 4]


@pytest.mark.parametrize(("output", "hit"), [(4, 4), (5, 8), (8, 8), (9, 12)])
def test_the_next_turn_finds_all_but_the_last_token_of_the_answer(output, hit):
    # The last token is never computed: floor((4 + output - 1) / 4) blocks are there.
    turn = ask("b", [["in:a", 4], ["out:a", output], ["more", 6]], at=20)
    assert found("b", play(ask("a", 4, output), turn, **CACHING)) == hit


def test_blocks_of_output_are_findable_as_they_fill():
    # Blocks of 2: a's prompt token and its first output token, computed in step 1, fill the first one; b, in the same
    # step, comes after it.
    turn = [["in:a", 1], ["out:a", 1], ["more", 2]]
    log = play(ask("a", 1, 9), ask("b", turn, at=1), block_size=2, enable_prefix_caching=True)
    assert found("b", log) == 2


@pytest.mark.parametrize(("step", "hit"), [(1, 0), (3, 2)])
def test_async_blocks_of_output_are_findable_when_their_step_has_been_processed(step, hit):
    # The same, but when step 1 is scheduled the token that it computes is not known yet.  Step 1 is processed after
    # step 2 has been scheduled, so step 3 is the first that surely finds the block.
    turn = [["in:a", 1], ["out:a", 1], ["more", 2]]
    log = play(ask("a", 1, 9), ask("b", turn, at=step), block_size=2, enable_prefix_caching=True, async_scheduling=True)
    assert found("b", log) == hit


# ---------------------------------------------------------------------- admission


def test_hits_that_lie_free_count_against_the_free_blocks():
    # Four blocks.  Step 0: c holds 2, a 2, and ends: A0 and A1 lie free.  b wants three blocks and finds two, which lie
    # free: 3 - 2 + 2 = 3 > 2.  c ends with step 3, so b comes in step 4.
    log = play(ask("c", 5, 4), ask("a", [["s", 8]]), ask("b", [["s", 8], ["t", 4]], at=1), usable=4, **CACHING)
    assert log[1]["free_blocks"] == 2
    assert [line["new"] for line in log][1:5] == [[], [], [], ["b"]]
    assert log[4]["cached_tokens"] == {"b": 8}


def test_hits_that_somebody_holds_need_no_free_blocks():
    # Four blocks.  Step 1: a holds three.  b wants three, and two of them are a's: one is free, and enough.
    log = play(ask("a", [["s", 8]], 5), ask("b", [["s", 8], ["t", 4]], at=1), usable=4, **CACHING)
    assert log[1]["new"] == ["b"]
    assert log[1]["free_blocks"] == 0


def test_a_failed_attempt_does_not_refresh_what_it_found():
    # Blocks of one token, six of them.  x ends in step 0, y in step 1: the queue is - - X Y.  From step 2 on b, whose
    # first token is X, asks for 6 - 1 + 1 = 6 blocks in vain.  c grows: it takes the two nameless blocks in steps 2
    # and 3, and X, still the oldest, in step 4, its last.  So b finds nothing in step 5.
    log = play(
        ask("x", [["x", 1]]), ask("c", 1, 5), ask("y", [["y", 1]], at=1), ask("b", [["x", 1], ["b", 5]], at=2),
        usable=6, enable_prefix_caching=True,
    )  # fmt: skip
    assert [line["new"] for line in log][2:6] == [[], [], [], ["b"]]
    assert log[5]["cached_tokens"] == {"b": 0}


# ---------------------------------------------------------------------- the free queue


def test_nameless_blocks_are_reused_first_last_in_first_out():
    # Three blocks.  a's 6 tokens are a named block and a nameless one: the queue is -(a) - A0, the one that fell free
    # last in front.  b takes two, which are nameless, so A0 is still there for c.  Which of the nameless blocks is
    # taken decides nothing: they hold nothing.
    log = play(ask("a", [["s", 6]]), ask("b", 8, at=1), ask("c", [["s", 4], ["c", 1]], at=2), usable=3, **CACHING)
    assert found("c", log) == 4


@pytest.mark.parametrize(("content", "hit"), [("x", 0), ("y", 4)])
def test_named_blocks_are_evicted_oldest_first(content, hit):
    # Three blocks.  After steps 0 and 1 the queue is - X Y; z takes two: the nameless one and X.
    log = play(
        ask("x", [["x", 4]]), ask("y", [["y", 4]], at=1), ask("z", 8, at=2), ask("q", [[content, 4], ["q", 1]], at=3),
        usable=3, **CACHING,
    )  # fmt: skip
    assert found("q", log) == hit


def test_blocks_are_freed_last_block_first():
    # Three blocks.  x's two are freed as X1, X0: the queue is - X1 X0.  z takes two, and X0 is left.
    log = play(ask("x", [["x", 8]]), ask("z", 8, at=1), ask("q", [["x", 8], ["q", 1]], at=2), usable=3, **CACHING)
    assert found("q", log) == 4


@pytest.mark.parametrize(("content", "hit"), [("x", 4), ("y", 0)])
def test_a_hit_takes_its_block_out_of_the_free_queue(content, hit):
    # Four blocks.  The queue is - - X Y.  h finds X and takes a nameless block (steps 2 to 4).  z wants two in step 3:
    # the other nameless one and Y, for X, though older, is held.
    log = play(
        ask("x", [["x", 4]]), ask("y", [["y", 4]], at=1), ask("h", [["x", 4], ["h", 1]], 3, at=2), ask("z", 8, at=3),
        ask("q", [[content, 4], ["q", 1]], at=5), usable=4, **CACHING,
    )  # fmt: skip
    assert found("h", log) == 4
    assert found("q", log) == hit


def test_evicting_one_of_two_equal_blocks_keeps_the_content():
    # Four blocks.  After a the queue is - - S1 S0.  b finds S0 and computes S1 once more; freed last first, that makes
    # - S1 S1' S0.  z takes the nameless one and the older S1.  q still finds both.
    log = play(
        ask("a", [["s", 8]]), ask("b", [["s", 8]], at=1), ask("z", 8, at=2), ask("q", [["s", 9]], at=3),
        usable=4, **CACHING,
    )  # fmt: skip
    assert (found("b", log), found("q", log)) == (4, 8)


def test_the_older_of_two_equal_blocks_is_the_one_that_is_hit():
    # Five blocks.  a and y leave - - S1 S0 Y.  b finds S0 and computes S1 once more: - S1 Y S1' S0.  h finds S0 and the
    # older S1 and takes the nameless block, so Y S1' lie free while it runs, and z evicts Y.  Had h taken S1', S1 Y
    # would lie free, and q would find Y.
    log = play(
        ask("a", [["s", 8]]), ask("y", [["y", 4]], at=1), ask("b", [["s", 8]], at=2), ask("h", [["s", 9]], 2, at=3),
        ask("z", 4, at=4), ask("q", [["y", 4], ["q", 1]], at=5), usable=5, **CACHING,
    )  # fmt: skip
    assert (found("b", log), found("h", log)) == (4, 8)
    assert found("q", log) == 0


# ---------------------------------------------------------------------- windows


def play_one(pool: BlockPool, prompt: int, output: int) -> list[int]:
    """Let one request run, and return the blocks that are taken after each decision."""
    scheduler = ContinuousBatching(options(block_size=4), pool, leap=False)
    scheduler.add(Sequence(Request("a", 0.0, prompt, output), output))
    taken = []
    while (batch := scheduler.next_batch()) is not None:
        taken.append(pool.blocks - pool.free)
        batch.count_chunks()
        scheduler.settle(batch, 1)
    return taken


def test_blocks_behind_a_window_are_freed_during_decode():
    # A window of 8 tokens.  The step that computes token n, counted from 0, sees tokens n - 7 to n, and what lies
    # wholly before them is given back first: token 8 begins a third block, token 11 is the first to do without block 0.
    taken = play_one(BlockPool(100, 4, (BlockGroup(8),), max_chunk=256), 4, 14)
    #  n:            0-3  4  5  6  7  8  9 10 11 12 13 14 15 16
    assert taken == [1, 2, 2, 2, 2, 3, 3, 3, 2, 3, 3, 3, 2, 3]


def test_groups_of_layers_draw_on_one_pool():
    # The same with a group of full attention beside it: one block more for every four tokens, and nothing given back.
    taken = play_one(BlockPool(100, 4, (BlockGroup(None), BlockGroup(8)), max_chunk=256), 4, 14)
    full = [1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5]
    assert taken == [a + b for a, b in zip(full, [1, 2, 2, 2, 2, 3, 3, 3, 2, 3, 3, 3, 2, 3], strict=True)]
