"""Odometers: the parts add up to the whole, for lanes and for requests."""

import numpy as np
import pytest
from synthetic import KINDS, synthetic_run

from llmsim.results.odometer import QUEUED, WAITING, bill_kinds, bills, by_operator, by_resource, lane_total
from llmsim.results.records import Record


@pytest.fixture(scope="module")
def run():
    return synthetic_run(requests=300, rejected=3, preempt_every=70, replicas=2, rate=9)


def one(arrival, admitted, finished, status="finished"):
    return Record("a", 0, status, None, 0, arrival, admitted, finished, finished, 1, 1, 0, 0)


def test_a_bill_by_hand():
    kinds = (("compute", "attention"), ("memory", "head"))
    seconds = np.array([[1.0, 0.5], [2.0, 0.25], [4.0, 0.125], [8.0, 0.0625]])
    records = [one(0.0, 1.0, 20.0), one(1.0, 2.0, 4.25), one(3.0, None, 3.5, "rejected"), one(0.0, 1.0, 20.0)]
    ranges, owners = np.array([[0, 1], [1, 1], [3, 3], [0, 3]]), np.array([0, 1, 0, 3])
    result = bills(records, ranges, seconds, kinds=kinds, owners=owners)
    assert bill_kinds(kinds) == (*kinds, WAITING, QUEUED)
    assert result == [
        (11.0, 0.8125, 7.1875, 1.0),  # rows 0, 1 and 3; the rest of its 19 seconds between them
        (2.0, 0.25, 0.0, 1.0),
        (0.0, 0.0, 0.0, 0.5),  # never admitted: all its time was in the queue
        (15.0, 0.9375, 3.0625, 1.0),
    ]


def test_a_record_without_an_end_has_no_bill():
    endless = one(0.0, 1.0, None, "cancelled")
    assert bills([endless], np.array([[0, 0]]), np.ones((1, 1)), kinds=(("host", "none"),)) == [None]


def test_one_range_for_each_record_needs_no_owners_and_an_empty_one_costs_nothing():
    records = [one(0.0, 0.0, 3.0), one(0.0, 0.0, 3.0)]
    result = bills(records, np.array([[0, 1], [1, 0]]), np.array([[1.0], [2.0]]), kinds=(("compute", "head"),))
    assert result == [(3.0, 0.0, 0.0), (0.0, 3.0, 0.0)]


def test_the_bill_of_every_request_adds_up_to_its_latency(run):
    for record in run.records:
        if record.status == "finished":
            assert sum(record.bill) == pytest.approx(record.finished_s - record.arrival_s, rel=1e-9)
            assert min(record.bill) > -1e-9
            assert record.bill[run.bill_kinds.index(QUEUED)] == record.admitted_s - record.arrival_s


def test_only_preempted_requests_wait_between_admission_and_end(run):
    index = run.bill_kinds.index(WAITING)
    for record in run.records:
        if record.status == "finished":
            assert (record.bill[index] > 1e-9) == (record.preemptions > 0)
    assert run.counts["preemptions"] > 5


def test_leaping_and_stepping_give_the_same_bills():
    leap, step = (synthetic_run(requests=150, preempt_every=50, leap=leap) for leap in (True, False))
    for ours, theirs in zip(leap.records, step.records, strict=True):
        assert ours.bill == pytest.approx(theirs.bill, rel=1e-9, abs=1e-9)


def test_the_kinds_of_a_lane_add_up_to_its_wall_time(run):
    wall = max(record.finished_s for record in run.records)
    np.testing.assert_allclose(run.lane_totals.sum(axis=1), wall, rtol=1e-12)
    assert (run.lane_totals >= 0).all()


def test_a_lane_cannot_be_busy_for_longer_than_it_was_up():
    with pytest.raises(ValueError, match="more time than the lane was up"):
        lane_total(np.array([[2.0], [2.0]]), kinds=(("compute", "head"),), wall_s=3.0)


def test_resources_and_operators_each_add_up_to_the_bill(run):
    bill = run.records[0].bill
    for split in (by_resource(bill, run.bill_kinds), by_operator(bill, run.bill_kinds)):
        assert sum(split.values()) == pytest.approx(sum(bill), rel=1e-12)
    assert list(by_resource(bill, run.bill_kinds))[:2] == ["compute", "memory"]
    assert by_operator(bill, run.bill_kinds)["feed_forward"] == bill[1] + bill[3]


def test_cycles_per_token_are_seconds_times_clock_over_tokens(run):
    cycles, times = run.cycles_per_token(), run.time_by_resource()
    tokens = sum(record.output_tokens for record in run.records if record.status == "finished")
    for resource in ("compute", "communication"):
        assert cycles[resource] == pytest.approx(times[resource] * 1.83e9 / tokens, rel=1e-12)
    assert len(KINDS) + 2 == len(run.bill_kinds)
