"""The price of a step: closed forms against sums, the look-up of a moment against a search, host time that shows."""

from __future__ import annotations

from functools import cache
from math import fsum
from random import Random

import numpy as np
import pytest
from simulations import PlainPrices, options

import llmsim
from llmsim.performance.step_cost import StepCost
from llmsim.schema import resolve
from llmsim.simulation import Simulation

SEEDS = range(25)


@cache
def plain(windows: tuple[int, ...] = (), **prices: float) -> StepCost:
    """Return the cost of a step at prices that bend with the context, so that knots matter."""
    return StepCost(PlainPrices((None, *windows), **prices), options())


@cache
def real(**changes) -> StepCost:
    """Return the cost of a step of the first stage of a real model."""
    scenario = llmsim.scenario(**{"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 8, **changes})
    return Simulation(resolve(scenario)).parts.engines[0].costs[0]


COSTS = {
    "flat": lambda: plain(context=0.0, bend=0.0),
    "plain": plain,
    "one window": lambda: plain((128,)),
    "two windows": lambda: plain((64, 1024)),
    "dense": real,
    "windowed": lambda: real(model="gpt-oss-20b"),
}


def drawn(random: Random, cost: StepCost) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Draw how many sequences decode, their summed contexts, and by how much these grow in a step.

    In a window only those that have not filled it grow.
    """
    count = random.randint(1, 32)
    longest = random.choice([50, 130, 3000, 100_000])
    contexts = [random.randint(1, longest) for _ in range(count)]
    summed = tuple(sum(min(context, window) for context in contexts) for window in cost.windows)
    # A sequence that fills its window within the epoch would end it.
    growing = tuple(sum(context < window - 600 for context in contexts) for window in cost.windows)
    return count, (sum(contexts), *summed), (count, *growing)


def stepped(cost: StepCost, count: int, contexts: tuple[int, ...], growth: tuple[int, ...], steps: int) -> list[float]:
    """Return the duration of each step, each priced on its own."""
    return [
        cost.decode_step(count, tuple(c + step * g for c, g in zip(contexts, growth, strict=True)))
        for step in range(steps)
    ]


# ---------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", COSTS)
def test_the_closed_form_is_the_sum_of_the_steps(kind, seed):
    cost, random = COSTS[kind](), Random(seed)
    count, contexts, growth = drawn(random, cost)
    epoch = cost.epoch(0.0, 0, count, contexts, growth)
    durations = stepped(cost, count, contexts, growth, 600)

    for steps in {1, 2, 600, *(random.randint(1, 600) for _ in range(8))}:
        assert epoch.after(steps) == pytest.approx(fsum(durations[:steps]), rel=1e-12, abs=0)
        assert epoch.duration(steps) == pytest.approx(durations[steps - 1], rel=1e-9, abs=0)


@pytest.mark.parametrize("count", [1, 3, 32])
def test_the_closed_form_is_the_sum_across_many_knots(count):
    cost = plain()
    contexts, growth, most = (count * 50,), (count,), 20_000
    crossed = [knot for knot in cost.knots if 50 < knot < 50 + most]
    assert len(crossed) > 12
    epoch = cost.epoch(0.0, 0, count, contexts, growth)
    durations = stepped(cost, count, contexts, growth, most)

    for steps in (13, 14, 15, 16, 100, 5000, most):  # the first knot, 64, is 14 steps away
        assert epoch.after(steps) == pytest.approx(fsum(durations[:steps]), rel=1e-12, abs=0)


def test_a_bend_is_seen():
    """The sums above would agree of straight prices too: these are not straight."""
    durations = stepped(plain(), 8, (8 * 50,), (8,), 20_000)

    assert durations[-1] - durations[-2] > 1.5 * (durations[1] - durations[0])


def test_contexts_on_a_knot_and_beyond_the_last_one_have_their_price():
    cost = plain()

    for context in [*cost.knots.tolist(), 200_000.0]:
        price = cost.prices.decode_attention(0, np.array([1.0]), np.array([context])).sum() + 0.01 + 1e-5
        if context == 200_000.0:  # straight on from the last two knots, below a curve that bends up
            assert cost.decode_step(1, (131072,)) < cost.decode_step(1, (200_000,)) < price
        else:
            assert cost.decode_step(1, (context,)) == pytest.approx(price, rel=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", COSTS)
def test_a_decode_step_is_an_epoch_of_one_step_however_it_would_grow(kind, seed):
    cost = COSTS[kind]()
    count, contexts, growth = drawn(Random(seed), cost)

    for grows in (growth, (0,) * len(growth), tuple(1000 * count for _ in growth)):
        epoch = cost.epoch(7.0, 0, count, contexts, grows)
        assert cost.decode_step(count, contexts) == pytest.approx(epoch.after(1), rel=1e-14, abs=0)
        assert epoch.end(1) == 7.0 + epoch.after(1)


@pytest.mark.parametrize("window", [128, 1024])
def test_layers_with_a_full_window_cost_the_same_whatever_the_context(window):
    cost = plain((window,), context=1e-6)
    epoch = cost.epoch(0.0, 0, 1, (5000, window), (1, 0))
    full = plain(context=1e-6).epoch(0.0, 0, 1, (5000,), (1,))

    grows = epoch.duration(500) - epoch.duration(1)
    assert grows == pytest.approx(full.duration(500) - full.duration(1), rel=1e-9)
    windowed = cost.prices.decode_attention(1, np.array([1.0]), np.array([float(window)])).sum()
    assert epoch.duration(1) - full.duration(1) == pytest.approx(windowed, rel=1e-9)


WINDOW_BETWEEN = 110  # no knot of the grid, which has 90.5 and 128 about it


def test_a_full_window_between_two_knots_has_its_price():
    cost = plain((WINDOW_BETWEEN,), context=1e-4)
    without = plain(context=1e-4).decode_step(1, (5000,))
    windowed = cost.prices.decode_attention(1, np.array([1.0]), np.array([float(WINDOW_BETWEEN)])).sum()

    assert cost.decode_step(1, (5000, WINDOW_BETWEEN)) - without == pytest.approx(windowed, rel=1e-3)


# ---------------------------------------------------------------------- which step is it?


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", COSTS)
def test_step_at_finds_what_a_search_finds(kind, seed):
    cost, random = COSTS[kind](), Random(1000 + seed)
    epoch = cost.epoch(random.choice([0.0, 3.7, 1e6]), 0, *drawn(random, cost))
    last = random.choice([2, 3, 40, 600])
    low = random.randint(0, last - 1)
    ends = [epoch.end(step) for step in range(last + 1)]
    moments = [random.uniform(ends[low], ends[last]) for _ in range(60)]
    chosen = [ends[random.randint(low + 1, last)] for _ in range(20)]
    moments += [*chosen, *np.nextafter(chosen, -np.inf), *np.nextafter(chosen, np.inf), ends[low + 1], ends[last]]

    assert np.all(np.diff(ends) > 0)
    for moment in moments:
        if moment <= ends[last]:
            found = epoch.step_at(moment, low, ends[low], last, ends[last])
            assert found == next(step for step in range(low + 1, last + 1) if ends[step] >= moment)


@pytest.mark.parametrize("kind", ["flat", "plain"])
def test_step_at_finds_every_step_across_knots(kind):
    epoch = COSTS[kind]().epoch(0.25, 0, 4, (4 * 60,), (4,))
    ends = [epoch.end(step) for step in range(3001)]

    for step in range(1, 3001):
        assert epoch.step_at(ends[step], 0, ends[0], 3000, ends[3000]) == step
        before = (ends[step - 1] + ends[step]) / 2
        assert epoch.step_at(before, 0, ends[0], 3000, ends[3000]) == step


# ---------------------------------------------------------------------- host

HOST_S = 0.004


def with_host(host_s: float, *, asynchronous: bool, **keywords) -> StepCost:
    return StepCost(PlainPrices(host=host_s), options(async_scheduling=asynchronous), **keywords)


def both(cost: StepCost) -> list[float]:
    """Return the seconds of a decode step, and of a step with a chunk of a prompt."""
    return [cost.decode_step(4, (4000,)), cost.step([(100, 0)], 4, (4000,), 1000, 5)[0]]


def test_synchronous_scheduling_adds_the_host_to_the_device():
    device = both(with_host(0.0, asynchronous=False))

    assert both(with_host(HOST_S, asynchronous=False)) == pytest.approx([s + HOST_S for s in device], rel=1e-12)


@pytest.mark.parametrize(("host_s", "shows"), [(HOST_S, False), (0.1, True)])
def test_asynchronous_scheduling_takes_the_longer_of_the_two(host_s, shows):
    device = both(with_host(0.0, asynchronous=True))

    assert all((host_s > seconds) == shows for seconds in device)
    assert both(with_host(host_s, asynchronous=True)) == pytest.approx([max(s, host_s) for s in device], rel=1e-12)


def test_a_host_that_is_overtaken_as_contexts_grow_never_costs_less_than_the_longer_of_the_two():
    device, hidden = with_host(0.0, asynchronous=True), with_host(0.013, asynchronous=True)
    seconds = [(device.decode_step(8, (8 * c,)), hidden.decode_step(8, (8 * c,))) for c in range(1, 8000, 37)]

    assert seconds[0][0] < 0.013 < seconds[-1][0]
    assert all(max(alone, 0.013) - 1e-15 <= both_ <= alone + 0.013 for alone, both_ in seconds)
    # Between two knots the bend of the maximum is cut short.
    assert max(both_ / max(alone, 0.013) for alone, both_ in seconds) < 1.05


def test_a_host_that_launches_beside_the_device_is_hidden_without_asynchronous_scheduling_too():
    class Beside(PlainPrices):
        host_bound = True

    cost = StepCost(Beside(host=HOST_S), options(async_scheduling=False))

    assert both(cost) == pytest.approx(both(with_host(0.0, asynchronous=False)), rel=1e-12)


def test_a_stretched_host_takes_longer_and_only_the_first_stage_pays():
    device = both(with_host(0.0, asynchronous=False))
    stretched = both(with_host(HOST_S, asynchronous=False, host_stretch=2.5))

    assert stretched == pytest.approx([seconds + 2.5 * HOST_S for seconds in device], rel=1e-12)
    assert both(with_host(HOST_S, asynchronous=False, host=False)) == device


# ---------------------------------------------------------------------- real prices


def test_one_device_has_nobody_to_talk_to():
    assert real(model="llama-3.1-70b", quantization="fp8").communication_share() == 0.0


def test_the_communication_share_is_a_share_and_grows_with_the_devices():
    shares = [
        real(model="llama-3.1-70b", tensor_parallel_size=devices, max_model_len=8192).communication_share()
        for devices in (2, 4, 8)
    ]

    assert 0 < shares[0] < shares[1] < shares[2] < 1


@pytest.mark.parametrize("changes", [{}, {"model": "llama-3.1-70b", "tensor_parallel_size": 4}], ids=["8b", "70b"])
def test_real_steps_cost_more_with_more_to_do(changes):
    cost = real(**changes)
    contexts = [cost.decode_step(8, (8 * context,)) for context in (16, 512, 4096, 32768)]
    batches = [cost.decode_step(count, (count * 1000,)) for count in (1, 8, 64, 256)]
    chunks = [cost.step([(tokens, 0)], 8, (8000,), 1000, 9)[0] for tokens in (64, 512, 2048)]

    for seconds in (contexts, batches, chunks):
        assert all(np.diff(seconds) > 0)
    assert chunks[0] > cost.decode_step(8, (8000,))


def test_the_kinds_of_a_decode_step_add_up_to_its_price():
    cost = real(model="llama-3.1-70b", tensor_parallel_size=4)
    columns = {
        "decodes": np.array([24]),
        "context": np.array([24 * 1000]),
        "steps": np.array([1]),
        "tokens_padded": np.array([cost.options.padded(24)]),
        "sampled_rows": np.array([24]),
        "prefill_sequences": np.array([0]),
        "attention_s": np.array([0.0]),
        "attention_compute_share": np.array([0.0]),
        "busy_s": np.array([0.0]),
    }

    assert cost.kind_seconds(columns).sum() == pytest.approx(cost.decode_step(24, (24 * 1000,)), rel=1e-9)
