"""Prefix caching: against a slow cache of single blocks, and rule by rule."""

from __future__ import annotations

import pytest
from plain_cache import Both, asked
from seeds import many
from simulations import options

from llmsim.kvcache.names import BlockNames, prefix_contents
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import History, Prefix, Request

# ---------------------------------------------------------------------- against a slow cache


@pytest.mark.parametrize("seed", many(400))
def test_hits_and_free_blocks_are_those_of_a_cache_of_single_blocks(seed):
    both = Both(seed)
    for _ in range(200):
        both.step()
    for sequence in list(both.running):
        both.release(sequence)
    for sequence in both.waiting:
        both.compare_match(sequence)
    assert both.cache.free == both.blocks


def test_the_random_operations_hit_evict_and_find_their_own_blocks_again():
    hits = own = evictions = answers = 0
    for seed in range(40):
        both = Both(seed)
        for _ in range(200):
            both.step()
        hits, own, evictions = hits + both.hits, own + both.own_hits, evictions + both.evictions
        answers += both.answers
    assert min(hits, evictions) > 500
    assert own > 20
    assert answers > 50


# ---------------------------------------------------------------------- identifiers and blocks


def test_identifiers_of_mooncake_name_many_blocks_each():
    request = asked(6758, range(14), 512)  # 13 whole identifiers and 102 tokens of the last

    by_16, by_32 = prefix_contents(request, 16), prefix_contents(request, 32)

    assert len(by_16) == 6758 // 16 == 422
    assert len(by_32) == 6758 // 32 == 211
    assert by_16[0] == (0, 0)
    assert by_16[31:33] == [(496, 0), (0, 1)]
    assert by_16[-1] == (80, 13)
    assert by_32[-1] == (64, 13)
    assert len(set(by_16)) == 422


def test_identifiers_of_bailian_share_a_block():
    request = asked(150, range(100, 110), 16)  # nine whole identifiers and 6 tokens of the tenth

    assert prefix_contents(request, 16) == [(0, number) for number in range(100, 109)]
    assert prefix_contents(request, 32) == [(0, number, number + 1) for number in range(100, 108, 2)]
    assert prefix_contents(request, 64) == [(0, *range(100, 104)), (0, *range(104, 108))]


def test_blocks_that_straddle_identifiers_name_both():
    assert prefix_contents(asked(72, range(3), 24), 16) == [(0, 0), (16, 0, 1), (8, 1), (0, 2)]


def test_tokens_beyond_the_identifiers_are_not_shareable():
    assert prefix_contents(asked(1000, [7, 8], 24), 16) == [(0, 7), (16, 7, 8), (8, 8)]
    assert prefix_contents(asked(1000, [7], 24), 16) == [(0, 7)]
    assert prefix_contents(asked(1000, [7], 16), 32) == []
    assert prefix_contents(asked(15, [7], 16), 16) == []
    assert prefix_contents(Request("r", 0.0, 1000, 1), 16) == []


def test_a_block_is_found_only_behind_the_same_beginning():
    cache = PrefixCache(100, 16)
    compute(cache, asked(64, [1, 2, 3, 4], 16))

    assert cache.match(Sequence(asked(65, [1, 2, 3, 4], 16), 1)) == (4, 4)
    assert cache.match(Sequence(asked(65, [1, 9, 3, 4], 16), 1)) == (1, 1)
    assert cache.match(Sequence(asked(65, [2, 3, 4], 16), 1)) == (0, 0)


def compute(cache: PrefixCache, request: Request, *, release: bool = True) -> Sequence:
    """Let a request come, be computed, and go."""
    sequence = Sequence(request, request.output_tokens)
    hits, free = cache.match(sequence)
    blocks = -(-request.prompt_tokens // cache.block_size)
    assert blocks - hits <= cache.free - free
    cache.take(sequence, hits)
    cache.free -= blocks - hits
    sequence.blocks = blocks
    sequence.found = hits
    cache.name(sequence, request.prompt_tokens)
    if release:
        cache.release(sequence, request.prompt_tokens)
    return sequence


# ---------------------------------------------------------------------- sessions


def names(history: History | Prefix, prompt: int, output: int, cache: BlockNames) -> list[int]:
    return cache.of(Request("r", 0.0, prompt, output, prefix=history))


def test_a_turn_has_the_names_of_the_turn_before_it_to_the_end_of_its_answer():
    given = BlockNames(16)
    first = names(History((), "chat"), 40, 25, given)  # 65 tokens, the last is only sampled: 4 full blocks
    second = names(History((), "chat"), 65 + 10, 30, given)

    assert len(first) == 4 == (40 + 25 - 1) // 16
    assert len(second) == (75 + 30 - 1) // 16 == 6
    assert second[:4] == first
    assert names(History((), "other"), 200, 1, given)[0] not in second


@pytest.mark.parametrize(("kept", "shared"), [(15, 0), (16, 1), (33, 2), (48, 3), (64, 4)])
def test_a_fork_shares_the_blocks_that_end_before_it(kept, shared):
    given = BlockNames(16)
    trunk = names(History((), "chat"), 60, 21, given)
    fork = names(History((("chat", kept),), "fork"), kept + 100, 1, given)
    twin = names(History((("chat", kept),), "twin"), kept + 100, 1, given)

    assert [a == b for a, b in zip(trunk, fork, strict=False)] == [place < shared for place in range(5)]
    assert set(fork) & set(twin) == set(trunk[:shared])


def test_sessions_behind_one_system_prompt_share_its_whole_blocks_only():
    given = BlockNames(16)
    parts = (("system", 40),)
    one, two = (names(History(parts, name), 100, 1, given) for name in ("one", "two"))

    assert one[:2] == two[:2]
    assert not set(one[2:]) & set(two[2:])
    assert names(History((), "system"), 40, 1, given)[:2] == one[:2]  # the same text, told otherwise
    assert names(History((("system", 41),), "one"), 100, 1, given)[2] != one[2]


def test_identifiers_may_go_on_behind_the_prompt():
    given = BlockNames(16)
    asked_first = names(Prefix((1, 2, 3, 4, 5), 16, answer=True), 40, 35, given)
    next_turn = names(Prefix((1, 2, 3, 4, 5, 6), 16), 90, 1, given)

    assert asked_first == next_turn[:4]  # (40 + 35 - 1) // 16


def test_the_next_turn_finds_all_but_the_last_token_of_the_answer():
    cache = PrefixCache(100, 16)
    turn = compute(cache, Request("first", 0.0, 40, 25, prefix=History((), "chat")), release=False)
    turn.total, turn.generated = 65, 25
    cache.free -= 2
    turn.blocks = 5
    following = Sequence(Request("next", 0.0, 90, 5, prefix=History((), "chat")), 5)

    assert cache.match(following) == (2, 0)  # the blocks of the prompt; the answer is findable at its end
    cache.release(turn, 64)
    assert cache.match(following) == (4, 4)


def test_a_session_costs_no_more_names_with_every_turn():
    given = BlockNames(16)
    lists = [names(History((), "chat"), 1000 * turn, 100, given) for turn in range(1, 50)]

    assert max(max(found) for found in lists) == len(lists[-1]) == 49_099 // 16


# ---------------------------------------------------------------------- rules


def test_the_last_token_of_a_prompt_that_is_wholly_known_is_computed_with_its_block():
    cache = PrefixCache(100, 16)
    compute(cache, asked(64, range(4), 16))

    assert cache.match(Sequence(asked(64, range(4), 16), 1)) == (3, 3)
    again = compute(cache, asked(64, range(4), 16))
    assert again.found == 3
    assert cache.free == 100
    assert cache.match(Sequence(asked(65, range(4), 16), 1)) == (4, 4)


@pytest.mark.parametrize("prompt", range(1, 70))
def test_at_most_all_but_one_token_are_found(prompt):
    cache = PrefixCache(100, 16)
    compute(cache, asked(160, range(10), 16))

    hits, _ = cache.match(Sequence(asked(prompt, range(-(-prompt // 16)), 16), 1))

    assert hits == (prompt - 1) // 16


def test_blocks_held_by_somebody_are_found_but_do_not_lie_free():
    cache = PrefixCache(10, 16)
    first = compute(cache, asked(64, range(4), 16), release=False)
    second = Sequence(asked(65, range(4), 16), 1)

    assert cache.match(second) == (4, 0)
    cache.take(second, 4)
    second.blocks = 4
    assert cache.free == 6
    cache.release(first, 64)
    assert cache.free == 6
    cache.release(second, 64)
    assert cache.free == 10


def test_equal_blocks_computed_at_once_are_kept_twice_until_both_are_evicted():
    cache = PrefixCache(4, 16)
    twins = [Sequence(asked(17, [1], 16, name=name), 1) for name in "ab"]
    for twin in twins:
        assert cache.match(twin) == (0, 0)
        cache.free -= 1
        twin.blocks = 1
    for twin in twins:
        cache.name(twin, 16)
    for twin in twins:
        cache.release(twin, 16)

    probe = Sequence(asked(17, [1], 16), 1)
    for taken, found in ((2, 1), (1, 1), (1, 0)):  # two blocks without a name go first
        cache.free -= taken
        assert cache.match(probe) == (found, found)


def test_the_tail_of_a_sequence_goes_before_its_beginning():
    cache = PrefixCache(6, 16)
    compute(cache, asked(96, range(6), 16))
    probe = Sequence(asked(97, range(6), 16), 1)
    for left in (5, 4, 3, 2, 1, 0):
        cache.free -= 1
        assert cache.match(probe) == (left, left)


def scheduler(blocks: int, **changes) -> tuple[ContinuousBatching, PrefixCache]:
    cache = PrefixCache(blocks, 16, max_chunk=256)
    return ContinuousBatching(options(enable_prefix_caching=True, **changes), cache, leap=False), cache


def test_a_failed_admission_does_not_refresh_the_cache():
    def left(*, attempt: bool) -> tuple[int, int]:
        policy, cache = scheduler(8)
        compute(cache, asked(32, [1, 2], 16, name="old"))
        compute(cache, asked(32, [3, 4], 16, name="young"))
        holder = compute(cache, asked(48, [5, 6, 7], 16, name="holder"), release=False)
        policy.running[holder] = None
        if attempt:
            long = Sequence(asked(130, [1, 2, *range(20, 27)], 16, name="long"), 1)
            assert cache.match(long) == (2, 2)
            policy.add(long)
            assert policy.next_batch() is None
        cache.free -= 2  # one block has no name, so one of the oldest goes
        return cache.match(Sequence(asked(33, [1, 2], 16), 1))[0], cache.match(Sequence(asked(33, [3, 4], 16), 1))[0]

    assert left(attempt=True) == left(attempt=False) == (1, 2)


def test_a_preempted_sequence_finds_its_own_blocks_again():
    cache = PrefixCache(20, 16)
    sequence = compute(cache, Request("own", 0.0, 100, 50), release=False)
    sequence.total = 121  # twenty tokens have come, the last is not computed
    cache.free -= 1
    sequence.blocks = 8
    cache.release(sequence, 120)

    assert cache.free == 20
    assert cache.match(sequence) == (7, 7)
    cache.free -= 15  # 13 blocks have no name: the last two of its own go
    assert cache.match(sequence) == (5, 5)
    cache.take(sequence, 5)
    sequence.blocks = 5
    assert cache.free == 0
    cache.release(sequence, 80)
    assert cache.match(Sequence(Request("other", 0.0, 100, 50), 50)) == (0, 0)


def test_a_prompt_without_a_prefix_is_known_to_its_end_while_its_token_is_on_the_way():
    policy, cache = scheduler(8, async_scheduling=True)
    sequence = Sequence(Request("own", 0.0, 32, 10), 10)
    policy.add(sequence)
    assert policy.next_batch() is not None
    sequence.computed, sequence.total, sequence.generated = 32, 33, 1

    policy._preempt(sequence)

    assert cache.match(sequence) == (2, 2)  # vLLM: both blocks held prompt tokens only


@pytest.mark.parametrize(("asynchronous", "findable"), [(True, 1), (False, 2)])
def test_a_block_of_an_answer_is_named_when_its_last_token_is_known(asynchronous, findable):
    """31 prompt tokens and the first of the answer fill two blocks; with a step ahead that token is on its way."""
    policy, cache = scheduler(8, async_scheduling=asynchronous)
    sequence = Sequence(Request("turn", 0.0, 31, 10, prefix=History((), "chat")), 10)
    policy.add(sequence)
    assert policy.next_batch() is not None
    sequence.computed, sequence.total, sequence.generated = 31, 32, 1

    cache.name(sequence, policy._known(sequence, 1))

    assert cache.match(Sequence(Request("next", 0.0, 60, 1, prefix=History((), "chat")), 1)) == (findable, 0)
