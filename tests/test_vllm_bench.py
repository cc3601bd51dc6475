"""`vllm bench serve`'s arrivals and lengths against a scalar loop that follows its source line by line."""

import math

import numpy as np
import pytest

from llmsim.workload.vllm_bench import PrefixRepetition, VllmArrivals, VllmRandomLengths


def scalar_arrivals(seed, total, rate, burstiness, strategy=None, start=0.0, end=0.0):
    """The rules of get_request, with the global legacy generator replaced by one of its own."""
    generator = np.random.RandomState(seed)
    delays = []
    for index in range(total):
        current = rate
        if strategy is not None:
            progress = index / max(total - 1, 1)
            current = start + (end - start) * progress if strategy == "linear" else start * (end / start) ** progress
        if current == float("inf"):
            delays.append(0)
        elif burstiness == float("inf"):
            delays.append(1.0 / current)
        else:
            delays.append(generator.gamma(shape=burstiness, scale=1.0 / (current * burstiness)))
    for index in range(1, total):
        delays[index] += delays[index - 1]
    if strategy is None and delays[-1] != 0:
        factor = total / rate / delays[-1]
        delays = [delay * factor for delay in delays]
    return delays


@pytest.mark.parametrize("seed", [0, 1, 42])
@pytest.mark.parametrize(
    ("rate", "burstiness"), [(8.0, 1.0), (3.3, 0.25), (1.0, 5.0), (2.0, math.inf), (math.inf, 1.0)]
)
def test_arrivals_are_those_of_the_scalar_loop(seed, rate, burstiness):
    (ours,) = VllmArrivals(rate, burstiness).chunks(seed, 300)

    assert ours.tolist() == scalar_arrivals(seed, 300, rate, burstiness)


@pytest.mark.parametrize("strategy", ["linear", "exponential"])
def test_ramped_arrivals_are_those_of_the_scalar_loop(strategy):
    (ours,) = VllmArrivals(math.inf, 0.7, strategy, 1.0, 20.0).chunks(3, 300)

    assert ours.tolist() == pytest.approx(scalar_arrivals(3, 300, math.inf, 0.7, strategy, 1.0, 20.0), rel=1e-14)


def test_the_last_arrival_comes_at_the_number_over_the_rate():
    (ours,) = VllmArrivals(4.0).chunks(0, 1000)

    assert ours[-1] == pytest.approx(250.0)


def test_known_arrivals_of_seed_zero():
    # numpy.random.seed(0); numpy.random.gamma(1.0, 1 / 8): vLLM 0.33.0 with --seed 0 --request-rate 8 --num-prompts 3
    (ours,) = VllmArrivals(8.0).chunks(0, 3)
    draws = -np.log(1.0 - np.array([0.5488135039273248, 0.7151893663724195, 0.6027633760716439]))

    assert ours == pytest.approx(np.cumsum(draws) * 3.0 / 8.0 / draws.sum(), rel=1e-12)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(
    ("input_len", "output_len", "ratio", "special"),
    [(1024, 128, (0.0, 0.0), 0), (1000, 77, (0.3, 0.3), 1), (13, 3, (0.5, 0.9), 1)],
)
def test_random_lengths_are_those_of_the_default_generator(seed, input_len, output_len, ratio, special):
    generator = np.random.default_rng(seed)
    real = max(0, input_len - special)
    low, high = math.floor(real * (1 - ratio[0])), math.ceil(real * (1 + ratio[0]))
    inputs = generator.integers(low, high + 1, size=200)
    low, high = max(math.floor(output_len * (1 - ratio[1])), 1), max(math.ceil(output_len * (1 + ratio[1])), 1)
    outputs = generator.integers(low, high + 1, size=200)
    ours = list(VllmRandomLengths(input_len, output_len, *ratio, 0, special).bodies(seed, 200))

    assert [prompt for prompt, _, _ in ours] == (inputs + special).tolist()
    assert [output for _, output, _ in ours] == outputs.tolist()


def test_a_random_prefix_is_shared_by_all():
    ours = list(VllmRandomLengths(100, 10, prefix_len=50).bodies(0, 5))

    assert {prompt for prompt, _, _ in ours} == {150}
    assert len({prefix for _, _, prefix in ours}) == 1
    assert len(ours[0][2].hash_ids) == 3


def test_prefix_repetition_gives_every_prefix_the_same_number_of_prompts():
    ours = list(PrefixRepetition(64, 32, 3, 10).bodies(0, 20))
    counts = {}
    for prompt, output, prefix in ours:
        assert (prompt, output) == (96, 10)
        counts[prefix] = counts.get(prefix, 0) + 1

    assert sorted(counts.values()) == [6, 6, 6]


def test_the_number_of_requests_must_be_known():
    with pytest.raises(ValueError, match="number of requests"):
        next(VllmArrivals(1.0).chunks(0, None))
    with pytest.raises(ValueError, match="number of requests"):
        VllmRandomLengths().bodies(0, None)
    with pytest.raises(ValueError, match="at least 10"):
        PrefixRepetition().bodies(0, 5)
