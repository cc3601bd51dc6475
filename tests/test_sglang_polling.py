"""SGLang's ``--scheduler-recv-interval``: newcomers are looked at every so many steps that decode."""

from __future__ import annotations

import pytest

from llmsim.errors import ScenarioError
from llmsim.schedulers.polling import RequestPoll
from llmsim.schema import load, resolve
from llmsim.simulation import Simulation


def finished(interval: int, *, leap: bool = True, mean_gap_s: float = 0.05) -> list[tuple[str, float, float]]:
    scenario = {
        "model": "llama-3.1-8b",
        "cluster": {"gpu": "h100-sxm"},
        "engine": {"preset": "sglang@0.5", "scheduler_recv_interval": interval},
        "performance": {"tokenize_us_per_token": 0},
        "workload": {
            "dataset": {"name": "fixed", "prompt": {"value": 100}, "output": {"value": 80}},
            "arrival": {"request_rate": 1 / mean_gap_s},
            "num_prompts": 60,
        },
    }
    simulation = Simulation(resolve(load(scenario)), leap=leap)
    simulation.run(None, None)
    assert [record.status for record in simulation.records] == ["finished"] * 60
    return [(one.id, one.arrival_s, one.first_token_s) for one in simulation.records]


def test_steps_are_counted_from_the_last_look_and_prompts_look_at_once():
    # SchedulerRecvSkipper.handle: a decode adds 1 to a counter that is looked at and lowered at the interval; a prompt
    # adds 1000.
    poll = RequestPoll(4)
    assert poll.on
    assert poll.look(at_once=True) == []
    poll.newcomers["a"] = None
    assert poll.steps_left() == 4
    poll.count(3)
    assert poll.look(at_once=False) == []
    assert poll.steps_left() == 1
    poll.count(1)
    assert poll.look(at_once=False) == ["a"]
    assert poll.steps_left() is None
    poll.newcomers["b"] = None
    poll.count(6)
    poll.count(-1)
    assert poll.look(at_once=False) == []
    assert poll.look(at_once=True) == ["b"]
    assert not RequestPoll(1).on
    with pytest.raises(ScenarioError, match="scheduler_recv_interval: at least 1"):
        RequestPoll(0)


def test_who_comes_while_others_decode_waits_for_half_an_interval_on_average():
    waits = {}
    for interval in (1, 30):
        waits[interval] = [first - arrival for _, arrival, first in finished(interval)]
    extra = sum(waits[30]) / 60 - sum(waits[1]) / 60
    # Steps of 7 to 8 ms: 15 of them, less for those whom a prompt before them lets in at once.
    assert 0.03 < extra < 0.12
    assert max(waits[30]) < 30 * 0.012 + max(waits[1])


def test_leaping_is_stepping_with_rare_looks():
    assert finished(7) == finished(7, leap=False)
    assert finished(30, mean_gap_s=0.2) == finished(30, leap=False, mean_gap_s=0.2)
