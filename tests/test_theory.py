"""What queueing theory says, the simulator gives: in closed form where there is one, exactly where there is none.

Statistics are compared within four standard errors, estimated from independent runs; the seeds are fixed, so a
test passes always or never.
"""

import math

import numpy as np
import pytest
from simulations import PlainPrices, options, run

import llmsim
from llmsim.engine import Engine
from llmsim.fleet.routers import ROUTERS
from llmsim.kvcache.blocks import BlockPool
from llmsim.machine.clock import Clock
from llmsim.performance.step_cost import StepCost
from llmsim.random import stream
from llmsim.results.laws import gap_balance, littles_law
from llmsim.results.occupancy import time_average
from llmsim.schedulers import ContinuousBatching
from llmsim.timeline import SingleStage
from llmsim.workload.request import Request

SERVICE_S = 0.01
RUNS, CUSTOMERS, COLD = 12, 3000, 600
LONGEST = 1 << 20


class PerToken(PlainPrices):
    """A step takes ``fixed`` seconds and ``token`` seconds for each token; attention is free."""

    def __init__(self, *, fixed: float = 0.0, token: float = 0.0):
        super().__init__(fixed=fixed, token=token, context=0.0, bend=0.0)

    def mixed_attention(self, group, chunks, decodes, context_sum, longest_context):
        return 0.0, 0.0


def one_at_a_time(**changes):
    """Return options under which an engine is a single server: one request after the other, in a single step each."""
    return options(max_num_seqs=1, max_num_batched_tokens=LONGEST, max_model_len=LONGEST, cudagraph_sizes=(), **changes)


def queue(arrivals, lengths, prices) -> np.ndarray:
    """Return (waiting, sojourn) of each customer in order of arrival: [n, 2] seconds."""
    asked = [
        Request(str(number), float(arrival), int(length), 1)
        for number, (arrival, length) in enumerate(zip(arrivals, lengths, strict=True))
    ]
    records, _ = run(asked, engine=one_at_a_time(), blocks=LONGEST, prices=[prices])
    records.sort(key=lambda record: int(record.id))
    return np.array([(one.admitted_s - one.arrival_s, one.finished_s - one.arrival_s) for one in records])


def agrees(estimates, expected: float, errors: float = 4.0) -> None:
    """Check the mean of independent ``estimates`` against theory, within so many standard errors."""
    estimates = np.asarray(estimates)
    error = estimates.std(ddof=1) / math.sqrt(len(estimates))
    assert error < 0.06 * expected, "too little to tell"
    assert abs(estimates.mean() - expected) <= errors * error, (estimates.mean(), expected, error)


def poisson(random, rate: float) -> np.ndarray:
    return random.exponential(1.0 / rate, CUSTOMERS).cumsum()


# ---------------------------------------------------------------------- a single server


def waits(gaps: np.ndarray, services: np.ndarray) -> np.ndarray:
    """Return the waits of a single server, first come, first served (Lindley's recursion)."""
    wait = [0.0]
    for gap, service in zip(gaps[1:], services[:-1], strict=True):
        wait.append(max(0.0, wait[-1] + service - gap))
    return np.array(wait)


@pytest.mark.parametrize("seed", range(4))
def test_every_single_wait_is_the_one_of_lindleys_recursion(seed):
    random = np.random.default_rng(seed)
    gaps = random.gamma(0.5, 2.0, 800)
    lengths = random.integers(1, 1800, 800)
    arrivals = gaps.cumsum()
    measured = queue(arrivals, lengths, PerToken(token=1e-3))
    expected = waits(np.diff(arrivals, prepend=0.0), lengths * 1e-3)
    assert measured[:, 0] == pytest.approx(expected, abs=1e-9 * arrivals[-1])
    assert measured[:, 1] == pytest.approx(expected + lengths * 1e-3, abs=1e-9 * arrivals[-1])


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_constant_cost_and_batches_of_one_are_an_m_d_1_queue(load):
    means = []
    for replication in range(RUNS):
        random = np.random.default_rng([1, replication])
        measured = queue(poisson(random, load / SERVICE_S), np.full(CUSTOMERS, 7), PerToken(fixed=SERVICE_S))
        means.append(measured[COLD:, 0].mean())
    agrees(means, load * SERVICE_S / (2.0 * (1.0 - load)))  # Pollaczek-Khinchine


def test_exponential_lengths_are_an_m_m_1_queue():
    """The sojourn in an M/M/1 queue is exponential at rate (1 - load) / service."""
    load, token_s = 0.6, SERVICE_S / 2000.0
    sojourns = []
    for replication in range(2 * RUNS):
        random = np.random.default_rng([2, replication])
        lengths = np.maximum(1, np.rint(random.exponential(2000.0, CUSTOMERS)))
        sojourns.append(queue(poisson(random, load / SERVICE_S), lengths, PerToken(token=token_s))[COLD:, 1])
    mean = SERVICE_S / (1.0 - load)
    agrees([one.mean() for one in sojourns], mean)
    for percent in (50, 90, 99):
        agrees([np.percentile(one, percent) for one in sojourns], -mean * math.log(1.0 - percent / 100.0))


@pytest.mark.parametrize(("lengths", "chances"), [((100, 4000), (0.8, 0.2)), ((500, 600, 700), (0.2, 0.3, 0.5))])
def test_any_lengths_are_an_m_g_1_queue(lengths, chances):
    load = 0.6
    token_s = SERVICE_S / float(np.dot(lengths, chances))
    second_moment = float(np.dot(np.square(lengths), chances)) * token_s**2
    means = []
    for replication in range(2 * RUNS):
        random = np.random.default_rng([3, replication])
        drawn = random.choice(lengths, CUSTOMERS, p=chances)
        measured = queue(poisson(random, load / SERVICE_S), drawn, PerToken(token=token_s))
        means.append(measured[COLD:, 0].mean())
    agrees(means, load / SERVICE_S * second_moment / (2.0 * (1.0 - load)))  # Pollaczek-Khinchine


def test_regular_arrivals_of_exponential_lengths_are_a_d_m_1_queue():
    """The mean wait is service x s / (1 - s), where s = exp(-(1 - s) / load)."""
    load, token_s = 0.8, SERVICE_S / 2000.0
    root = 0.5
    for _ in range(200):
        root = math.exp(-(1.0 - root) / load)
    means = []
    for replication in range(RUNS):
        random = np.random.default_rng([4, replication])
        lengths = np.maximum(1, np.rint(random.exponential(2000.0, CUSTOMERS)))
        arrivals = np.arange(CUSTOMERS) * SERVICE_S / load
        means.append(queue(arrivals, lengths, PerToken(token=token_s))[COLD:, 0].mean())
    agrees(means, SERVICE_S * root / (1.0 - root))


# ---------------------------------------------------------------------- several replicas


def fleet(arrivals, count: int, router: str, service_s: float = SERVICE_S) -> np.ndarray:
    """Return the waits, in order of arrival, with ``count`` equal servers of constant service behind a router."""
    clock, records = Clock(), []
    settings = one_at_a_time()
    engines = []
    for replica in range(count):
        pool = BlockPool(LONGEST, settings.block_size, max_chunk=LONGEST)
        timeline = SingleStage(StepCost(PerToken(fixed=service_s), settings), 1)
        policy = ContinuousBatching(settings, pool)
        engines.append(Engine(replica, clock, policy, timeline, pool, settings, records.append))
    choose = ROUTERS[router](stream(0, "router"))

    def arrive(request):
        choose(request, engines).submit(request)

    for number, arrival in enumerate(arrivals):
        request = Request(str(number), float(arrival), 7, 1)
        clock.alarm(request.arrival_s, lambda _, request=request: arrive(request))
    clock.run()
    records.sort(key=lambda record: int(record.id))
    return np.array([record.admitted_s - record.arrival_s for record in records])


def erlang_wait(count: int, load: float) -> float:
    """Return the mean wait in an E_k/D/1 queue with unit service, k = ``count``, by Spitzer's identity.

    E[W] = sum over n of E[max(0, n - A_n)] / n, where A_n, the sum of n gaps, is Gamma(k n) with mean n / load.
    """
    total, rate = 0.0, count * load
    for n in range(1, 400):
        shape, end = count * n, n * rate
        # Gamma(shape) <= end is Poisson(end) >= shape; both tails from the logarithms of the Poisson terms.
        terms = np.arange(shape + 1)
        logs = terms * math.log(end) - end - np.array([math.lgamma(term + 1.0) for term in terms])
        weights = np.exp(logs)
        below, below_next = 1.0 - weights[:shape].sum(), 1.0 - weights[: shape + 1].sum()
        part = (n * below - n / load * below_next) / n
        total += part
        if part < 1e-9:
            return total
    raise AssertionError("the series did not converge")


def test_the_series_for_erlang_arrivals_gives_m_d_1_for_one_replica():
    assert erlang_wait(1, 0.5) == pytest.approx(0.5 / (2.0 * 0.5), rel=1e-5)


@pytest.mark.parametrize("count", [2, 3])
def test_poisson_arrivals_in_turn_are_erlang_arrivals_at_each_replica(count):
    """With constant service this is M/D/k too: there, customers leave in the order in which they came."""
    load, means = 0.7, []
    for replication in range(2 * RUNS):
        random = np.random.default_rng([5, replication])
        arrivals = poisson(random, count * load / SERVICE_S)
        means.append(fleet(arrivals, count, "round_robin")[COLD:].mean())
    agrees(means, SERVICE_S * erlang_wait(count, load))


def test_a_random_router_splits_a_poisson_stream_into_m_d_1_queues():
    load, means = 0.7, []
    for replication in range(2 * RUNS):
        random = np.random.default_rng([6, replication])
        means.append(fleet(poisson(random, 2 * load / SERVICE_S), 2, "random")[COLD:].mean())
    agrees(means, load * SERVICE_S / (2.0 * (1.0 - load)))


@pytest.mark.parametrize("count", [2, 5])
def test_the_shortest_queue_gets_every_request(count):
    """Exactly, arrival by arrival: the first of the replicas with the fewest that have not left before now."""
    random = np.random.default_rng(count)
    service_s = 1.0 / 128.0
    # On a grid of fractions that floats can say, so that some come exactly as others leave.
    arrivals = np.floor(poisson(random, count * 0.9 / service_s)[:1200] * 1024.0) / 1024.0
    leaves = [[-1.0] for _ in range(count)]
    expected = []
    for arrival in arrivals:
        chosen = min(leaves, key=lambda queue_: sum(moment >= arrival for moment in queue_))
        start = max(arrival, chosen[-1])
        expected.append(start - arrival)
        chosen.append(start + service_s)
    assert fleet(arrivals, count, "least_requests", service_s).tolist() == expected


# ---------------------------------------------------------------------- batches and pipelines


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_saturated_engine_gives_its_seats_a_token_each_step(asynchronous):
    seats, output = 16, 50
    asked = [Request(str(number), 0.0, 1, output) for number in range(20 * seats)]
    settings = options(max_num_seqs=seats, async_scheduling=asynchronous, cudagraph_sizes=())
    records, engine = run(asked, engine=settings, prices=[PerToken(fixed=SERVICE_S)])
    busy_s = max(record.finished_s for record in records)
    # One step for a prompt, which gives the first token, and one for every other token.
    assert busy_s == pytest.approx(20 * output * SERVICE_S, rel=1e-9)
    assert engine.steps == 20 * output


def test_a_step_formed_ahead_leaves_a_seat_empty_when_its_sequence_ends():
    """Of two seats one falls free at each step's end; the step formed before that goes without."""
    settings = options(max_num_seqs=2, async_scheduling=True, cudagraph_sizes=())
    asked = [Request("long", 0.0, 1, 100), *(Request(str(number), 0.0, 1, 1) for number in range(20))]
    records, _ = run(asked, engine=settings, prices=[PerToken(fixed=SERVICE_S)])
    ends = sorted(record.finished_s for record in records if record.id != "long")
    assert ends == pytest.approx([(1 + 2 * number) * SERVICE_S for number in range(20)])


def test_a_lone_request_takes_the_sum_of_its_decode_steps():
    prices = PlainPrices()
    settings = options()
    prompt, output = 100, 700
    [record], _ = run([Request("0", 0.0, prompt, output)], engine=settings, prices=[prices])
    cost = StepCost(prices, settings)
    steps = [cost.decode_step(1, (prompt + number,)) for number in range(1, output)]
    assert record.finished_s - record.first_token_s == pytest.approx(math.fsum(steps), rel=1e-12)
    assert record.first_token_s == cost.step([(prompt, 0)], 0, (0,), 0, 1)[0]


def pipeline(requests: int, stages: int, *, budget: int, output: int = 400):
    settings = options(
        pipeline_parallel_size=stages, max_num_batched_tokens=budget, max_num_seqs=budget, cudagraph_sizes=()
    )
    asked = [Request(str(number), 0.0, 16, output) for number in range(requests)]
    records, engine = run(asked, engine=settings, prices=[PerToken(fixed=SERVICE_S)] * stages)
    assert all(record.status == "finished" for record in records)
    return records, engine


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_a_full_pipeline_has_the_throughput_of_a_stage_and_the_latency_of_all(stages):
    """As many microbatches as stages: each leaves every stage as the next one comes in."""
    records, _ = pipeline(stages * 4, stages, budget=64)  # prompts of 16: four of them fill a step
    for record in records:
        assert (record.finished_s - record.first_token_s) / (record.output_tokens - 1) == pytest.approx(
            stages * SERVICE_S, rel=1e-9
        )
    firsts = sorted(record.first_token_s for record in records)
    assert firsts[0] == pytest.approx(stages * SERVICE_S)
    assert firsts[-1] == pytest.approx((2 * stages - 1) * SERVICE_S)
    tokens = sum(record.output_tokens for record in records)
    span_s = max(record.finished_s for record in records)
    assert tokens / span_s == pytest.approx(4 / SERVICE_S, rel=0.01)


def test_a_pipeline_with_one_microbatch_is_as_slow_as_its_stages_in_a_row():
    records, _ = pipeline(4, 2, budget=64)
    for record in records:
        assert (record.finished_s - record.first_token_s) / (record.output_tokens - 1) == pytest.approx(
            2 * SERVICE_S, rel=1e-9
        )
    tokens = sum(record.output_tokens for record in records)
    assert tokens / max(record.finished_s for record in records) == pytest.approx(2 / SERVICE_S, rel=0.01)


def test_the_slowest_stage_sets_the_pace_of_a_pipeline():
    settings = options(pipeline_parallel_size=2, max_num_batched_tokens=64, cudagraph_sizes=())
    asked = [Request(str(number), 0.0, 16, 300) for number in range(12)]  # three microbatches for two stages
    records, _ = run(asked, engine=settings, prices=[PerToken(fixed=0.01), PerToken(fixed=0.03)])
    tokens = sum(record.output_tokens for record in records)
    # Two batches are in flight at most, so each of them leaves in 2 x 0.03 seconds.
    assert tokens / max(record.finished_s for record in records) <= 4 / 0.03 * (1 + 1e-9) * 1.5
    rates = sorted((record.finished_s - record.first_token_s) / (record.output_tokens - 1) for record in records)
    assert rates[0] >= 0.04 * (1 - 1e-9)


# ---------------------------------------------------------------------- the real thing

REAL = {
    "one replica": {"model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 10, "num_prompts": 600},
    "overloaded": {
        "model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 60, "num_prompts": 400, "max_num_seqs": 32,
    },
    "three replicas": {
        "model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 30, "num_prompts": 600, "replicas": 3,
    },
    "pipeline": {
        "model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 5, "num_prompts": 300,
        "pipeline_parallel_size": 2,
    },
    "preempting": {
        "model": "llama-3.1-8b", "gpu": "h100-sxm", "request_rate": 12, "num_prompts": 200, "input_len": 600,
        "output_len": 200, "num_gpu_blocks_override": 420, "async_scheduling": False,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def real_runs():
    return {name: llmsim.simulate(llmsim.scenario(**options_)) for name, options_ in REAL.items()}


@pytest.mark.parametrize("name", REAL)
def test_littles_law_holds(name, real_runs):
    """Requests in the system, by the engines' logs, are arrival rate times sojourn, by the records.

    The log knows the queue as a batch was formed, so it misses those who come while a leap runs.
    """
    law = littles_law(real_runs[name])
    assert law.mean_in_system == pytest.approx(law.expected_in_system, rel=0.04)


@pytest.mark.parametrize("name", ["one replica", "overloaded"])
def test_littles_law_holds_closely_step_by_step(name):
    law = littles_law(llmsim.simulate(llmsim.scenario(**REAL[name]), leap=False))
    assert law.mean_in_system == pytest.approx(law.expected_in_system, rel=0.01)


@pytest.mark.parametrize("leap", [True, False])
def test_littles_law_holds_exactly_for_those_who_run(leap):
    """Without a batch formed ahead, who runs changes only as a batch begins: both sides are the same sum."""
    result = llmsim.simulate(llmsim.scenario(**REAL["one replica"], async_scheduling=False), leap=leap)
    [log] = result.steps
    span_s = max(record.finished_s for record in result.records)
    by_log = time_average(log, log.columns()["running"], span_s)
    by_records = sum(record.finished_s - record.admitted_s for record in result.records) / span_s
    assert by_log == pytest.approx(by_records, rel=1e-9)


def test_littles_law_holds_closely_for_those_who_run_with_a_batch_formed_ahead():
    logs = {leap: llmsim.simulate(llmsim.scenario(**REAL["one replica"]), leap=leap).steps[0] for leap in (True, False)}
    mean = {leap: time_average(log, log.columns()["running"], 1.0) for leap, log in logs.items()}
    assert mean[True] == pytest.approx(mean[False], rel=0.005)


@pytest.mark.parametrize("name", REAL)
def test_gaps_between_tokens_add_up_to_the_records(name, real_runs):
    balance = gap_balance(real_runs[name])
    assert balance.logged_tokens == balance.recorded_tokens
    assert balance.logged_s == pytest.approx(balance.recorded_s, rel=1e-5)
