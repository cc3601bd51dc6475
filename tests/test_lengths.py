"""Streams of lengths: dependence of outputs on prompts, shared prefixes, and independence of how draws are cut."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from llmsim.workload.distributions import ConditionalTable, Fixed, Length, Lognormal, Uniform
from llmsim.workload.lengths import SampledLengths, SharedPrefixes

PLAIN = SampledLengths("plain", Length(Lognormal(6.0, 1.0)), Length(Lognormal(5.0, 0.8)))
TABLE = ConditionalTable(np.array([1.0, 400.0, 1e9]), np.array([0.0, 100.0]), np.array([[10.0, 20.0], [500.0, 600.0]]))


def draw(lengths, count, seed=0):
    return list(islice(lengths.bodies(seed, count), count))


def ranks(values):
    return np.argsort(np.argsort(values, kind="stable"), kind="stable")


@pytest.mark.parametrize(
    "lengths",
    [
        PLAIN,
        replace(PLAIN, conditional=TABLE),
        replace(PLAIN, correlation=0.7),
        replace(PLAIN, prefixes=SharedPrefixes(4, 64, 1.0)),
    ],
)
def test_lengths_do_not_depend_on_the_size_of_chunks(lengths):
    usual = draw(lengths, 3000)

    for chunk in (1, 7, 1000):
        assert draw(replace(lengths, chunk=chunk), 3000) == usual
    assert draw(lengths, 100) == usual[:100]


def test_both_sides_have_a_stream_of_their_own():
    other = replace(PLAIN, prompt=Length(Fixed(7)))

    assert [body[1] for body in draw(other, 500)] == [body[1] for body in draw(PLAIN, 500)]


@pytest.mark.parametrize("correlation", [-0.6, 0.0, 0.95])
def test_ranks_correlate_as_those_of_a_gaussian_copula(correlation):
    # Spearman's rho of a Gaussian copula: 6 / pi asin(r / 2)
    bodies = draw(replace(PLAIN, correlation=correlation), 50_000)
    prompts, outputs = (np.array([body[side] for body in bodies]) for side in (0, 1))
    spearman = np.corrcoef(ranks(prompts), ranks(outputs))[0, 1]

    assert spearman == pytest.approx(6.0 / np.pi * np.arcsin(correlation / 2.0), abs=4.5 / np.sqrt(50_000) + 0.005)


def test_a_correlation_leaves_the_distribution_of_outputs_alone():
    plain = np.percentile([body[1] for body in draw(PLAIN, 50_000)], [10, 50, 90])
    tied = np.percentile([body[1] for body in draw(replace(PLAIN, correlation=0.9), 50_000)], [10, 50, 90])

    assert tied == pytest.approx(plain, rel=0.04)


def test_outputs_follow_the_prompt_through_a_conditional_table():
    for prompt, output, _ in draw(replace(PLAIN, conditional=TABLE), 2000):
        assert (10 <= output <= 20) if prompt < 400 else (500 <= output <= 600)


def test_shared_prefixes_lie_inside_the_prompt_and_are_whole_blocks():
    lengths = replace(PLAIN, prompt=Length(Uniform(20, 200)), prefixes=SharedPrefixes(3, 100))

    for prompt, _, prefix in draw(lengths, 1000):
        assert prefix.block_tokens == 16
        assert len(prefix.hash_ids) == min(prompt, 100) // 16


def test_different_prefixes_share_no_block():
    first, second = SharedPrefixes(2, 64).all()

    assert len(first.hash_ids) == 4
    assert not set(first.hash_ids) & set(second.hash_ids)


def test_the_popularity_of_prefixes_follows_zipf():
    chosen = SharedPrefixes(3, 16, zipf=1.0).choose(np.random.default_rng(0).random(100_000))
    shares = np.bincount(chosen) / 100_000

    assert shares == pytest.approx([6 / 11, 3 / 11, 2 / 11], abs=4.5 * 0.5 / np.sqrt(100_000))


def test_an_added_prefix_makes_the_prompt_longer():
    lengths = replace(PLAIN, prompt=Length(Fixed(50)), prefixes=SharedPrefixes(1, 40), prefix_added=True)
    prompt, _, prefix = draw(lengths, 1)[0]

    assert prompt == 90
    assert len(prefix.hash_ids) == 2
