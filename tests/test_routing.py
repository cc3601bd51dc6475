"""Routers see the requests that are on their way to a replica, not only those that have reached its engine."""

from __future__ import annotations

from collections import Counter

import llmsim
from llmsim.schema import resolve
from llmsim.simulation import Simulation


def test_least_requests_counts_prompts_that_are_still_being_tokenized():
    # All come at once, and the tokenizers of both hosts' cores are busy for a while.
    scenario = llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", num_prompts=200, replicas=2, router="least_requests"
    )
    run = llmsim.simulate(scenario)
    assert Counter(record.replica for record in run.records) == {0: 100, 1: 100}


def test_a_request_is_counted_once_and_no_longer_when_it_has_ended():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=50, request_rate=5)
    simulation = Simulation(resolve(scenario))
    simulation.run(None, None)
    assert [engine.load for engine in simulation.parts.engines] == [0]
