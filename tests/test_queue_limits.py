"""`max_num_queued_reqs` and `max_num_queued_tokens`: a server that takes in no more than so many."""

from __future__ import annotations

from dataclasses import astuple

import pytest
from simulations import PlainPrices, options, run

import llmsim
from llmsim.workload.request import Request

STEP = [PlainPrices(fixed=1.0, token=0.0, context=0.0, bend=0.0)]


def statuses(asked: list[Request], *, scheduler="continuous", **engine) -> dict[str, str]:
    records, _ = run(asked, engine=options(max_num_seqs=1, **engine), prices=STEP, scheduler=scheduler)
    return {record.id: record.status for record in sorted(records, key=lambda record: record.id)}


@pytest.mark.parametrize("scheduler", ["continuous", "static"])
def test_requests_are_rejected_while_so_many_wait(scheduler):
    # One seat, and each request runs for a second (one step).  a runs from 0 s; b and c wait; d, at 0.5 s, is one too
    # many.  At 1 s b begins, and e, at 1.5 s, waits beside c; f is one too many again.
    asked = [
        Request("a", 0.0, 5, 1), Request("b", 0.1, 5, 1), Request("c", 0.2, 5, 1), Request("d", 0.5, 5, 1),
        Request("e", 1.5, 5, 1), Request("f", 1.6, 5, 1),
    ]  # fmt: skip
    assert statuses(asked, scheduler=scheduler, max_num_queued_reqs=2) == {
        "a": "finished", "b": "finished", "c": "finished", "d": "rejected", "e": "finished", "f": "rejected",
    }  # fmt: skip


def test_requests_are_rejected_while_so_many_tokens_wait():
    # a runs; b's 60 tokens wait, then c's too, which makes 120, and d is rejected.  At 1 s b begins: 60 wait.
    asked = [
        Request("a", 0.0, 5, 1), Request("b", 0.1, 60, 1), Request("c", 0.2, 60, 1), Request("d", 0.3, 1, 1),
        Request("e", 1.1, 1, 1),
    ]  # fmt: skip
    assert statuses(asked, max_num_queued_tokens=100) == {
        "a": "finished", "b": "finished", "c": "finished", "d": "rejected", "e": "finished",
    }  # fmt: skip


def test_the_reason_has_the_figures():
    asked = [Request("a", 0.0, 5, 1), Request("b", 0.1, 7, 1), Request("c", 0.2, 5, 1)]
    for limit, reason in (
        ({"max_num_queued_reqs": 1}, "the queue is full: 1 requests wait, max_num_queued_reqs is 1"),
        ({"max_num_queued_tokens": 7}, "the queue is full: 7 tokens wait, max_num_queued_tokens is 7"),
    ):
        records, _ = run(asked, engine=options(max_num_seqs=1, **limit), prices=STEP)
        (rejected,) = (record for record in records if record.status == "rejected")
        assert (rejected.id, rejected.reason) == ("c", reason)
        assert rejected.admitted_s is rejected.first_token_s is rejected.finished_s is None


def test_an_idle_engine_takes_as_many_at_once_as_may_wait():
    # All come at one moment, before anything is decided, so nobody runs yet.
    asked = [Request(name, 0.0, 5, 1) for name in "abcd"]
    assert list(statuses(asked, max_num_queued_reqs=2).values()) == ["finished", "finished", "rejected", "rejected"]


def test_who_was_preempted_waits_too():
    # Blocks of one token, five of them.  Steps begin at 0 s: a 1; 1 s: a 2, b 1; 2 s: a 3, b 2; 3 s: a 4, for which b
    # gives way, and waits with the 3 tokens it has.  c, at 3.5 s, meets a queue of one.
    asked = [Request("a", 0.0, 1, 5), Request("b", 0.5, 1, 4), Request("c", 3.5, 1, 1)]
    for limit in ({"max_num_queued_reqs": 1}, {"max_num_queued_tokens": 3}):
        records, replica = run(asked, engine=options(block_size=1, **limit), blocks=5, prices=STEP)
        assert replica.preemptions == 1
        assert {record.id: record.status for record in records} == {"a": "finished", "b": "finished", "c": "rejected"}


@pytest.mark.parametrize("ahead", [False, True])
def test_leaping_rejects_whom_stepping_rejects(ahead):
    asked = [Request(str(number), 0.013 * number, 40, 50) for number in range(100)]
    engine = options(max_num_seqs=3, max_num_queued_reqs=4, async_scheduling=ahead)
    ours, theirs = (run(asked, engine=engine, leap=leap)[0] for leap in (True, False))
    assert [astuple(record) for record in ours] == [astuple(record) for record in theirs]
    assert 10 < sum(record.status == "rejected" for record in ours) < 90


def test_the_run_says_how_many_were_rejected_and_why():
    scenario = llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", request_rate=40, num_prompts=60, seed=1, max_num_seqs=4,
        max_num_queued_reqs=2,
    )  # fmt: skip
    result = llmsim.simulate(scenario)
    rejected = result.counts["rejected"]
    assert rejected > 0
    (warning,) = result.warnings
    assert warning.startswith(f"{rejected} requests were rejected; the first, ")
    assert warning.endswith("the queue is full: 2 requests wait, max_num_queued_reqs is 2")
