"""The step log: what goes in comes out, and a leap is as good as its steps."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsim.results import occupancy
from llmsim.results.steps import COLUMNS, StepLog


def row(start, end, steps=1, first=None, last=None, regular=0, **others):
    first = (end - start) / steps if first is None else first
    values = dict.fromkeys(COLUMNS, 0.0) | others
    values |= {"start_s": start, "end_s": end, "steps": steps, "regular": regular}
    values |= {"first_step_s": first, "last_step_s": first if last is None else last}
    return tuple(values.values())


def test_columns_give_back_the_rows():
    log = StepLog()
    rows = [tuple(float(100 * i + j) for j in range(len(COLUMNS))) for i in range(50)]
    for each in rows:
        log.append(each)
    columns = log.columns()
    assert tuple(columns) == COLUMNS
    assert list(zip(*(values.tolist() for values in columns.values()), strict=True)) == rows
    assert len(log) == 50


def test_columns_follow_a_log_that_grows():
    log = StepLog()
    assert len(log.columns()["start_s"]) == 0
    log.append(row(0, 1))
    assert len(log.columns()["start_s"]) == 1
    log.append(row(1, 2))
    assert log.columns()["start_s"].tolist() == [0, 1]


@pytest.mark.parametrize("length", [0, len(COLUMNS) - 1, len(COLUMNS) + 1])
def test_a_row_of_another_length_is_refused(length):
    with pytest.raises(struct.error):
        StepLog().append((1.0,) * length)


def test_an_empty_log_has_no_gaps_and_no_tokens():
    for values in (*StepLog().gaps(), *StepLog().tokens()):
        assert len(values) == 0
    assert StepLog().steps() == 0


def test_gaps_and_tokens_of_a_leap_by_hand():
    log = StepLog()
    log.append(row(0.0, 0.5, regular=0))  # a prompt
    log.first_tokens(2)
    log.append(row(1.0, 7.0, steps=3, first=1.0, last=3.0, regular=4))
    log.append(row(7.0, 8.0, regular=3))
    log.gap(6.5)
    values, weights = log.gaps()
    assert values.tolist() == [1.0, 2.0, 3.0, 1.0, 6.5]
    assert weights.tolist() == [4, 4, 4, 3, 1]
    times, tokens = log.tokens()
    assert times.tolist() == [2.0, 4.0, 7.0, 8.0, 8.0, 0.5]
    assert tokens.tolist() == [4, 4, 4, 3, 1, 2]
    assert log.steps() == 5


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9), st.floats(1e-3, 1), st.floats(0, 1e-3)), max_size=12))
def test_a_leap_logs_the_gaps_and_tokens_of_its_steps(leaps):
    leaping, stepping, now = StepLog(), StepLog(), 0.0
    for steps, regular, first, slope in leaps:
        durations = [first + slope * step for step in range(steps)]
        ends = now + np.cumsum(durations)
        leaping.append(row(now, ends[-1], steps, first, durations[-1], regular))
        for start, end, duration in zip([now, *ends], ends, durations, strict=False):
            stepping.append(row(start, end, 1, duration, duration, regular))
        now = float(ends[-1])
    for ours, theirs in zip((*leaping.gaps(), *leaping.tokens()), (*stepping.gaps(), *stepping.tokens()), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_a_log_survives_a_trip_to_another_process():
    log = StepLog()
    log.append(row(0.0, 1.0, regular=2))
    log.gap(0.25, 2)
    copy = pickle.loads(pickle.dumps(log))
    copy.append(row(1.0, 2.0, regular=2))
    assert copy.gaps()[0].tolist() == [1.0, 1.0, 0.25]
    assert len(log) == 1


def test_busy_time_counts_batches_in_flight_together_once():
    log = StepLog()
    for start, end in [(0, 2), (1, 3), (1.5, 2.5), (10, 11)]:
        log.append(row(start, end))
    assert occupancy.busy_seconds(log) == 4
    assert occupancy.busy_seconds(StepLog()) == 0


def test_a_value_holds_over_the_host_s_pause_and_not_over_idle_time():
    log = StepLog()
    log.append(row(0.0, 1.0, running=4))
    log.append(row(1.5, 2.5, running=2))  # half a second later: shorter than a step
    log.append(row(10.0, 11.0, running=8))
    running = log.columns()["running"]
    starts, ends = occupancy.hold(log)
    assert starts.tolist() == [0, 1.5, 10]
    assert ends.tolist() == [1.5, 2.5, 11]
    assert occupancy.time_average(log, running, 11.0) == pytest.approx((4 * 1.5 + 2 * 1 + 8) / 11)


def test_a_curve_keeps_the_integral_and_the_extremes():
    log, random, now = StepLog(), np.random.default_rng(1), 0.0
    for _ in range(500):
        length = float(random.exponential())
        log.append(row(now, now + length, waiting=float(random.integers(0, 50))))
        now += length + (20.0 if random.random() < 0.02 else 0.0)
    values = log.columns()["waiting"]
    edges = np.linspace(0, log.columns()["end_s"][-1], 64)
    curve = occupancy.curve(log, values, edges)
    area = float((curve.mean * np.diff(edges)).sum())
    assert area == pytest.approx(occupancy.time_average(log, values, 1.0), rel=1e-12)
    assert curve.greatest.max() == values.max()
    assert (curve.greatest >= curve.mean - 1e-9).all()


def test_a_short_log_keeps_its_corners():
    log = StepLog()
    for start, running in [(0.0, 1), (1.0, 3), (3.0, 2)]:
        log.append(row(start, start + 1, running=running))
    edges = occupancy.grid([log], most_bins=100)
    curve = occupancy.curve(log, log.columns()["running"], edges)
    assert edges.tolist() == [0, 1, 3, 4]
    assert curve.mean.tolist() == [1, 3, 2]
    assert curve.least.tolist() == curve.greatest.tolist() == [1, 3, 2]
