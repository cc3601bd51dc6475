"""Two random scenarios that must agree: other prices, other replicas."""

from __future__ import annotations

from dataclasses import astuple, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from random_scenarios import fixed_draws, pool_of, scenarios
from simulations import PlainPrices, run

from llmsim.engine import Engine
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.schedulers import SCHEDULERS
from llmsim.timeline import SingleStage


class Doubled:
    """Prices twice as high."""

    def __init__(self, prices: PlainPrices) -> None:
        self.kinds, self.windows, self.host_bound = prices.kinds, prices.windows, prices.host_bound
        self.prices = prices

    def linear(self, tokens):
        return 2 * self.prices.linear(tokens)

    def head(self, rows):
        return 2 * self.prices.head(rows)

    def decode_attention(self, group, batch, context):
        return 2 * self.prices.decode_attention(group, batch, context)

    def mixed_attention(self, *step):
        seconds, share = self.prices.mixed_attention(*step)
        return 2 * seconds, share

    def host(self, sequences, tokens):
        return 2 * self.prices.host(sequences, tokens)


def doubled(record) -> tuple:
    """Return a record with all its moments doubled, which is exact in floating point."""
    names = ("arrival_s", "admitted_s", "first_token_s", "finished_s")
    moments = {name: getattr(record, name) for name in names}
    return astuple(replace(record, **{name: moment and 2 * moment for name, moment in moments.items()}))


@settings(fixed_draws, max_examples=100)
@given(scenarios() | scenarios(pipelined=True), st.sampled_from(["continuous", "static"]))
def test_twice_the_prices_and_half_the_rate_take_exactly_twice_as_long(scenario, scheduler):
    """No second, and no smallest step, is built in anywhere."""
    if scenario["engine"].pipeline_parallel_size > 1:
        scheduler = "continuous"
    slower = {
        **scenario,
        "requests": [replace(request, arrival_s=2 * request.arrival_s) for request in scenario["requests"]],
        "prices": [Doubled(prices) for prices in scenario["prices"]],
    }
    once, _ = run(**scenario, scheduler=scheduler)
    twice, _ = run(**slower, scheduler=scheduler)
    assert [doubled(record) for record in once] == [astuple(record) for record in twice]


@settings(fixed_draws, max_examples=50)
@given(scenarios(), st.sampled_from(["continuous", "static"]))
def test_replicas_do_not_touch_each_other(scenario, scheduler):
    """Requests that go to two replicas in turn fare as if each replica were alone with its half."""
    together = fleet_of_two(scenario, scheduler)
    for replica in (0, 1):
        half = {**scenario, "requests": scenario["requests"][replica::2]}
        alone, _ = run(**half, scheduler=scheduler)
        mine = [replace(record, replica=0) for record in together if record.replica == replica]
        assert [astuple(record) for record in mine] == [astuple(record) for record in alone]


def fleet_of_two(scenario: dict, scheduler: str) -> list:
    """Simulate two engines on one clock that take the requests in turn; return their records."""
    settings_, windows = scenario["engine"], scenario["windows"]
    clock, records, engines = Clock(), [], []
    for replica in (0, 1):
        pool = pool_of(scenario["blocks"], settings_, windows)
        timeline = SingleStage(StepCost(scenario["prices"][0], settings_), settings_.max_concurrent_batches)
        policy = SCHEDULERS[scheduler](settings_, pool)
        engines.append(Engine(replica, clock, policy, timeline, pool, settings_, records.append))
    for number, request in enumerate(scenario["requests"]):
        engine = engines[number % 2]
        clock.alarm(request.arrival_s, lambda _, engine=engine, request=request: engine.submit(request))
    clock.run()
    return records
