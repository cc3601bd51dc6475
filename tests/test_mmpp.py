"""Markov-modulated processes: stationary shares, rescaling, and matrices that are refused."""

import numpy as np
import pytest

from llmsim.workload.mmpp import Mmpp, checked_transition, from_stays


def occupancy(process, seconds, seed=0):
    spent = np.zeros(len(process.rates))
    for durations, rates in process.segments(seed):
        for state, rate in enumerate(process.rates):
            spent[state] += durations[rates == rate].sum()
        if spent.sum() > seconds:
            return spent / spent.sum()
    raise AssertionError


def test_stationary_shares_of_steps_and_of_a_generator():
    steps = Mmpp(np.array([1.0, 2.0]), np.array([[0.9, 0.1], [0.3, 0.7]]), 1.0)
    generator = Mmpp(np.array([1.0, 2.0]), np.array([[-0.1, 0.1], [0.3, -0.3]]), None)

    assert steps.stationary == pytest.approx([0.75, 0.25])
    assert generator.stationary == pytest.approx([0.75, 0.25])
    assert steps.mean_rate == pytest.approx(1.25)


@pytest.mark.parametrize("step_s", [1.0, None])
def test_time_spent_in_each_state_is_the_stationary_share(step_s):
    matrix = np.array([[0.9, 0.1], [0.3, 0.7]]) if step_s else np.array([[-0.1, 0.1], [0.3, -0.3]])
    process = Mmpp(np.array([1.0, 2.0]), matrix, step_s)

    # variance of the share over T seconds of a two-state chain: about 2 p (1 - p) / ((a + b) T)
    error = (2 * 0.75 * 0.25 / (0.4 * 200_000)) ** 0.5
    assert occupancy(process, 200_000) == pytest.approx([0.75, 0.25], abs=4.5 * error)


def test_rescaling_changes_rates_and_not_the_pace_of_moods():
    process = Mmpp(np.array([1.0, 3.0]), np.array([[0.5, 0.5], [0.5, 0.5]]), 1.0).scaled_to(10.0)

    assert process.mean_rate == pytest.approx(10.0)
    assert process.rates.tolist() == pytest.approx([5.0, 15.0])
    assert process.step_s == 1.0


def test_mean_stays_become_a_generator():
    process = from_stays(np.array([1.0, 10.0]), np.array([570.0, 30.0]))

    assert process.stationary == pytest.approx([0.95, 0.05])


def test_rounded_rows_are_repaired():
    assert checked_transition([[0.3335, 0.666], [0.5, 0.5]], generator=False).sum(axis=1).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("rows", "generator", "what"),
    [
        ([[0.5, 0.4], [0.5, 0.5]], False, "adds up to 1"),
        ([[1.5, -0.5], [0.5, 0.5]], False, "negative"),
        ([[-1.0, 0.5], [1.0, -1.0]], True, "adds up to 0"),
        ([[0.5, 0.5]], False, "square"),
    ],
)
def test_impossible_matrices_are_refused(rows, generator, what):
    with pytest.raises(ValueError, match=what):
        checked_transition(rows, generator=generator)


def test_a_process_that_never_sends_is_refused():
    with pytest.raises(ValueError, match="all of them zero"):
        Mmpp(np.array([0.0, 0.0]), np.array([[0.5, 0.5], [0.5, 0.5]]), 1.0)
