"""The adaptive policy: it finds the right chunk by itself, follows the load, and leaps exactly."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from seeds import many
from simulations import PlainPrices, options, run
from test_leaping import lives, scenario

from llmsim.errors import InfeasibleError, ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers.adaptive import AdaptiveBatching
from llmsim.schedulers.lanes import LATE_TURN, TwoLanes
from llmsim.schedulers.sequence import Sequence
from llmsim.schedulers.step_fit import StepFit
from llmsim.testing.scheduler_suite import check_scheduler
from llmsim.workload.request import Request

# A step takes 10 ms and 20 microseconds a token; contexts and the length of prompts cost nothing.
FIXED, TOKEN = 0.010, 2e-5
SETTINGS = [
    {"ttft_target_ms": 300.0},
    {"tpot_target_ms": 15.0},
    {"ttft_target_ms": 500.0, "tpot_target_ms": 14.0, "least_tokens": 16},
]


class Linear(PlainPrices):
    """Prices that are exactly what the policy fits: a base, and so much for each token."""

    def mixed_attention(self, group, chunks, decodes, context_sum, longest_context):
        return 0.0, 0.5


def linear(fixed: float = FIXED, token: float = TOKEN) -> Linear:
    return Linear(fixed=fixed, token=token, context=0.0, bend=0.0)


class Watched(AdaptiveBatching):
    """Keeps what it planned: (prompt tokens, sequences that decode) of each step with prompts."""

    def __init__(self, *arguments, **settings):
        super().__init__(*arguments, **settings)
        self.planned = []
        self.most_running = 0

    def next_batch(self):
        batch = super().next_batch()
        self.most_running = max(self.most_running, len(self.running))
        if batch is not None and batch.chunks:
            work = self._works[-1]
            self.planned.append((work.prompt, work.decodes))
        return batch


def watched(requests, *, prices=None, seats=32, tokens=4096, asynchronous=False, **settings):
    """Run, and return the records by id and the policy."""
    engine = options(
        max_num_seqs=seats, max_num_batched_tokens=tokens, cudagraph_sizes=(), async_scheduling=asynchronous,
        max_model_len=32_768,
    )  # fmt: skip
    records, replica = run(
        requests, engine=engine, blocks=50_000, scheduler=partial(Watched, **settings), prices=[prices or linear()]
    )
    assert {record.status for record in records} == {"finished"}
    return {record.id: record for record in records}, replica.scheduler


# ---------------------------------------------------------------------- what is measured


def test_the_fit_finds_a_linear_price():
    fit = StepFit(100.0)
    draw = np.random.default_rng(3)
    for _ in range(300):
        prompt, decodes = int(draw.integers(0, 4000)), int(draw.integers(0, 200))
        context = decodes * int(draw.integers(100, 3000))
        fit.learn(prompt, decodes, context, 0.006 + 2e-5 * prompt + 1e-5 * decodes + 2e-8 * context)
    assert fit.seconds(1000, 50, 50_000) == pytest.approx(0.006 + 0.02 + 0.0005 + 0.001, rel=1e-3)
    assert fit.per_prompt_token == pytest.approx(2e-5, rel=1e-3)


def test_the_fit_follows_a_machine_that_becomes_slower():
    fit = StepFit(50.0)
    for round_number in range(600):
        prompt, decodes = 100 * (round_number % 17), 3 * (round_number % 11)
        slower = 1.0 if round_number < 300 else 2.0
        fit.learn(prompt, decodes, 0, slower * (0.01 + 2e-5 * prompt + 1e-5 * decodes))
    assert fit.seconds(1000, 10, 0) == pytest.approx(2 * (0.01 + 0.02 + 0.0001), rel=0.02)


# ---------------------------------------------------------------------- chunks


@pytest.mark.parametrize("asynchronous", [False, True])
def test_chunks_converge_to_what_the_tpot_target_leaves(asynchronous):
    # 8 sequences decode while long prompts come in.  With a target of 30 ms and no headroom a step may have
    # (30 - 10) ms / 20 us = 1000 tokens, the 8 of those who decode among them: 992 prompt tokens.
    requests = [Request(f"d{number}", 0.0, 10, 3000) for number in range(8)]
    requests += [Request(f"p{number}", 1.0 + 0.5 * number, 8000, 1) for number in range(40)]
    _, policy = watched(requests, asynchronous=asynchronous, tpot_target_ms=30.0, headroom=0.0)
    whole = [prompt for prompt, decodes in policy.planned if decodes == 8]
    assert len(whole) > 200
    assert np.median(whole[20:]) == pytest.approx(992, rel=0.01)
    assert max(whole[20:]) <= 1002


def test_steps_keep_the_target_whatever_decodes():
    # As before, but answers come and go: step by step the target leaves 1000 - (sequences that decode) tokens.
    requests = [Request(f"d{number}", 0.05 * number, 50, 20 + 7 * (number % 40)) for number in range(200)]
    requests += [Request(f"p{number}", 1.0 + 0.4 * number, 6000, 2) for number in range(20)]
    _, policy = watched(requests, tpot_target_ms=30.0, headroom=0.05)
    times = [FIXED + TOKEN * (prompt + decodes) for prompt, decodes in policy.planned[50:] if decodes]
    assert max(times) < 0.0300
    assert np.quantile(times, 0.95) > 0.0280


def test_a_slower_machine_gets_smaller_chunks():
    requests = [Request(f"d{number}", 0.0, 10, 2000) for number in range(8)]
    requests += [Request(f"p{number}", 1.0 + number, 8000, 1) for number in range(20)]
    _, fast = watched(requests, tpot_target_ms=30.0, headroom=0.0)
    _, slow = watched(requests, prices=linear(0.02, 4e-5), tpot_target_ms=30.0, headroom=0.0)
    # (30 - 20) ms / 40 us = 250 tokens.
    assert np.median([prompt for prompt, decodes in slow.planned if decodes == 8][20:]) == pytest.approx(242, rel=0.02)
    assert len(slow.planned) > 2 * len(fast.planned)


def test_nothing_is_spared_where_nothing_decodes():
    records, policy = watched([Request("A", 0.0, 12_000, 1)], tpot_target_ms=12.0)
    assert [prompt for prompt, _ in policy.planned] == [4096, 4096, 3808]
    assert records["A"].first_token_s == pytest.approx(3 * FIXED + 12_000 * TOKEN, rel=1e-3)


# ---------------------------------------------------------------------- load


def test_prompts_get_more_when_their_target_is_at_risk_and_those_who_decode_can_spare_it():
    # Those who decode have had 10 ms steps against a target of 30 ms for a second: 2 s ahead.  The prompts of 16,000
    # tokens need 0.32 s; at 1000 tokens a step of 30 ms it would be 0.48 s, too late for a TTFT target of 0.4 s.
    requests = [Request(f"d{number}", 0.0, 10, 3000) for number in range(8)]
    # Some prompts to learn the price from, then the long one.
    requests += [Request(f"p{number}", 0.5 + 0.2 * number, 900, 1) for number in range(20)]
    requests += [Request("long", 6.0, 16_000, 1)]
    patient, held = watched(requests, tpot_target_ms=30.0, headroom=0.0)
    hurried, favoured = watched(requests, tpot_target_ms=30.0, ttft_target_ms=400.0, headroom=0.0)
    assert max(prompt for prompt, decodes in held.planned if decodes > 7) < 1100
    assert max(prompt for prompt, decodes in favoured.planned if decodes > 7) > 3000
    assert patient["long"].first_token_s - 6.0 > 0.4
    assert hurried["long"].first_token_s - 6.0 <= 0.4
    for name in (f"d{number}" for number in range(8)):
        record = hurried[name]
        assert (record.finished_s - record.first_token_s) / 2999 <= 0.030


def test_no_more_are_seated_than_can_decode_within_the_target():
    # 1 ms a token: (30 - 10) / 1 = 20 sequences.
    requests = [Request(str(number), 0.01 * number, 1, 200) for number in range(120)]
    _, policy = watched(requests, prices=linear(0.010, 1e-3), seats=64, tpot_target_ms=30.0, headroom=0.0)
    assert 19 <= policy.most_running <= 22
    _, many = watched(requests, prices=linear(0.010, 1e-3), seats=64, ttft_target_ms=1e6)
    assert many.most_running == 64


def test_when_the_load_falls_again_so_do_the_waits():
    # A burst that no setting can serve in time, then a trickle: who comes later is served in time again.
    requests = [Request(f"b{number}", 1.0, 4000, 20) for number in range(60)]
    requests += [Request(f"t{number}", 2.0 + 0.5 * number, 200, 20) for number in range(20)]
    records, _ = watched(requests, tpot_target_ms=30.0, ttft_target_ms=400.0)
    waits = [records[f"t{number}"].first_token_s - (2.0 + 0.5 * number) for number in range(20)]
    assert max(waits[5:]) <= 0.4
    in_time = sum(records[f"b{number}"].first_token_s - 1.0 <= 0.4 for number in range(60))
    assert in_time >= 3


def test_who_is_late_steps_back_but_does_not_starve():
    def one(name):
        return Sequence(Request(name, 0.0, 1, 1), 1)

    lanes = TwoLanes()
    for number in range(3):
        lanes.add(one(f"late{number}"))
    for _ in range(3):
        lanes.give_up_first()
    for number in range(20):
        lanes.add(one(str(number)))
    order = [lanes.take().request.id for _ in range(23)]
    turns = [place for place, name in enumerate(order) if name.startswith("late")]
    assert turns == [LATE_TURN - 1, 2 * LATE_TURN - 1, 22]
    assert [name for name in order if not name.startswith("late")] == [str(number) for number in range(20)]


# ---------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of ttft_target_ms and tpot_target_ms must be given"),
        ({"ttft_target_ms": -1.0}, "scheduler.ttft_target_ms: adaptive needs a number of at least"),
        ({"ttft_target_ms": 1.0, "headroom": 1.0}, "scheduler.headroom: adaptive needs a number between 0 and 0.99"),
        ({"ttft_target_ms": 1.0, "least_tokens": 0}, "scheduler.least_tokens: adaptive needs a number of at least 1"),
        (
            {"ttft_target_ms": 1.0, "behind_share": 1.5},
            "scheduler.behind_share: adaptive needs a number between 0 and 1",
        ),
    ],
)
def test_settings_are_checked(settings, message):
    with pytest.raises(ScenarioError, match=message):
        AdaptiveBatching(options(), BlockPool(10, 16), **settings)


def test_priorities_are_refused():
    with pytest.raises(ScenarioError, match=r"engine\.scheduling_policy: adaptive has an order of its own"):
        AdaptiveBatching(options(scheduling_policy="priority"), BlockPool(10, 16), ttft_target_ms=1.0)


def test_pipelines_are_refused():
    with pytest.raises(InfeasibleError, match="pipeline stages are not modelled"):
        AdaptiveBatching(options(pipeline_parallel_size=2), BlockPool(10, 16), ttft_target_ms=1.0)


# ---------------------------------------------------------------------- invariants


@pytest.mark.parametrize("seed", many(150))
@pytest.mark.parametrize("settings", SETTINGS, ids=["ttft", "tpot", "both"])
def test_leaping_gives_the_records_of_stepping(settings, seed):
    drawn = scenario(seed, sessions=seed % 5 == 0)
    drawn["engine"] = replace(drawn["engine"], scheduling_policy="fcfs")
    leapt, engine = run(**drawn, scheduler=partial(AdaptiveBatching, **settings))
    stepped, slow = run(**drawn, scheduler=partial(AdaptiveBatching, leap=False, **settings))
    assert lives(leapt) == lives(stepped)
    assert len(leapt) == len(drawn["requests"])
    assert engine.steps == slow.steps
    assert engine.pool.free == engine.pool.blocks


@pytest.mark.parametrize("settings", SETTINGS, ids=["ttft", "tpot", "both"])
def test_it_keeps_what_every_scheduler_must(settings):
    check_scheduler(AdaptiveBatching, **settings)


def test_it_leaps_where_nothing_waits():
    requests = [Request(str(number), 0.0, 10, 1000) for number in range(4)]
    engine = options(cudagraph_sizes=())
    _, replica = run(requests, engine=engine, scheduler=partial(AdaptiveBatching, tpot_target_ms=30.0))
    assert replica.steps == 1000
    assert len(replica.log) < 10
