"""Prefix caching: figures of a real trace, and whole runs through `simulate`."""

from __future__ import annotations

import json
import random
from collections import OrderedDict
from dataclasses import replace

import pytest
from plain_cache import asked
from simulations import options, run

import llmsim
from llmsim.kvcache.prefix import PrefixCache
from llmsim.schedulers.sequence import Sequence

# ---------------------------------------------------------------------- the Mooncake trace

TRACE_BLOCKS = 105_904
UNLIMITED = 10**9


@pytest.fixture(scope="module")
def conversations(shared) -> list[dict]:
    path = shared / "data" / "traces" / "mooncake" / "conversation_trace.first4000.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def lru_hits(rows: list[dict], capacity: int, *, tail_first: bool) -> int:
    """Count the leading identifiers found in a plain LRU list that is refreshed with all of each request's."""
    cached: OrderedDict[int, None] = OrderedDict()
    hits = 0
    for row in rows:
        for name in row["hash_ids"]:
            if name not in cached:
                break
            hits += 1
        for name in reversed(row["hash_ids"]) if tail_first else row["hash_ids"]:
            cached[name] = None
            cached.move_to_end(name)
            if len(cached) > capacity:
                cached.popitem(last=False)
    return hits


def replayed_hits(rows: list[dict], capacity: int, *, whole_blocks: bool) -> int:
    """Count the hits of a cache through which the requests go one at a time."""
    contents = (lambda request, _: list(request.prefix.hash_ids)) if whole_blocks else None
    cache = PrefixCache(capacity, 512, contents=contents)
    hits = 0
    for number, row in enumerate(rows):
        ids = row["hash_ids"]
        prompt = len(ids) * 512 + 1 if whole_blocks else row["input_length"]
        sequence = Sequence(asked(prompt, ids, 512, name=str(number)), 1)
        found, free = cache.match(sequence)
        assert len(ids) - found <= cache.free - free
        cache.take(sequence, found)
        cache.free -= len(ids) - found
        sequence.blocks = len(ids)
        cache.name(sequence, prompt)
        cache.release(sequence, prompt)
        hits += found
    assert cache.free == capacity
    return hits


# The published shares (4.0 %, 20.3 %, 32.56 %) count the partial last block of a prompt as a block, and refresh the
# identifiers of a request first to last.  The cache never counts a partial block and always computes the last token,
# so here the prompts are one token longer than their identifiers and the last identifier fills its block.  It frees
# the tail first, as vLLM does, so it keeps beginnings a little longer: that is the same LRU, refreshed last to first.
@pytest.mark.parametrize(
    ("capacity", "published", "cache"), [(1_000, 0.040, 4_296), (10_000, 0.203, 21_566), (UNLIMITED, 0.3256, 34_480)]
)
def test_hits_of_the_mooncake_trace_are_the_published_ones(conversations, capacity, published, cache):
    assert sum(len(row["hash_ids"]) for row in conversations) == TRACE_BLOCKS
    plain = lru_hits(conversations, capacity, tail_first=False)
    assert plain / TRACE_BLOCKS == pytest.approx(published, abs=5e-4 if capacity < UNLIMITED else 5e-5)

    hits = replayed_hits(conversations, capacity, whole_blocks=True)

    assert hits == lru_hits(conversations, capacity, tail_first=True) == cache
    assert plain <= hits <= plain * 1.004


def test_real_prompts_lose_only_their_partial_last_blocks(conversations):
    whole = replayed_hits(conversations, UNLIMITED, whole_blocks=True)
    real = replayed_hits(conversations, UNLIMITED, whole_blocks=False)

    assert (whole, real) == (34_480, 34_452)  # 28 prompts are known to the end


# ---------------------------------------------------------------------- through `simulate`

TURNS, SESSIONS = 6, 8


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Write conversations whose every turn begins with the one before: identifiers of 512 tokens, the last partial."""
    path = tmp_path_factory.mktemp("trace") / "turns.jsonl"
    rows = []
    for turn in range(TURNS):
        for session in range(SESSIONS):
            prompt = 1000 + 1024 * turn + 7 * session
            ids = [0, *(100 * session + place for place in range(1, -(-prompt // 512)))]
            ids[-1] += 50 * (prompt % 512 > 0)  # a last identifier that is partial is no other's
            rows.append(
                {"timestamp": 4000 * turn + 300 * session, "input_length": prompt, "output_length": 40, "hash_ids": ids}
            )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def simulated(trace, *, leap: bool = True, **changes) -> llmsim.Run:
    settings = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "trace": str(trace), "seed": 1, **changes}
    return llmsim.simulate(llmsim.scenario(**settings), leap=leap)


def test_turns_find_the_turns_before_them(trace):
    run = simulated(trace)
    records = sorted(run.records, key=lambda record: record.arrival_s)

    assert len(records) == TURNS * SESSIONS
    for number, record in enumerate(records):
        turn, session = divmod(number, SESSIONS)
        before = 1000 + 1024 * (turn - 1) + 7 * session
        expected = before // 512 * 512 if turn else (512 if session else 0)
        assert record.cached_tokens == expected, (turn, session)
        assert record.cached_tokens < record.prompt_tokens


def test_caching_brings_first_tokens_sooner(trace):
    cached, plain = simulated(trace), simulated(trace, enable_prefix_caching=False)

    assert sum(record.cached_tokens for record in cached.records) > 50_000
    assert {record.cached_tokens for record in plain.records} == {0}
    assert cached.metrics["mean_ttft_ms"] < 0.7 * plain.metrics["mean_ttft_ms"]
    first = min(range(len(plain.records)), key=lambda place: plain.records[place].arrival_s)
    assert cached.records[first].first_token_s == plain.records[first].first_token_s


@pytest.mark.parametrize("blocks", [None, 900, 460])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_leaping_and_stepping_agree_with_a_cache(trace, blocks, asynchronous):
    changes = {"async_scheduling": asynchronous} | ({"num_gpu_blocks_override": blocks} if blocks else {})

    leapt, stepped = simulated(trace, **changes), simulated(trace, leap=False, **changes)

    # A bill reads the middle of a leap for all of its steps, so it agrees but for rounding.
    assert [replace(record, bill=None) for record in leapt.records] == [
        replace(record, bill=None) for record in stepped.records
    ]


@pytest.fixture(scope="module")
def crowd(tmp_path_factory):
    """Write requests with one common beginning that come faster than a small cache can hold their outputs."""
    path = tmp_path_factory.mktemp("trace") / "crowd.jsonl"
    rows = [
        {
            "timestamp": 40 * number,
            "input_length": 540 + 13 * number,
            "output_length": 150,
            "hash_ids": [0, 100 + number],
        }
        for number in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("asynchronous", [True, False])
def test_preempted_requests_and_leaps_agree_with_a_cache(crowd, asynchronous):
    changes = {"async_scheduling": asynchronous, "num_gpu_blocks_override": 160}

    leapt, stepped = simulated(crowd, **changes), simulated(crowd, leap=False, **changes)

    assert leapt.counts["preemptions"] > 0
    assert leapt.counts["finished"] == 24
    assert [replace(record, bill=None) for record in leapt.records] == [
        replace(record, bill=None) for record in stepped.records
    ]
    assert {record.cached_tokens for record in leapt.records} == {0, 512}


@pytest.mark.parametrize("blocks", [60, 80, 2000])
def test_all_blocks_come_back(blocks):
    draw = random.Random(blocks)
    requests = [
        asked(prompt, [draw.randrange(2) for _ in range(-(-prompt // 64))], 64, name=str(number), output=60)
        for number in range(40)
        for prompt in [draw.randint(1, 800)]
    ]

    records, engine = run(requests, engine=options(enable_prefix_caching=True), blocks=blocks)

    assert len(records) == 40
    assert engine.pool.free == blocks
    assert all(record.cached_tokens < record.prompt_tokens for record in records)
    assert sum(record.cached_tokens for record in records) > 1000


def test_a_cache_that_is_too_small_finds_less(trace):
    found = [
        sum(record.cached_tokens for record in simulated(trace, num_gpu_blocks_override=blocks).records)
        for blocks in (460, 1500, 20_000)
    ]
    assert found == sorted(found)
    assert found[0] < found[-1]
