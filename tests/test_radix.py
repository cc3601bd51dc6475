"""The radix cache: texts in parts, a tree of them, and which leaf goes first."""

from __future__ import annotations

import random

import pytest
from seeds import many

from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.radix import RadixCache
from llmsim.kvcache.radix_tree import Node, RadixTree, Text, text_of
from llmsim.schedulers.sequence import Sequence
from llmsim.workload.request import History, Prefix, Request


def written_out(text: Text, tokens: int) -> list[tuple[object, int]]:
    """Return a text token by token: the name of its part, and the place in it."""
    out: list[tuple[object, int]] = []
    start = 0
    for name, end in zip(text.names, text.ends, strict=True):
        while len(out) < min(end, tokens):
            out.append((name, len(out) - start))
        start = end
    return out


def drawn_text(draw: random.Random) -> Text:
    """Draw a text whose beginning others may have too."""
    parts = [(f"part {draw.randint(0, 2)}", draw.choice([3, 8, 8, 20])) for _ in range(draw.randint(0, 4))]
    return Text(parts, f"last {draw.randint(0, 5)}")


def common(left: list, right: list) -> int:
    """Return for how many tokens two lists begin alike."""
    for place, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return place
    return min(len(left), len(right))


@pytest.mark.parametrize("seed", many(60))
def test_the_tree_finds_what_a_list_of_all_tokens_finds(seed):
    draw = random.Random(seed)
    page = draw.choice([1, 1, 4, 5])
    tree = RadixTree(page)
    stored: list[list] = []
    for _ in range(40):
        text, tokens = drawn_text(draw), draw.randint(1, 70)
        told = written_out(text, tokens)
        longest = max((common(told, other) for other in stored), default=0)
        expected = longest - longest % page
        if draw.random() < 0.5:
            assert tree.match(text, tokens).end == expected
        else:
            node, known = tree.insert(text, tokens)
            assert known == expected
            assert node.end == tokens - tokens % page
            stored.append(told[: node.end])


def nodes(tree: RadixTree) -> list[Node]:
    """Return all nodes of a tree."""
    found, stack = [], [tree.root]
    while stack:
        node = stack.pop()
        found.append(node)
        stack += node.children.values()
    return found


def sequence(name: int, prompt: int, output: int = 100, *, prefix: Prefix | History | None = None) -> Sequence:
    """Return a sequence whose own part is like no other's."""
    return Sequence(Request(str(name), 0.0, prompt, output, prefix=prefix), output, name)


def compute(cache: RadixCache, one: Sequence, tokens: int) -> None:
    """Let a sequence take up its prefix, and blocks for ``tokens`` tokens in all."""
    node = cache.match(one)
    cache.hold(one, node)
    new = -(-tokens // cache.tree.page) - node.end // cache.tree.page
    cache.make_room(new)
    assert new <= cache.available
    cache.pool.free -= new
    one.blocks = new + node.end // cache.tree.page
    one.computed = tokens


def test_a_prompt_is_found_to_the_token_with_pages_of_one():
    # Two prompts share 20 tokens; blocks of 16 would find 16 of them.
    cache = RadixCache(BlockPool(200, 1))
    first = sequence(1, 30, prefix=Prefix((7,), 20))
    compute(cache, first, 30)
    cache.keep(first, 30)

    assert cache.match(sequence(2, 30, prefix=Prefix((7,), 20))).end == 20


def test_the_last_token_of_a_prompt_is_never_found():
    # SGLang: Req.adjust_max_prefix_ids, at most input_len - 1.
    cache = RadixCache(BlockPool(200, 1))
    first = sequence(1, 20, prefix=Prefix((7,), 20))
    compute(cache, first, 20)
    cache.keep(first, 20)

    assert cache.match(sequence(2, 20, prefix=Prefix((7,), 20))).end == 19


def test_the_next_turn_finds_prompt_and_answer():
    cache = RadixCache(BlockPool(200, 1))
    turn = sequence(1, 10, 5, prefix=History((), "chat"))
    compute(cache, turn, 14)
    cache.release(turn, 14)  # the answer's last token is only sampled

    assert cache.match(sequence(2, 40, prefix=History((), "chat"))).end == 14


def test_an_answer_named_by_block_identifiers_is_found():
    cache = RadixCache(BlockPool(200, 1))
    turn = sequence(1, 10, 10, prefix=Prefix((1, 2), 10, answer=True))
    compute(cache, turn, 19)
    cache.release(turn, 19)

    assert cache.match(sequence(2, 40, prefix=Prefix((1, 2, 3, 4), 10))).end == 19


def test_equal_prompts_computed_at_once_are_kept_once():
    # 20 tokens each; as the second one is stored, its copy of the prompt is given up (cache_unfinished_req).
    pool = BlockPool(100, 1)
    cache = RadixCache(pool)
    both = [sequence(name, 21, prefix=Prefix((7,), 20)) for name in (1, 2)]
    for one in both:
        compute(cache, one, 21)
    assert pool.free == 100 - 42
    for one in both:
        cache.keep(one, 21)

    assert pool.free == 100 - 22
    for one in both:
        cache.release(one, 21)
    assert (pool.free, cache.evictable) == (100, 22)


def test_the_leaf_used_least_recently_goes_as_a_whole():
    # 30 + 30 + 30 of 100 tokens are kept; 15 are wanted, 10 are available: 30 go, those of the first sequence.
    cache = RadixCache(BlockPool(100, 1))
    kept = [sequence(name, 31) for name in (1, 2, 3)]
    for one in kept:
        compute(cache, one, 30)
        cache.release(one, 30)
    assert cache.available == 10
    assert cache.match(kept[1]).end == 30  # used again
    cache.make_room(15)

    assert cache.available == 40
    assert [cache.match(one).end for one in kept] == [0, 30, 30]
    cache.make_room(41)  # evict(41): a leaf of 30 is not enough, whatever is available already
    assert cache.available == 100


def test_answers_go_before_the_prompts_in_front_of_them():
    cache = RadixCache(BlockPool(100, 1))
    one = sequence(1, 40)
    compute(cache, one, 40)
    cache.keep(one, 40)
    cache.pool.free -= 20
    one.blocks += 20
    cache.release(one, 60)
    cache.make_room(41)  # 20 are not enough for evict(41), so both go

    assert cache.available == 100
    two = sequence(2, 40)
    compute(cache, two, 40)
    cache.keep(two, 40)
    cache.pool.free -= 50
    two.blocks += 50
    cache.release(two, 90)
    cache.make_room(12)
    assert cache.match(two).end == 39  # the answer of 50 is gone


def test_what_is_in_use_is_not_evicted():
    cache = RadixCache(BlockPool(50, 1))
    one = sequence(1, 30)
    compute(cache, one, 30)
    cache.keep(one, 30)
    cache.make_room(50)

    assert cache.available == 20
    assert cache.evictable == 0


def test_a_retraction_leaves_only_what_was_in_the_cache():
    cache = RadixCache(BlockPool(100, 1))
    one = sequence(1, 30)
    compute(cache, one, 30)
    cache.keep(one, 30)
    cache.pool.free -= 12
    one.blocks += 12
    cache.release(one, 0)

    assert (cache.pool.free, cache.evictable) == (100, 30)
    one.total = 42
    assert cache.match(one).end == 30


def test_nothing_is_kept_without_a_cache_or_with_windows():
    for cache in (
        RadixCache(BlockPool(100, 1), keeps=False),
        RadixCache(BlockPool(100, 1, (BlockGroup(None), BlockGroup(8)))),
    ):
        one = sequence(1, 30)
        compute(cache, one, 30)
        cache.keep(one, 30)
        cache.release(one, 30)
        assert cache.match(one).end == 0
        assert cache.pool.free == 100


@pytest.mark.parametrize("seed", many(40))
def test_blocks_are_conserved(seed):
    draw = random.Random(seed)
    page = draw.choice([1, 1, 4])
    pool = BlockPool(draw.choice([60, 300]), page)
    cache = RadixCache(pool)
    running: list[Sequence] = []
    for name in range(120):
        if running and draw.random() < 0.5:
            one = running.pop(draw.randrange(len(running)))
            cache.release(one, draw.choice([0, one.computed]))
        else:
            ids = tuple(draw.randint(0, 2) for _ in range(draw.randint(0, 4)))
            one = sequence(name, draw.randint(1, 60), prefix=Prefix(ids, 7) if ids else None)
            node = cache.match(one)
            cache.hold(one, node)
            if -(-one.total // page) - node.end // page > pool.free:
                cache.let_go(one)
                continue
            cache.let_go(one)
            compute(cache, one, one.total)
            if draw.random() < 0.7:
                cache.keep(one, one.total)
            running.append(one)
        free = [node for node in nodes(cache.tree) if not node.locks]
        assert cache.evictable == sum(node.end - node.start for node in free) // page
        private = sum(one.blocks - cache._held[one].end // page for one in running)
        locked = sum(node.end - node.start for node in nodes(cache.tree) if node.locks) // page
        assert pool.free == pool.blocks - private - locked
        assert cache.available >= 0
    for one in running:
        cache.release(one, one.computed)
    assert pool.free == pool.blocks


def test_the_text_of_a_request_says_what_may_be_shared():
    assert text_of(Request("a", 0.0, 25, 5, prefix=Prefix((1, 2, 3), 10)), "own").ends[:-1] == [10, 20, 25]
    assert text_of(Request("a", 0.0, 25, 5), "own").names == ["own"]
