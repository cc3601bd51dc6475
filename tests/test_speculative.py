"""Speculative decoding: drafts, verification, acceptance, and what they cost."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from seeds import many
from simulations import PlainPrices, options
from simulations import run as plain_run
from test_leaping import scenario as plain_scenario

from llmsim.engine import Engine
from llmsim.engine_options import Speculation
from llmsim.kvcache.blocks import BlockGroup, BlockPool
from llmsim.kvcache.prefix import PrefixCache
from llmsim.machine.clock import Clock
from llmsim.performance.odometer import read_odometers
from llmsim.performance.speculative_cost import SpeculativeCost
from llmsim.results.metrics import measure
from llmsim.results.speculation import figures
from llmsim.schedulers.acceptance import Acceptance, rising_rates
from llmsim.schedulers.speculative import SpeculativeBatching
from llmsim.timeline import SingleStage
from llmsim.workload.request import Prefix, Request


class VerifyingPrices(PlainPrices):
    """Plain prices of a model that can verify: a decoding sequence's context is read once for all its tokens."""

    def verify_attention(self, group, chunks, decodes, context_sum, longest_context, queries):
        return self.mixed_attention(group, chunks, decodes, context_sum, longest_context)


SHAPE = object()  # stands for a draft's shape: the engine only asks whether there is one


def drafting(tokens=3, rates=(0.8, 0.6, 0.4), method="draft_model", **changes):
    """Return engine options with speculation."""
    shape = None if method == "ngram" else SHAPE
    speculation = Speculation(method=method, tokens=tokens, rates=tuple(rates), draft=shape)
    return options(speculation=speculation, **changes)


def run(requests, engine, *, blocks=1000, windows=(), prices=None, draft=None, scheduler=None, seed=0, until=None):
    """Simulate one engine with drafts; return the records in the order of ending, and the engine."""
    clock = Clock()
    chunk = engine.max_num_batched_tokens
    groups = (BlockGroup(None), *(BlockGroup(window) for window in windows))
    if engine.enable_prefix_caching and not windows:
        pool = PrefixCache(blocks, engine.block_size, max_chunk=chunk)
    else:
        pool = BlockPool(blocks, engine.block_size, groups, max_chunk=chunk)
    cost = SpeculativeCost(prices or VerifyingPrices((None, *windows)), engine, draft=draft)
    policy = (scheduler or SpeculativeBatching)(engine, pool, seed=seed)
    records = []
    replica = Engine(0, clock, policy, SingleStage(cost, engine.max_concurrent_batches), pool, engine, records.append)
    replica.costs = [cost]
    for request in requests:
        clock.alarm(request.arrival_s, lambda _, request=request: replica.submit(request))
    clock.run(until)
    return records, replica


def scenario(seed):
    """Draw requests, options, blocks and windows."""
    draw = random.Random(seed)
    caching = draw.random() < 0.5
    tokens = draw.choice([1, 2, 3, 5])
    rates = sorted((draw.choice([0.0, 1.0, draw.random(), draw.random()]) for _ in range(tokens)), reverse=True)
    requests, clock = [], draw.choice([0.0, 1e5])
    for number in range(draw.randint(1, 50)):
        clock += draw.choice([0.0, 0.0, draw.expovariate(20.0), 0.01])
        prefix = None
        if caching and draw.random() < 0.7:
            prefix = Prefix(tuple(range(draw.randint(1, 4))), 64)
        requests.append(
            Request(str(number), clock, draw.randint(1, draw.choice([20, 300])),
                    draw.randint(1, draw.choice([1, 4, 40, 200])), priority=draw.randint(0, 2), prefix=prefix)
        )  # fmt: skip
    windows = draw.choice([(), (), (), (64,)])
    size = draw.choice([1, 16, 16])
    longest = max(request.prompt_tokens + request.output_tokens for request in requests)
    seats = draw.choice([1, 2, 8, 32])
    engine = drafting(
        tokens, rates,
        draw.choice(["draft_model", "eagle", "mtp", "ngram"]),
        max_num_seqs=seats,
        max_num_batched_tokens=max(seats, draw.choice([2, 16, 64, 256])),
        max_model_len=draw.choice([longest, longest + 3, 4096]),
        block_size=size,
        async_scheduling=draw.random() < 0.5,
        scheduling_policy=draw.choice(["fcfs", "fcfs", "priority"]),
        enable_prefix_caching=caching,
        long_prefill_token_threshold=draw.choice([0, 0, 0, 2, 40]),
        prefill_schedule_interval=draw.choice([1, 1, 4]),
        watermark=draw.choice([0.0, 0.0, 0.05]),
        scheduler_reserve_full_isl=draw.random() < 0.7,
    )  # fmt: skip
    blocks = -(-longest // size) * (1 + len(windows)) + draw.choice([0, 1, 3, 50, 4000])
    return {"requests": requests, "engine": engine, "blocks": blocks, "windows": windows}


class Watching(SpeculativeBatching):
    """Checks each decision as it is made."""

    def next_batch(self):
        batch = super().next_batch()
        if batch is not None and (batch.count or batch.chunks):
            assert batch.verified is not None
            tokens = batch.verified.tokens + sum(tokens for _, tokens in batch.chunks)
            assert 0 < tokens <= self._budget
            assert all(0 < query <= self.drafts + 1 for query in batch.verified.queries)
            assert all(
                0 < given <= query for given, query in zip(batch.verified.each, batch.verified.queries, strict=True)
            )
            assert len(self.running) <= self._seats
            held = sum(one.blocks for one in self.running if one.slot is not self._verify)
            held += int(self._verify.held[: self._verify.count].sum())
            if not isinstance(self.pool, PrefixCache):
                assert held + self.pool.free == self.pool.blocks
        assert self.pool.free >= 0
        return batch


@pytest.mark.parametrize("seed", many(200))
def test_every_request_ends_once_with_its_tokens_and_all_blocks_come_back(seed):
    drawn = scenario(seed)
    records, engine = run(**drawn, draft=VerifyingPrices(fixed=0.001), scheduler=Watching)

    wanted = {request.id: request for request in drawn["requests"]}
    assert sorted(record.id for record in records) == sorted(wanted)
    for record in records:
        request = wanted[record.id]
        assert record.status == "finished"
        assert record.output_tokens == request.output_tokens
        assert request.arrival_s <= record.admitted_s <= record.first_token_s <= record.finished_s
    assert engine.pool.free == engine.pool.blocks
    assert int(engine.log.tokens()[1].sum()) == sum(request.output_tokens for request in drawn["requests"])


FLAT = {"fixed": 0.01, "token": 0.0, "context": 0.0, "bend": 0.0}


@pytest.mark.parametrize("seed", many(40))
def test_odometers_and_bills_add_up_with_drafts(seed):
    drawn = scenario(seed)
    records, engine = run(**drawn, draft=VerifyingPrices(fixed=0.001))
    wall_s = max(record.finished_s for record in records)

    kinds, lanes = read_odometers([engine], wall_s)

    assert lanes.sum() == pytest.approx(wall_s)
    drafted = sum(seconds for kind, seconds in zip(kinds, lanes[0], strict=True) if kind[1] == "draft")
    assert drafted == pytest.approx(float(engine.log.speculation.draft_s().sum()), rel=1e-6)
    for record in records:
        assert sum(record.bill) == pytest.approx(record.finished_s - record.arrival_s)


# ---------------------------------------------------------------------- acceptance


def accepted_of(requests, engine, **more):
    """Return, for each request, the tokens that its verifications gave before the last one, which may be cut."""
    given = {request.id: [] for request in requests}

    class Noting(Watching):
        def next_batch(self):
            batch = super().next_batch()
            if batch is not None and batch.verified is not None:
                for sequence, tokens in zip(batch.verified.sequences, batch.verified.each, strict=True):
                    given[sequence.request.id].append(int(tokens))
            return batch

    _, replica = run(requests, engine, scheduler=Noting, **more)
    return {name: tokens[:-1] for name, tokens in given.items()}, replica


def test_a_step_gives_as_many_tokens_on_average_as_the_rates_say():
    rates = (0.8, 0.6, 0.45, 0.3)
    requests = [Request(str(number), 0.05 * number, 20, 400) for number in range(60)]

    _, engine = run(requests, drafting(4, rates))

    found = figures([engine.log.speculation])
    # P(exactly i accepted) = rate_i - rate_{i+1}: the variance follows; four standard errors.
    steps = np.array([1.0, *rates]) - np.array([*rates, 0.0])
    mean = sum(rates)
    spread = float(np.sqrt((steps * (np.arange(5) - mean) ** 2).sum() / found["spec_decode_num_drafts"]))
    assert found["spec_decode_num_drafts"] > 7000
    assert found["spec_decode_acceptance_length"] == pytest.approx(1 + mean, abs=4 * spread)
    assert found["spec_decode_acceptance_rate"] == pytest.approx(100 * mean / 4, abs=100 * spread)
    for found_rate, rate in zip(found["spec_decode_per_position_acceptance_rates"], rates, strict=True):
        assert found_rate == pytest.approx(rate, abs=4 * (0.25 / found["spec_decode_num_drafts"]) ** 0.5)


def test_the_nth_verification_of_a_request_draws_the_same_whatever_else_happens():
    requests = [Request(str(number), 0.01 * number, 40, 150, priority=number % 3) for number in range(12)]
    roomy, _ = accepted_of(requests, drafting())
    others = {
        "preempting": accepted_of(requests, drafting(), blocks=40),
        "by priority": accepted_of(requests, drafting(scheduling_policy="priority"), blocks=40),
        "ahead": accepted_of(requests, drafting(async_scheduling=True)),
        "two seats": accepted_of(requests, drafting(max_num_seqs=2)),
    }

    assert others["preempting"][1].preemptions > 0
    assert others["by priority"][1].preemptions > 0
    for found, _ in others.values():
        for name, tokens in found.items():
            common = min(len(tokens), len(roomy[name]))
            assert common > 20
            assert tokens[:common] == roomy[name][:common]


def test_draws_do_not_depend_on_how_many_are_asked_for_at_once():
    whole = Acceptance(7, "one", rising_rates((0.7, 0.5))).counts(0, 300).tolist()
    bit_by_bit = Acceptance(7, "one", rising_rates((0.7, 0.5)))

    assert [int(bit_by_bit.counts(turn, 1)[0]) for turn in range(300)] == whole
    assert Acceptance(7, "two", rising_rates((0.7, 0.5))).counts(0, 300).tolist() != whole
    assert Acceptance(8, "one", rising_rates((0.7, 0.5))).counts(0, 300).tolist() != whole


def test_higher_rates_never_accept_less():
    low = Acceptance(0, "one", rising_rates((0.6, 0.3, 0.1))).counts(0, 500)
    high = Acceptance(0, "one", rising_rates((0.7, 0.3, 0.2))).counts(0, 500)

    assert (high >= low).all()
    assert (high > low).any()


# ---------------------------------------------------------------------- tokens and times


def test_latencies_of_a_lone_request_by_hand():
    # Steps take 10 ms and two of three drafts are always accepted: the prompt's step gives one token, then steps give
    # 3, 3, 3 and, cut at the length of 11, 1.  So 10 tokens in 40 ms: 4 ms a token, and four gaps of 10 ms.
    engine = drafting(3, (1.0, 1.0, 0.0))

    (record,), replica = run([Request("one", 1.0, 50, 11)], engine, prices=VerifyingPrices(**FLAT))

    metrics = measure([record], [replica.log])
    assert record.finished_s - record.first_token_s == pytest.approx(0.04)
    assert metrics["mean_tpot_ms"] == pytest.approx(4.0)
    gaps, counts = replica.log.gaps()
    assert np.repeat(gaps, counts).tolist() == pytest.approx([0.01] * 4)
    _, tokens = replica.log.tokens()
    assert int(tokens.sum()) == 11
    # The surplus token of the last step counts as accepted, as in vLLM.
    assert figures([replica.log.speculation])["spec_decode_accepted_tokens"] == 8


@pytest.mark.parametrize("drafts", [1, 3, 5])
def test_with_all_drafts_accepted_a_step_gives_one_token_more_than_drafts(drafts):
    engine = drafting(drafts, [1.0] * drafts)

    (record,), replica = run([Request("one", 0.0, 50, 1 + 12 * (drafts + 1))], engine, prices=VerifyingPrices(**FLAT))

    assert replica.steps == 13
    assert record.finished_s == pytest.approx(record.first_token_s + 0.12)


@pytest.mark.parametrize("ahead", [False, True])
def test_drafts_that_are_never_accepted_cost_their_verification_and_their_making(ahead):
    # A plain step computes 1 token, one with three drafts 4 (3 x 10 us more), which see 3 tokens more (0.1 us each).
    # The draft runs over those 4 tokens (1 ms + 40 us), then twice over one (1 ms + 10 us), without attention.
    tokens, drafted = 60, 0.00104 + 2 * 0.00101
    target = {"fixed": 0.01, "token": 1e-5, "context": 1e-7, "bend": 0.0}
    draft = VerifyingPrices(fixed=0.001, token=1e-5, context=0.0, bend=0.0)
    one = [Request("one", 0.0, 40, tokens)]

    (record,), replica = run(
        one, drafting(3, (0.0, 0.0, 0.0), async_scheduling=ahead), prices=VerifyingPrices(**target), draft=draft
    )

    plain = sum(0.01 + 1e-5 + 1e-7 * (41 + step) for step in range(tokens - 1))
    assert replica.steps == tokens
    assert record.finished_s - record.first_token_s == pytest.approx(
        plain + (tokens - 1) * (3e-5 + 3e-7 + drafted), rel=1e-9
    )


def test_a_sequence_that_misses_a_step_has_one_longer_gap():
    # The budget of 4 tokens serves one of two sequences with its 4 tokens; the other misses that step.
    engine = drafting(3, (0.0, 0.0, 0.0), "ngram", max_num_seqs=2, max_num_batched_tokens=4)
    requests = [Request("one", 0.0, 2, 6), Request("two", 0.0, 2, 3)]

    records, replica = run(requests, engine, prices=VerifyingPrices(**FLAT))

    by_id = {record.id: record for record in records}
    # Both prompts fit step 1; steps 2 to 6 serve the one, 7 and 8 the two.
    assert by_id["one"].finished_s == pytest.approx(0.06)
    assert by_id["two"].finished_s == pytest.approx(0.08)
    gaps, counts = replica.log.gaps()
    assert sorted(np.repeat(gaps, counts).tolist()) == pytest.approx([0.01] * 6 + [0.06])


# ---------------------------------------------------------------------- ahead of the step in flight


def test_an_end_by_accepted_drafts_costs_one_row_for_nothing_ahead_and_none_in_step():
    # 5 tokens after the first: verifications give 3 and 2 of 3.  The second one's step ends the request by an accepted
    # draft, which a scheduler that is one step ahead cannot know: another request's step verifies it once more.
    def wasted(ahead):
        engine = drafting(2, (1.0, 1.0), "eagle", async_scheduling=ahead)
        requests = [Request("short", 0.0, 10, 6), Request("long", 0.0, 10, 40)]
        _, replica = run(requests, engine, prices=VerifyingPrices(**FLAT))
        return replica.log.speculation.wasted, replica.log.columns()["decodes"].tolist()

    assert wasted(ahead=False) == (0, [0, 2, 2, *[1] * 11])
    assert wasted(ahead=True) == (1, [0, 2, 2, 2, *[1] * 10])


def test_an_end_that_is_certain_is_foreseen():
    # Without accepted drafts each step gives one token, so the last one can be told before its step has run.
    engine = drafting(2, (0.0, 0.0), "eagle", async_scheduling=True)

    _, replica = run([Request("short", 0.0, 10, 6), Request("long", 0.0, 10, 40)], engine)

    assert replica.log.speculation.wasted == 0


def test_blocks_are_taken_for_all_drafts_in_flight():
    # 12 tokens computed; a step takes blocks of one token for its 4 tokens and the 3 drafts behind: 19.  Ahead, the
    # next one does not know that nothing was accepted: 12 + 4 + 4 + 3 = 23; in step it is one more: 20.
    def free_after_two(ahead):
        free = []

        class Noting(SpeculativeBatching):
            def next_batch(self):
                batch = super().next_batch()
                free.append(self.pool.free)
                return batch

        engine = drafting(3, (0.0, 0.0, 0.0), async_scheduling=ahead, block_size=1)
        run([Request("one", 0.0, 12, 9)], engine, blocks=100, scheduler=Noting)
        return [100 - left for left in free[:3]]

    assert free_after_two(ahead=False) == [12, 19, 20]
    assert free_after_two(ahead=True) == [12, 19, 23]


# ---------------------------------------------------------------------- blocks and budgets


def test_a_request_alone_that_fits_only_without_its_drafts_comes_to_its_end():
    # 12 + 5 - 1 tokens fill the 16 blocks; with drafts and lookahead no step does, so it computes its prompt anew for
    # each token.
    engine = drafting(3, (1.0, 1.0, 1.0), block_size=1, max_num_batched_tokens=64)

    (record,), replica = run([Request("one", 0.0, 12, 5)], engine, blocks=16)

    assert record.status == "finished"
    assert record.preemptions == 4
    assert replica.pool.free == 16


def test_eagle_computes_the_last_cached_block_anew_and_a_draft_model_does_not():
    prefix = Prefix((1, 2, 3), 16)
    requests = [Request("first", 0.0, 60, 2, prefix=prefix), Request("second", 1.0, 60, 2, prefix=prefix)]

    def cached(method):
        records, _ = run(requests, drafting(2, (0.5, 0.2), method, enable_prefix_caching=True))
        return records[-1].cached_tokens

    assert cached("draft_model") == 48
    assert cached("eagle") == 32


def test_a_run_that_is_stopped_counts_the_tokens_that_have_come():
    # One token at 10 ms, then 4 at 20, 30, 40 and 50 ms.
    engine = drafting(3, (1.0, 1.0, 1.0), async_scheduling=True)
    requests = [Request("one", 0.0, 10, 100), Request("two", 0.0, 10, 100)]

    _, replica = run(requests, engine, prices=VerifyingPrices(**FLAT), until=0.055)
    replica.withdraw("stopped")

    assert [record.output_tokens for record in replica.ended] == [17, 17]
    assert {record.status for record in replica.ended} == {"cancelled"}


@pytest.mark.parametrize("seed", many(150))
def test_with_no_drafts_at_all_every_decision_is_that_of_plain_batching(seed):
    # Plain batching reproduces vLLM's recorded decisions; without drafts there is nothing left that could differ.
    drawn = plain_scenario(seed)
    requests, windows = drawn["requests"], drawn["windows"]
    prices = {"fixed": 0.01, "token": 1e-5, "context": 0.0, "bend": 0.0}
    shared = {"blocks": drawn["blocks"], "windows": windows}
    plain, stepped = plain_run(
        requests, engine=drawn["engine"], prices=[PlainPrices((None, *windows), **prices)], leap=False, **shared
    )

    nothing = Speculation(method="ngram", tokens=0, rates=())
    records, engine = run(
        requests,
        replace(drawn["engine"], speculation=nothing),
        prices=VerifyingPrices((None, *windows), **prices),
        **shared,
    )

    assert engine.steps == stepped.steps
    assert [record.id for record in records] == [record.id for record in plain]
    for mine, other in zip(records, plain, strict=True):
        assert (mine.output_tokens, mine.cached_tokens, mine.preemptions) == (
            other.output_tokens, other.cached_tokens, other.preemptions,
        )  # fmt: skip
        assert (mine.admitted_s, mine.first_token_s, mine.finished_s) == pytest.approx(
            (other.admitted_s, other.first_token_s, other.finished_s), abs=1e-7
        )
    mine, others = (np.sort(np.repeat(*log.gaps())) for log in (engine.log, stepped.log))
    assert mine == pytest.approx(others, abs=1e-7)
