"""Fair sharing between tenants by virtual token counters: cases by hand, and the paper's bound."""

import random
from collections import Counter
from dataclasses import astuple, replace
from functools import partial

import pytest
from simulations import PlainPrices, options, run
from test_leaping import scenario

from llmsim.schedulers import SCHEDULERS
from llmsim.schedulers.orders.fair import FairSharing
from llmsim.schedulers.orders.progress import scheduled_output
from llmsim.workload.request import Request

QUARTER = PlainPrices(fixed=0.25, token=0.0, context=0.0, bend=0.0)  # every step takes a quarter of a second


def asked(names: str, arrival_s: float = 0.0, first: int = 1) -> list[Request]:
    """Return requests of 10 prompt and 5 output tokens; "AB" are A1 and B1 of tenants A and B."""
    numbers: Counter = Counter()
    requests = []
    for tenant in names:
        requests.append(Request(f"{tenant}{first + numbers[tenant]}", arrival_s, 10, 5, tenant=tenant))
        numbers[tenant] += 1
    return requests


def order(requests, name: str = "fair", **settings) -> str:
    """Return the ids in order of admission, with one seat."""
    scheduler = partial(SCHEDULERS[name], **settings)
    records, _ = run(requests, engine=options(max_num_seqs=1), prices=[QUARTER], scheduler=scheduler)
    return " ".join(record.id for record in sorted(records, key=lambda record: record.admitted_s))


def test_the_tenant_with_the_least_service_goes_first():
    """A request costs its tenant 10 x 1 + 5 x 2 = 20.

    A1 goes first (both counters 0, it came first); then A stands at 20 and B at 0, so B1; then both at 20: A2.
    vLLM serves them as they came.
    """
    assert order(asked("AAAB")) == "A1 B1 A2 A3"
    assert order(asked("AAAB"), "continuous") == "A1 A2 A3 B1"


def test_weights_say_what_a_token_costs():
    """B's requests have 40 prompt tokens and 1 output token, A's 1 and 20."""
    requests = [Request(f"A{n}", 0.0, 1, 20, tenant="A") for n in (1, 2, 3)]
    requests += [Request(f"B{n}", 0.0, 40, 1, tenant="B") for n in (1, 2, 3)]
    # By output alone a request of B costs 1 and one of A 20: all of B's are served before A's second.
    assert order(requests, input_weight=0.0, output_weight=1.0) == "A1 B1 B2 B3 A2 A3"
    # By input alone it is 40 against 1: A2 and A3 follow B1.
    assert order(requests, input_weight=1.0, output_weight=0.0) == "A1 B1 A2 A3 B2 B3"


def test_who_comes_back_is_lifted_to_the_least_of_those_who_wait():
    """B comes at 3.0 s, with the third step of A3; A stands at 20 + 20 + 10 + 2 x 2 = 54 then, and so does B.

    A3 ends: 60 against 54, so B1 (74), A4 (80), B2 (94), A5, B3, A6.  From 0, B would have had three in a row.
    """
    requests = [*asked("AAAAAA"), *asked("BBB", arrival_s=3.0)]
    assert order(requests) == "A1 A2 A3 B1 A4 B2 A5 B3 A6"


def test_where_nobody_waits_the_level_is_that_of_who_left_the_queue_last():
    """A3 runs from 2.5 s on and nobody waits when B comes; the decision at 2.75 s finds A at 20 + 20 + 10 + 2 = 52.

    B is lifted to 52, and A, which comes next, stays there.  A3 ends: 60 against 52, so B1 (72), A4 (80), B2, A5, B3.
    """
    requests = [*asked("AAA"), *asked("BBB", 2.6), *asked("AA", 2.7, first=4)]
    assert order(requests) == "A1 A2 A3 B1 A4 B2 A5 B3"


def test_requests_without_a_tenant_are_one_tenant():
    requests = [replace(request, tenant=None if request.tenant == "A" else "B") for request in asked("AAAB")]
    assert order(requests) == "A1 B1 A2 A3"


@pytest.mark.parametrize("seed", range(60))
def test_one_tenant_is_served_as_by_vllm(seed):
    drawn = scenario(seed)
    drawn["engine"] = replace(drawn["engine"], scheduling_policy="fcfs")
    ours, _ = run(**drawn, scheduler="fair")
    theirs, _ = run(**drawn)
    assert [astuple(record) for record in ours] == [astuple(record) for record in theirs]


class Audited(FairSharing):
    """Keeps books of its own: service by tenant at every decision at which both tenants wait."""

    def __init__(self, engine_options, pool, *, audit, **settings):
        super().__init__(engine_options, pool, leap=False, **settings)
        self.audit, self.weights = audit, (settings["input_weight"], settings["output_weight"])
        self.seen: dict = {}  # sequence -> output tokens when last looked at, of all that were ever admitted
        self.queued: Counter = Counter()

    def add(self, sequence):
        self.queued[sequence.request.tenant] += 1
        return super().add(sequence)

    def next_batch(self):
        batch = super().next_batch()
        for sequence in getattr(batch, "admitted", ()):
            self.queued[sequence.request.tenant] -= 1
            self.seen[sequence] = 0
        service: Counter = Counter()
        for sequence in self.seen:
            service[sequence.request.tenant] += self.weights[0] * sequence.request.prompt_tokens
            service[sequence.request.tenant] += self.weights[1] * scheduled_output(sequence)
        if self.queued["A"] and self.queued["B"]:
            self.audit.append(service["A"] - service["B"])
        return batch


def backlog(seed: int) -> list[Request]:
    """Draw two tenants that have everything there at once; A asks four times as often, B for other lengths."""
    draw = random.Random(seed)
    requests = [Request(f"A{n}", 0.0, draw.randint(1, 200), draw.randint(1, 40), tenant="A") for n in range(120)]
    requests += [Request(f"B{n}", 0.0, draw.randint(1, 30), draw.randint(1, 200), tenant="B") for n in range(60)]
    draw.shuffle(requests)
    return requests


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, 0.5)])
@pytest.mark.parametrize("seed", range(8))
def test_two_with_a_backlog_differ_by_no_more_than_the_papers_bound(seed, weights):
    """|W_A - W_B| over any time in which both wait is at most 2 max(w_p L_input, w_q M): Sheng et al., OSDI 2024.

    M is what the cache holds: 50 blocks of 16 tokens, with room for everybody who has a seat.
    """
    audit: list[float] = []
    settings = {"input_weight": weights[0], "output_weight": weights[1], "audit": audit}
    engine = options(max_num_seqs=3, max_num_batched_tokens=256)
    records, replica = run(backlog(seed), engine=engine, blocks=50, scheduler=partial(Audited, **settings))
    assert len(records) == 180
    assert replica.preemptions == 0
    bound = 2.0 * max(weights[0] * 200, weights[1] * 50 * 16)
    total = sum(weights[0] * record.prompt_tokens + weights[1] * record.output_tokens for record in records)
    assert total > 6.0 * bound  # the bound is worth something
    assert len(audit) > 500
    assert max(audit) - min(audit) <= bound  # over every stretch of the time in which both wait


def test_the_bound_is_what_first_come_first_served_breaks():
    """The same two tenants under vLLM's order, which sees no tenants: A, with five times the requests, gets ahead.

    Everything is there at once, so both wait up to the moment at which B's last request is admitted.
    """
    draw = random.Random(1)
    requests = [Request(f"A{n}", 0.0, 100, 40, tenant="A") for n in range(150)]
    requests += [Request(f"B{n}", 0.0, 100, 40, tenant="B") for n in range(30)]
    draw.shuffle(requests)
    bound = 2.0 * max(100, 2.0 * 50 * 16)
    gaps = {}
    for name in ("continuous", "fair"):
        records, _ = run(requests, engine=options(max_num_seqs=3), blocks=50, scheduler=name)
        last_b = max(record.admitted_s for record in records if record.tenant == "B")
        before = Counter(record.tenant for record in records if record.admitted_s < last_b)
        gaps[name] = abs(before["A"] - before["B"]) * (100 + 2 * 40)
    assert gaps["fair"] <= bound < gaps["continuous"]


def test_a_light_tenant_is_not_hurt_by_a_flood():
    """B asks now and then; A floods.  B waits for the seat that falls free next, and A's longest wait hardly grows."""
    flood = [Request(f"A{n}", 0.0, 64, 40, tenant="A") for n in range(100)]
    light = [Request(f"B{n}", 0.5 + n, 64, 10, tenant="B") for n in range(8)]
    waits = {}
    for name in ("continuous", "fair"):
        records, _ = run([*flood, *light], engine=options(max_num_seqs=4), scheduler=name)
        waits[name] = {
            tenant: max(record.admitted_s - record.arrival_s for record in records if record.tenant == tenant)
            for tenant in "AB"
        }
    assert waits["fair"]["B"] < 0.5 < 5.0 < waits["continuous"]["B"]
    assert waits["fair"]["A"] < 1.1 * waits["continuous"]["A"]


def test_preempted_work_is_not_charged_again():
    """One tenant's counter is 1 for each prompt token and 2 for each output token, however often it was preempted."""
    policies = []

    def watched(engine_options, pool):
        policies.append(FairSharing(engine_options, pool))
        return policies[0]

    requests = [Request(str(n), 0.0, 20, 60, tenant="AB"[n % 2]) for n in range(8)]
    engine = options(max_num_seqs=8, scheduler_reserve_full_isl=False)
    _, replica = run(requests, engine=engine, blocks=12, scheduler=watched)
    assert replica.preemptions > 3
    assert sum(policies[0].service().values()) == 8 * (20 + 2 * 60)
    assert abs(policies[0].service()["A"] - policies[0].service()["B"]) == 0


def test_weights_that_no_float_can_say_are_charged_exactly():
    """A tenth for ten tokens is one, in one step or in ten."""
    policy = None

    def watched(engine_options, pool):
        nonlocal policy
        policy = FairSharing(engine_options, pool, input_weight=0.1, output_weight=0.3)
        return policy

    run(asked("AB"), scheduler=watched)
    assert policy.service() == {"A": 2.5, "B": 2.5}
    assert policy.waiting.unit == 10
