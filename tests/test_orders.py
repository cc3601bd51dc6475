"""Shortest first and earliest deadline: cases by hand, theory, and what they have in common with priorities."""

import math
from dataclasses import astuple, replace
from functools import partial
from itertools import permutations

import numpy as np
import pytest
from simulations import PlainPrices, options, run
from test_leaping import scenario

from llmsim.errors import ScenarioError
from llmsim.kvcache.blocks import BlockPool
from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.orders.prediction import LengthPredictor
from llmsim.workload.request import Request

QUARTER = PlainPrices(fixed=0.25, token=0.0, context=0.0, bend=0.0)  # every step takes a quarter of a second


def served(requests, name, *, seats: int = 1, **settings):
    """Return the ids in order of admission, and the waits in seconds by id."""
    scheduler = partial(SCHEDULERS[name], **settings)
    records, _ = run(requests, engine=options(max_num_seqs=seats), prices=[QUARTER], scheduler=scheduler)
    records.sort(key=lambda record: record.admitted_s)
    return "".join(record.id for record in records), {
        record.id: record.admitted_s - record.arrival_s for record in records
    }


# ---------------------------------------------------------------------- shortest job first, by hand


def test_a_queue_of_three_is_served_shortest_first():
    """Answers of 4, 1 and 2 tokens, one seat: an answer of n tokens takes n steps.

    Shortest first: B at 0, C at 0.25, A at 0.75, mean wait 1/3 s.  vLLM: A at 0, B at 1, C at 1.25, mean 3/4 s.
    Smith (1956): no other order of the three has a lower mean than the first.
    """
    requests = [Request("A", 0.0, 8, 4), Request("B", 0.0, 8, 1), Request("C", 0.0, 8, 2)]
    order, waits = served(requests, "shortest_job_first")
    assert order == "BCA"
    assert waits == pytest.approx({"A": 0.75, "B": 0.0, "C": 0.25}, abs=1e-5)
    order, waits = served(requests, "continuous")
    assert order == "ABC"
    assert waits == pytest.approx({"A": 0.0, "B": 1.0, "C": 1.25}, abs=1e-5)


@pytest.mark.parametrize(("aging", "order"), [(0.0, "ACB"), (10.0, "ACB"), (449.0, "ACB"), (451.0, "ABC")])
def test_waiting_makes_up_for_length(aging, order):
    """B asks for 45 tokens more than C and came 0.1 s before it: it goes first if a second is worth 450 tokens."""
    requests = [Request("A", 0.0, 8, 20), Request("B", 0.1, 8, 50), Request("C", 0.2, 8, 5)]
    assert served(requests, "shortest_job_first", aging_tokens_per_s=aging)[0] == order


def test_without_aging_a_long_request_starves_and_with_it_it_does_not():
    """Short ones come as fast as they are served: 40 tokens are passed by all of them, or by those of 4 s."""
    requests = [Request("L", 0.0, 8, 40), Request("0", 0.0, 8, 2)]
    requests += [Request(str(number), 0.5 * number - 0.1, 8, 2) for number in range(1, 60)]
    _, waits = served(requests, "shortest_job_first", aging_tokens_per_s=0.0)
    assert waits["L"] == pytest.approx(30.0, abs=1e-3)  # all sixty
    _, waits = served(requests, "shortest_job_first", aging_tokens_per_s=10.0)
    # 40 tokens are 2 + 10 x 3.8: whoever comes up to then passes, which are the numbers 0 to 7.
    assert waits["L"] == pytest.approx(4.0, abs=1e-3)


@pytest.mark.parametrize(("name", "who"), [("continuous", "A"), ("shortest_job_first", "B")])
def test_the_longest_gives_way_where_vllm_takes_the_last(name, who):
    """B (100 tokens) and A (60), a step behind it, hold 4 blocks each, of 8, when B wants a fifth.

    vLLM preempts the last admitted, A, for it; shortest first preempts the longest, B itself.
    """
    requests = [Request("B", 0.0, 16, 100), Request("A", 0.1, 16, 60)]
    records, _ = run(requests, blocks=8, scheduler=name, prices=[QUARTER])
    assert {record.id: record.preemptions for record in records} == {"A": 0, "B": 0} | {who: 1}


def test_what_remains_counts_for_a_request_that_comes_back():
    """L was preempted for S with most of its answer done, and waits beside N, which came meanwhile.

    Of L's 70 tokens 49 have come, so 21 remain: less than N's 40.
    """
    requests = [Request("L", 0.0, 16, 70), Request("S", 0.0, 16, 60), Request("N", 12.4, 16, 40)]
    admitted = {}
    for by in ("output", "remaining"):
        again = []

        class Watched(SCHEDULERS["shortest_job_first"]):
            def next_batch(self, again=again):
                batch = super().next_batch()
                again.extend(sequence.request.id for sequence in getattr(batch, "admitted", ()))
                return batch

        scheduler = partial(Watched, by=by, aging_tokens_per_s=0.0)
        engine = options(max_num_seqs=2, watermark=0.4)
        run(requests, blocks=8, scheduler=scheduler, prices=[QUARTER], engine=engine)
        admitted[by] = "".join(again)
    # By the whole answer N (40) goes before L (70); what remains of L comes before N.
    assert admitted == {"output": "SLNL", "remaining": "SLLN"}


# ---------------------------------------------------------------------- predictions


def test_a_prediction_belongs_to_its_request():
    requests = [Request(str(number), 0.0, 8, 500) for number in range(20)]
    predictor = LengthPredictor(3, 0.7, 0, 10**6)
    forward = {request.id: predictor.output_tokens(request) for request in requests}
    backward = {request.id: LengthPredictor(3, 0.7, 0, 10**6).output_tokens(request) for request in requests[::-1]}
    assert forward == backward
    assert len(set(forward.values())) > 15
    other = LengthPredictor(4, 0.7, 0, 10**6)
    assert sum(other.output_tokens(request) == forward[request.id] for request in requests) < 3


def test_errors_have_the_spread_that_was_asked_for():
    """The logarithm of predicted by true length is normal with mean 0: four standard errors either way."""
    count, sigma = 3000, 0.6
    predictor = LengthPredictor(0, sigma, 0, 10**12)
    logs = np.log([predictor.output_tokens(Request(str(n), 0.0, 1, 10**7)) / 10**7 for n in range(count)])
    assert abs(logs.mean()) < 4 * sigma / math.sqrt(count)
    assert abs(logs.std() / sigma - 1.0) < 4 / math.sqrt(2 * count)


@pytest.mark.parametrize(("tokens", "known"), [(1, 50), (50, 50), (51, 100), (199, 200)])
def test_buckets_are_known_by_their_upper_end(tokens, known):
    assert LengthPredictor(0, 0.0, 50, 4096).output_tokens(Request("0", 0.0, 1, tokens)) == known


def test_requests_of_one_bucket_are_served_as_they_came():
    requests = [Request("A", 0.0, 8, 60), Request("B", 0.0, 8, 40), Request("C", 0.0, 8, 20), Request("D", 0.0, 8, 90)]
    assert served(requests, "shortest_job_first", bucket_tokens=50)[0] == "BCAD"


def test_an_oracle_is_exact():
    assert LengthPredictor(0, 0.0, 0, 4096).output_tokens(Request("0", 0.0, 1, 321)) == 321


# ---------------------------------------------------------------------- theory

STEP_S, SHORT, LONG, OFTEN = 0.001, 5, 80, 0.8
RUNS, CUSTOMERS, COLD = 12, 1500, 300


def queue(random, load: float, name: str, **settings):
    """Return (waits, tokens) of customers of a single server, whose service is ``STEP_S`` a token."""
    tokens = np.where(random.random(CUSTOMERS) < OFTEN, SHORT, LONG)
    mean = STEP_S * (OFTEN * SHORT + (1 - OFTEN) * LONG)
    arrivals = random.exponential(mean / load, CUSTOMERS).cumsum()
    requests = [
        Request(str(n), float(at), 1, int(size)) for n, (at, size) in enumerate(zip(arrivals, tokens, strict=True))
    ]
    prices = [PlainPrices(fixed=STEP_S, token=0.0, context=0.0, bend=0.0)]
    records, _ = run(
        requests, engine=options(max_num_seqs=1), prices=prices, scheduler=partial(SCHEDULERS[name], **settings)
    )
    records.sort(key=lambda record: int(record.id))
    return np.array([record.admitted_s - record.arrival_s for record in records])[COLD:], tokens[COLD:]


def agrees(estimates, expected: float) -> None:
    """Check the mean of independent ``estimates`` against theory, within four standard errors."""
    estimates = np.asarray(estimates)
    error = estimates.std(ddof=1) / math.sqrt(len(estimates))
    assert error < 0.1 * expected, "too little to tell"
    assert abs(estimates.mean() - expected) <= 4.0 * error, (estimates.mean(), expected, error)


def test_two_lengths_wait_as_cobham_says():
    """M/G/1 with two classes, the short one first, nobody interrupted (Cobham, Operations Research 2, 1954).

    With W0 = rate E[S^2] / 2 the short wait W0 / (1 - r) and the long W0 / ((1 - r)(1 - load)), where r is the
    load of the short.  First come, first served: both W0 / (1 - load), which is more on average.
    """
    load = 0.7
    mean = STEP_S * (OFTEN * SHORT + (1 - OFTEN) * LONG)
    second = STEP_S**2 * (OFTEN * SHORT**2 + (1 - OFTEN) * LONG**2)
    rate = load / mean
    rest = rate * second / 2.0
    short_load = rate * OFTEN * SHORT * STEP_S
    short, long, plain = [], [], []
    for replication in range(RUNS):
        waits, tokens = queue(
            np.random.default_rng([8, replication]), load, "shortest_job_first", aging_tokens_per_s=0.0
        )
        short.append(waits[tokens == SHORT].mean())
        long.append(waits[tokens == LONG].mean())
        plain.append(queue(np.random.default_rng([8, replication]), load, "continuous")[0].mean())
    agrees(short, rest / (1.0 - short_load))
    agrees(long, rest / ((1.0 - short_load) * (1.0 - load)))
    agrees(plain, rest / (1.0 - load))


def test_the_worse_the_predictions_the_longer_the_wait():
    means = {}
    for error in (0.0, 1.5, 10.0):
        means[error] = np.mean(
            [
                queue(
                    np.random.default_rng([9, replication]), 0.8, "shortest_job_first",
                    aging_tokens_per_s=0.0, prediction_error=error, seed=replication,
                )[0].mean()
                for replication in range(6)
            ]
        )  # fmt: skip
    plain = np.mean(
        [queue(np.random.default_rng([9, replication]), 0.8, "continuous")[0].mean() for replication in range(6)]
    )
    assert means[0.0] < 0.95 * means[1.5]
    assert means[1.5] < 0.95 * plain
    assert means[10.0] < 1.2 * plain  # predictions that say nothing: an order at random, with the same mean wait


# ---------------------------------------------------------------------- earliest deadline


def test_the_earliest_deadline_goes_first_and_none_goes_last():
    requests = [
        Request("A", 0.0, 8, 2),
        Request("B", 0.0, 8, 2, deadline_s=9.0),
        Request("C", 0.0, 8, 2, deadline_s=3.0),
        Request("D", 0.1, 8, 2),
        Request("E", 0.4, 8, 2, deadline_s=2.0),
    ]
    # E comes while C runs, which is not interrupted.
    assert served(requests, "earliest_deadline")[0] == "CEBAD"
    assert served(requests, "continuous")[0] == "ABCDE"
    # 2 s from their arrival: A at 2.0, D at 2.1; E's 2.0 came later than A's.
    assert served(requests, "earliest_deadline", default_slack_s=2.0)[0] == "AEDCB"


def test_a_deadline_that_has_passed_is_still_the_earliest():
    late = Request("C", 0.2, 8, 2, deadline_s=0.3)
    requests = [Request("A", 0.0, 8, 4), Request("B", 0.1, 8, 2, deadline_s=5.0), late]
    assert served(requests, "earliest_deadline")[0] == "ACB"


@pytest.mark.parametrize(("name", "who"), [("continuous", "A"), ("earliest_deadline", "B")])
def test_the_latest_deadline_gives_way(name, who):
    """As above: vLLM preempts the last admitted, A, and this rule the later deadline, B."""
    requests = [Request("B", 0.0, 16, 100, deadline_s=9.0), Request("A", 0.1, 16, 60, deadline_s=8.0)]
    records, _ = run(requests, blocks=8, scheduler=name, prices=[QUARTER])
    assert {record.id: record.preemptions for record in records} == {"A": 0, "B": 0} | {who: 1}


@pytest.mark.parametrize("seed", range(6))
def test_no_order_has_less_maximum_lateness(seed):
    """Jackson (1955): with everybody there, on one server.  All 120 orders of five requests are tried."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, 12, 5).tolist()
    deadlines = random.uniform(0.0, 8.0, 5).tolist()
    requests = [
        Request(str(number), 0.0, 8, size, deadline_s=deadline)
        for number, (size, deadline) in enumerate(zip(sizes, deadlines, strict=True))
    ]
    records, _ = run(requests, engine=options(max_num_seqs=1), prices=[QUARTER], scheduler="earliest_deadline")
    measured = max(record.finished_s - deadlines[int(record.id)] for record in records)

    def lateness(order) -> float:
        ends = np.cumsum([0.25 * sizes[number] for number in order])
        return max(end - deadlines[number] for end, number in zip(ends, order, strict=True))

    assert measured == pytest.approx(min(map(lateness, permutations(range(5)))), abs=1e-4)


# ---------------------------------------------------------------------- what they share with vLLM's priorities


@pytest.mark.parametrize("seed", range(40))
def test_an_oracle_is_the_priority_policy_with_lengths_as_priorities(seed):
    drawn = scenario(seed)
    drawn["requests"] = [replace(request, priority=request.output_tokens) for request in drawn["requests"]]
    by_priority = drawn | {"engine": replace(drawn["engine"], scheduling_policy="priority")}
    drawn["engine"] = replace(drawn["engine"], scheduling_policy="fcfs")
    ours, _ = run(**drawn, scheduler=partial(SCHEDULERS["shortest_job_first"], aging_tokens_per_s=0.0))
    theirs, _ = run(**by_priority)
    assert [astuple(record) for record in ours] == [astuple(record) for record in theirs]


@pytest.mark.parametrize("seed", range(40))
def test_deadlines_are_priorities(seed):
    drawn = scenario(seed)
    drawn["requests"] = [
        replace(request, deadline_s=None if request.priority == 2 else float(request.priority))
        for request in drawn["requests"]
    ]
    by_priority = drawn | {"engine": replace(drawn["engine"], scheduling_policy="priority")}
    drawn["engine"] = replace(drawn["engine"], scheduling_policy="fcfs")
    ours, _ = run(**drawn, scheduler="earliest_deadline")
    theirs, _ = run(**by_priority)
    assert [astuple(record) for record in ours] == [astuple(record) for record in theirs]


# ---------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("shortest_job_first", {"prediction_error": -1.0}, "scheduler.prediction_error: .* at least 0 .got -1"),
        ("shortest_job_first", {"aging_tokens_per_s": math.inf}, "scheduler.aging_tokens_per_s: .*got inf"),
        ("shortest_job_first", {"bucket_tokens": -5}, "scheduler.bucket_tokens"),
        ("earliest_deadline", {"default_slack_s": -0.1}, "scheduler.default_slack_s"),
        ("fair", {"input_weight": math.nan}, "scheduler.input_weight"),
        ("fair", {"output_weight": -2.0}, "scheduler.output_weight"),
        ("fair", {"input_weight": 0.0, "output_weight": 0.0}, "needs a weight above 0"),
    ],
)
def test_bad_settings_are_refused(name, settings, message):
    with pytest.raises(ScenarioError, match=message):
        SCHEDULERS[name](options(), BlockPool(10, 16), **settings)


@pytest.mark.parametrize("name", ["shortest_job_first", "fair", "earliest_deadline"])
def test_priorities_beside_another_order_are_refused(name):
    with pytest.raises(ScenarioError, match=r"engine.scheduling_policy: .* has an order of its own"):
        SCHEDULERS[name](options(scheduling_policy="priority"), BlockPool(10, 16))
