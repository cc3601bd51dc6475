"""Closed loops: what is in flight, think times, and a client's cap, played against a small server made by hand."""

import heapq
from itertools import pairwise

import pytest

from llmsim.results.records import Record
from llmsim.workload.arrivals import Renewal
from llmsim.workload.closed_loop import Capped, ClosedLoop
from llmsim.workload.distributions import Fixed, Length, Uniform
from llmsim.workload.gaps import ConstantGaps, ExponentialGaps
from llmsim.workload.lengths import SampledLengths
from llmsim.workload.open_loop import OpenLoop
from llmsim.workload.window import ContextWindow

LENGTHS = SampledLengths("test", Length(Uniform(1, 100)), Length(Uniform(1, 50)))
WINDOW = ContextWindow(10_000, "reject")


def ended(request, finished_s, status="finished"):
    return Record(
        request.id, 0, status, None, 0, request.arrival_s, None, None, finished_s, request.prompt_tokens, 1, 0, 0
    )  # fmt: skip


def play(workload, service, record=ended):
    """Serve every request for ``service(request)`` seconds, all at once; return (request, end) in order of the ends."""
    served, in_flight, most = [], [], 0
    upcoming = [(request.arrival_s, number, request) for number, request in enumerate(workload.start())]
    heapq.heapify(upcoming)
    number = len(upcoming)
    while upcoming or in_flight:
        if upcoming and (not in_flight or upcoming[0][0] <= in_flight[0][0]):
            arrival, order, request = heapq.heappop(upcoming)
            heapq.heappush(in_flight, (arrival + service(request), order, request))
            most = max(most, len(in_flight))
            continue
        end, _, request = heapq.heappop(in_flight)
        served.append((request, end))
        for following in workload.on_end(record(request, end)):
            assert following.arrival_s >= end
            heapq.heappush(upcoming, (following.arrival_s, number, following))
            number += 1
    return served, most


def test_users_keep_the_concurrency_until_the_last_request():
    workload = ClosedLoop(LENGTHS, 4, 25, 0, WINDOW)
    served, most = play(workload, lambda request: 1.0 + request.output_tokens / 10)

    assert most == 4
    assert sorted(int(request.id) for request, _ in served) == list(range(25))


def test_the_next_request_comes_a_think_time_after_the_end():
    workload = ClosedLoop(LENGTHS, 1, 4, 0, WINDOW, Fixed(2.5))
    served, _ = play(workload, lambda request: 1.0)

    assert [request.arrival_s for request, _ in served] == [0.0, 3.5, 7.0, 10.5]


def test_users_may_start_one_after_another():
    arrivals = [request.arrival_s for request in ClosedLoop(LENGTHS, 4, 10, 0, WINDOW, ramp_s=8.0).start()]

    assert arrivals == [0.0, 2.0, 4.0, 6.0]


def test_fewer_requests_than_users():
    assert len(list(ClosedLoop(LENGTHS, 10, 3, 0, WINDOW).start())) == 3


def test_a_loop_starts_again_from_its_beginning():
    workload = ClosedLoop(LENGTHS, 3, 20, 7, WINDOW, Uniform(0, 3))
    once, again = (play(workload, lambda request: 0.5)[0] for _ in range(2))

    assert once == again


def test_a_rejected_request_is_followed_by_the_next():
    workload = ClosedLoop(LENGTHS, 1, 3, 0, WINDOW)
    (request,) = workload.start()
    (following,) = workload.on_end(ended(request, None, "rejected"))

    assert following.id == "1"
    assert following.arrival_s == request.arrival_s


@pytest.mark.parametrize("cap", [1, 3])
def test_a_cap_sends_each_request_at_its_time_or_when_a_place_is_free(cap):
    inner = OpenLoop(Renewal(ExponentialGaps(), 2.0), LENGTHS, 200, 0, WINDOW)
    planned = [request.arrival_s for request in inner.start()]
    served, most = play(Capped(inner, cap), lambda request: 0.2 + request.output_tokens / 20)
    sent = [request.arrival_s for request, _ in sorted(served, key=lambda pair: int(pair[0].id))]
    ends = sorted(end for _, end in served)

    assert most == cap
    # a semaphore with `cap` places: request i waits for the (i - cap + 1)-th end
    assert sent == [max(plan, ends[i - cap]) if i >= cap else plan for i, plan in enumerate(planned)]


def test_a_cap_that_is_never_reached_changes_nothing():
    inner = OpenLoop(Renewal(ConstantGaps(), 1.0), LENGTHS, 50, 0, WINDOW)
    served, _ = play(Capped(inner, 10), lambda request: 0.5)

    assert [request for request, _ in served] == list(inner.start())
    assert all(b[0].arrival_s - a[0].arrival_s == pytest.approx(1.0) for a, b in pairwise(served))
