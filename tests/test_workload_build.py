"""From a scenario's workload section to requests: defaults, every kind and dataset, and errors with their place."""

import numpy as np
import pytest

from llmsim.errors import LlmsimError
from llmsim.workload.build import build
from llmsim.workload.spec import WorkloadSpec

KINDS = [
    {"request_rate": 8},
    {"request_rate": "inf"},
    {"request_rate": 8, "burstiness": 0.5},
    {"request_rate": 8, "burstiness": float("inf")},
    {"request_rate": 8, "cv": 2.0},
    {"kind": "poisson", "request_rate": 8},
    {"kind": "gamma", "request_rate": 8, "cv": 0.5},
    {"kind": "weibull", "request_rate": 8, "cv": 2.0},
    {"kind": "weibull", "request_rate": 8, "shape": 0.7},
    {"kind": "constant", "request_rate": 8},
    {"kind": "poisson", "ramp_up_strategy": "linear", "ramp_up_start_rps": 4, "ramp_up_end_rps": 12},
    {"kind": "mmpp", "rates": [2, 14], "transition": [[0.5, 0.5], [0.5, 0.5]]},
    {"kind": "mmpp", "rates": [2, 14], "generator": [[-0.5, 0.5], [0.5, -0.5]], "request_rate": 8},
    {"kind": "mmpp", "rates": [1, 10], "mean_stay_s": [5.0, 5.0], "request_rate": 8},
    {"kind": "mmpp", "fit": "code-azure-2023", "request_rate": 8},
    {"kind": "markov_renewal", "fit": "code-azure-2023"},
    {
        "kind": "diurnal",
        "request_rate": 8,
        "peak_to_trough": 10,
        "peak_hour": 14,
        "weekend": 0.3,
        "start_day": "friday",
    },
    {"kind": "diurnal", "request_rate": 8, "profile": "consumer-chat", "start_hour": 9, "cv": 2.0},
    {"kind": "diurnal", "request_rate": 8, "profile": [1, 2, 3], "gaps": "weibull", "cv": 1.5},
    {"kind": "rate_table", "rates": [4, 12], "step_s": 10, "repeat": True},
    {"kind": "rate_table", "rates": [4, 12], "durations_s": [10, 20], "repeat": True, "request_rate": 8},
    {"kind": "batch", "request_rate": 8, "mean_batch": 4},
    {"kind": "all_at_once"},
    {"kind": "vllm", "request_rate": 8, "burstiness": 0.5},
    {"kind": "vllm", "ramp_up_strategy": "exponential", "ramp_up_start_rps": 4, "ramp_up_end_rps": 12},
]
DATASETS = [
    {"name": "random", "input_len": 100, "output_len": 10, "range_ratio": 0.3},
    {"name": "random", "input_len": 100, "output_len": 10, "range_ratio": {"input": 0.3, "output": 0.1}},
    {"name": "random", "prefix_len": 64, "special_tokens": 1},
    {"name": "vllm_random", "input_len": 100, "output_len": 10, "range_ratio": 0.3},
    {"name": "prefix_repetition"},
    {"name": "fixed", "prompt": 512, "output": 64},
    {"name": "fixed", "input_len": 512, "output_len": 64},
    {"name": "uniform", "prompt": {"low": 10, "high": 20}, "output": {"low": 1, "high": 5}},
    {"name": "lognormal", "prompt": {"mean": 500, "sd": 600, "max": 4000}, "output": {"median": 100, "sigma": 1}},
    {"name": "lognormal", "prompt": {"mu": 5, "sigma": 1}, "output": {"mean": 100, "sigma": 1}, "correlation": 0.5},
    {"name": "exponential", "prompt": {"mean": 500}, "output": {"mean": 100}},
    {"name": "normal", "prompt": {"mean": 500, "sd": 50}, "output": {"distribution": "empirical", "values": [5, 6]}},
    {
        "name": "lengths",
        "prompt": {
            "distribution": "mixture",
            "parts": [{"weight": 1, "mu": 4, "sigma": 1}, {"weight": 2, "distribution": "fixed", "value": 9}],
        },
        "output": {"distribution": "quantiles", "percent": [0, 50, 100], "values": [1, 10, 1000]},
        "shared_prefix": {"count": 3, "tokens": 64, "zipf": 1.1},
    },
    {"name": "lengths", "prompt": {"distribution": "table", "table": "chat-azure-2023"}, "output": 5},
    {"name": "table", "table": "chat-azure-2023", "max_tokens": 5000},
    {"name": "table", "table": "chat-azure-2023", "conditional": False, "correlation": 0.2},
]


def made(seed=0, max_model_len=10**6, **fields):
    return build(WorkloadSpec(**fields), seed=seed, max_model_len=max_model_len)


def test_nothing_given_is_what_vllm_bench_does():
    workload = made()
    requests = list(workload.start())

    assert len(requests) == workload.expected_requests == 1000
    assert {(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in requests} == {(0.0, 1024, 128)}


@pytest.mark.parametrize("arrival", KINDS, ids=str)
def test_every_kind_of_arrival_gives_the_number_of_requests(arrival):
    workload = made(arrival=arrival, num_prompts=3000)
    requests = list(workload.start())
    times = np.array([request.arrival_s for request in requests])

    assert [request.id for request in requests] == [str(number) for number in range(3000)]
    assert (np.diff(times) >= 0.0).all()
    loose = arrival.get("kind") in ("markov_renewal", "diurnal", "mmpp") or "ramp_up_strategy" in arrival
    assert times[-1] == 0.0 or loose or 3000 / times[-1] == pytest.approx(8.0, rel=0.15)
    assert list(workload.start()) == requests


@pytest.mark.parametrize("dataset", DATASETS, ids=str)
def test_every_dataset_gives_lengths(dataset):
    workload = made(dataset=dataset, num_prompts=500)
    requests = list(workload.start())

    assert len(requests) == 500
    assert all(request.prompt_tokens >= 1 and request.output_tokens >= 1 for request in requests)
    assert list(workload.start()) == requests


def test_arrivals_and_lengths_have_streams_of_their_own():
    one = list(made(arrival={"request_rate": 8}, dataset={"name": "random", "range_ratio": 0.5}).start())
    other = list(made(arrival={"request_rate": 8, "cv": 3.0}, dataset={"name": "random", "range_ratio": 0.5}).start())
    third = list(made(arrival={"request_rate": 8}, dataset={"name": "fixed", "prompt": 5, "output": 6}).start())

    assert [r.prompt_tokens for r in one] == [r.prompt_tokens for r in other]
    assert [r.arrival_s for r in one] == [r.arrival_s for r in third]


def test_a_longer_run_begins_with_the_shorter_one():
    fields = {"arrival": {"request_rate": 8}, "dataset": {"name": "random", "range_ratio": 0.5}}

    assert list(made(**fields, num_prompts=5000).start())[:700] == list(made(**fields, num_prompts=700).start())


def test_seeds_differ():
    assert list(made(seed=0, arrival={"request_rate": 8}).start()) != list(
        made(seed=1, arrival={"request_rate": 8}).start()
    )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"arrival": {"request_rate": 8}}, "open loop, Poisson 8.00 req/s, 1000 requests"),
        ({"arrival": {"request_rate": 8}, "num_prompts": 5}, "5 requests, lengths: prompt 1024, output 128 tokens"),
        ({"closed_loop": {"concurrency": 64}}, "closed loop, concurrency 64, 1000 requests"),
        ({"closed_loop": {"concurrency": 2, "think_time_s": 1.5}}, "think time 1.5 s"),
        ({"arrival": {"request_rate": 8, "max_concurrency": 3}}, "Poisson 8.00 req/s, 1000 requests"),
        ({"arrival": {"request_rate": 8, "max_concurrency": 3}}, "at most 3 in flight"),
        ({"arrival": {"request_rate": 8}, "closed_loop": {"concurrency": 3}}, "at most 3 in flight"),
    ],
)
def test_the_description_says_what_it_is(fields, words):
    assert words in made(**fields).description


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_prompts": 0}, "workload.num_prompts: must be at least 1 (got 0)"),
        ({"arrival": {"request_rate": -1}}, "workload.arrival.request_rate: must be more than 0 (got -1)"),
        ({"arrival": {"request_rate": "fast"}}, "workload.arrival.request_rate: must be a number (got 'fast')"),
        (
            {"arrival": {"kind": "poison", "request_rate": 1}},
            "workload.arrival.kind: is not known (got 'poison')\nhint: one of",
        ),
        ({"arrival": {"kind": "poisson"}}, "workload.arrival.request_rate: is required"),
        (
            {"arrival": {"request_rat": 1}},
            "workload.arrival.request_rat: unknown option\nhint: did you mean request_rate?",
        ),
        ({"arrival": {"kind": "poisson", "request_rate": 1, "cv": 2}}, "poisson arrivals have no cv"),
        ({"arrival": {"kind": "gamma", "request_rate": 1}}, "gamma arrivals need burstiness"),
        ({"arrival": {"kind": "gamma", "request_rate": 1, "cv": 1, "burstiness": 1}}, "excludes burstiness"),
        ({"arrival": {"kind": "weibull", "request_rate": 1}}, "either cv or shape"),
        ({"arrival": {"kind": "weibull", "request_rate": 1, "cv": 1e9}}, "workload.arrival: a Weibull CV"),
        ({"arrival": {"kind": "mmpp"}}, "workload.arrival.rates: is required"),
        ({"arrival": {"kind": "mmpp", "rates": [1, 2], "transition": [[1, 1], [0, 1]]}}, "adds up to 1"),
        ({"arrival": {"kind": "mmpp", "rates": [1, 2, 3], "transition": [[1, 0], [0, 1]]}}, "3 x 3"),
        ({"arrival": {"kind": "mmpp", "fit": "api-servegen-large"}}, "has no mmpp arrivals"),
        ({"arrival": {"kind": "mmpp", "fit": "nothing"}}, "unknown name 'nothing'"),
        ({"arrival": {"kind": "diurnal", "request_rate": 1, "profile": "nowhere"}}, "one of consumer-chat"),
        ({"arrival": {"kind": "rate_table", "rates": [0, 0]}}, "all of them zero"),
        ({"arrival": {"kind": "rate_table", "rates": [1], "durations_s": [1, 2]}}, "one for each of the 1 rates"),
        ({"arrival": {"kind": "all_at_once", "request_rate": 3}}, "means nothing when everything comes at once"),
        ({"dataset": {"name": "randm"}}, "workload.dataset.name: is not known (got 'randm')"),
        (
            {"dataset": {"name": "random", "input_len": 1.5}},
            "workload.dataset.input_len: must be a whole number (got 1.5)",
        ),
        ({"dataset": {"name": "random", "range_ratio": 1.0}}, "workload.dataset.range_ratio: must be less than 1"),
        ({"dataset": {"name": "random", "input_len": 0}}, "is too small"),
        (
            {"dataset": {"name": "lognormal", "prompt": {"mean": 5}, "output": 3}},
            "workload.dataset.prompt: a lognormal needs",
        ),
        (
            {"dataset": {"name": "lognormal", "prompt": {"mean": 5, "sd": 1, "mx": 3}, "output": 3}},
            "workload.dataset.prompt.mx: unknown option",
        ),
        ({"dataset": {"name": "uniform", "prompt": {"low": 5, "high": 3}, "output": 3}}, "must be at least low, 5"),
        (
            {"dataset": {"name": "lengths", "prompt": {"mean": 5}, "output": 3}},
            "workload.dataset.prompt.distribution: is required",
        ),
        ({"dataset": {"name": "fixed", "prompt": 5}}, "workload.dataset.output: is required"),
        (
            {"dataset": {"name": "lengths", "prompt": {"distribution": "mixture", "parts": [{"mu": 1}]}, "output": 3}},
            "workload.dataset.prompt.parts[0].weight: is required",
        ),
        (
            {
                "dataset": {
                    "name": "lengths",
                    "prompt": {"distribution": "quantiles", "percent": [0, 50], "values": [1, 2]},
                    "output": 3,
                }
            },
            "rise from 0 to 100",
        ),
        (
            {"dataset": {"name": "table", "table": "caht-azure"}},
            "unknown name 'caht-azure'\nhint: closest names: chat-azure-2023",
        ),
        (
            {"dataset": {"name": "table", "table": "api-servegen-large", "conditional": True}},
            "has no outputs by prompt",
        ),
        ({"dataset": {"name": "table", "table": "daily-profiles"}}, "not a table of lengths"),
        ({"dataset": {"name": "prefix_repetition"}, "num_prompts": 5}, "at least num_prefixes, 10"),
        ({"closed_loop": {}}, "workload.closed_loop.concurrency: is required"),
        ({"closed_loop": {"concurrency": 0}}, "workload.closed_loop.concurrency: must be at least 1"),
        (
            {"closed_loop": {"concurrency": 1, "think_time_s": -1}},
            "workload.closed_loop.think_time_s: must be at least 0",
        ),
        (
            {"closed_loop": {"concurrency": 1, "think_time_s": 1}, "arrival": {"request_rate": 1}},
            "workload.closed_loop.think_time_s: unknown option",
        ),
        ({"trace": {}}, "workload.trace.path: is required"),
        ({"trace": {"path": "x"}, "dataset": {"name": "random"}}, "workload.dataset: the trace gives the lengths"),
        ({"seed": 2**40, "arrival": {"kind": "vllm", "request_rate": 1}}, "seed: NumPy's legacy generator"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(fields, message):
    with pytest.raises(LlmsimError) as caught:
        list(made(**fields).start())

    assert message in str(caught.value)


def test_requests_beyond_the_window_follow_the_rule():
    dataset = {"name": "fixed", "prompt": 900, "output": 200}
    left = made(dataset=dataset, max_model_len=1000, num_prompts=3)
    assert {(r.prompt_tokens, r.output_tokens) for r in left.start()} == {(900, 200)}
    assert left.warnings == []

    cut = made(dataset=dataset, max_model_len=1000, num_prompts=3, on_too_long="truncate")
    assert {(r.prompt_tokens, r.output_tokens) for r in cut.start()} == {(800, 200)}
    assert cut.warnings == ["3 requests exceed max_model_len 1000: their prompts were cut"]

    with pytest.raises(LlmsimError, match="request 0: 900 prompt and 200 output tokens exceed"):
        list(made(dataset=dataset, max_model_len=1000, on_too_long="error").start())
