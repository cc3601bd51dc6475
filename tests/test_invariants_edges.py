"""What must hold at the edges: no prompt, no output, careless schedulers, a run that is stopped."""

from __future__ import annotations

import pytest
from random_scenarios import pool_of
from simulations import PlainPrices, options, run
from watched import check_records

import llmsim
from llmsim.engine import Engine
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.schedulers.batch import Batch
from llmsim.schedulers.continuous import ContinuousBatching
from llmsim.timeline import SingleStage
from llmsim.workload.request import Request


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("prompt", "output"), [(10, 0), (0, 5), (0, 0)])
def test_a_request_without_prompt_or_output_does_not_hold_up_the_others(prompt, output, asynchronous):
    asked = [Request("nothing", 0.0, prompt, output), Request("other", 0.5, 10, 3)]
    records, _ = run(asked, engine=options(async_scheduling=asynchronous))
    check_records(records, asked)


def test_a_request_without_output_is_in_causal_order_with_static_batching():
    asked = [Request("nothing", 0.0, 10, 0), Request("other", 0.5, 10, 3)]
    records, _ = run(asked, scheduler="static")
    check_records(records, asked, streamed=False)


class Careless:
    """A scheduler of somebody's own that gives each sequence what `tokens` says."""

    def __init__(self, engine_options, pool):
        self.running, self.decisions = [], 0

    def add(self, sequence):
        self.running.append(sequence)
        return True

    def next_batch(self):
        self.decisions += 1
        if self.decisions > 1000:
            pytest.fail("it would go on for ever")
        return Batch([(sequence, self.tokens(sequence)) for sequence in self.running]) if self.running else None

    def settle(self, batch, steps):
        for sequence in batch.ending:
            self.running.remove(sequence)
        return batch.ending


class TooMany(Careless):
    def tokens(self, sequence):
        return sequence.remaining + 1


class Nothing(Careless):
    def tokens(self, sequence):
        return 0


@pytest.mark.parametrize("scheduler", [TooMany, Nothing])
def test_a_scheduler_that_can_never_finish_anything_is_told_so(scheduler):
    with pytest.raises(llmsim.LlmsimError, match="replica 0"):
        run([Request("0", 0.0, 10, 3)], scheduler=scheduler)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("leap", [True, False])
def test_a_cancelled_record_has_the_tokens_that_had_come(leap, asynchronous):
    settings_ = options(async_scheduling=asynchronous)
    clock, records = Clock(), []
    pool = pool_of(1000, settings_, ())
    prices = PlainPrices(fixed=0.25, token=0.0, context=0.0, bend=0.0)
    timeline = SingleStage(StepCost(prices, settings_), settings_.max_concurrent_batches)
    engine = Engine(0, clock, ContinuousBatching(settings_, pool, leap=leap), timeline, pool, settings_, records.append)
    clock.alarm(0.0, lambda _: engine.submit(Request("0", 0.0, 1, 100)))
    clock.run(until=2.6)
    engine.withdraw("run stopped: test")
    assert [(record.status, record.output_tokens) for record in records] == [("cancelled", 10)]


def test_static_batching_logs_the_tokens_that_clients_got():
    asked = [Request("short", 0.0, 10, 1), Request("long", 0.0, 10, 5)]
    records, engine = run(asked, scheduler="static")
    _, tokens = engine.log.tokens()
    assert int(tokens.sum()) == sum(record.output_tokens for record in records)
