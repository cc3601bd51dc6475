"""Rows out of order, thinning and jitter."""

import itertools
import random

import numpy as np
import pytest

from llmsim.errors import TraceError
from llmsim.workload.order import Disorder, in_order, jittered, thinned
from llmsim.workload.readers.rows import Row


def rows(times):
    return [Row(number, int(time * 1e9), 1, 1) for number, time in enumerate(times, start=2)]


def seconds(found):
    return [row.time_ns / 1e9 for row in found]


def test_a_small_file_may_be_in_any_order():
    times = list(range(100))
    random.Random(0).shuffle(times)
    disorder = Disorder()

    assert seconds(in_order(rows(times), "x.csv", disorder)) == list(range(100))
    assert disorder.rows == sum(b < a for a, b in itertools.pairwise(times))


def test_equal_times_stay_in_the_order_of_the_file():
    found = list(in_order(rows([5, 5, 1, 5]), "x.csv", Disorder()))

    assert [row.number for row in found] == [4, 2, 3, 5]


@pytest.mark.parametrize("reorder_rows", [8, 50])
def test_a_row_may_stand_so_many_rows_from_its_place(reorder_rows):
    times = [float(time) for time in range(1000)]
    for at in range(0, 1000 - reorder_rows, reorder_rows):
        times.insert(at + reorder_rows - 1, times.pop(at))

    assert seconds(in_order(rows(times), "x.csv", Disorder(), reorder_rows)) == sorted(times)


def test_a_row_that_stands_too_far_off_is_named():
    times = [*range(10, 60), 3.0, *range(60, 100)]

    with pytest.raises(TraceError, match=r"x\.csv:row 52: is .* s earlier .*\nhint: .*reorder_rows"):
        list(in_order(rows(times), "x.csv", Disorder(), 8))


def test_no_more_rows_are_held_than_twice_the_bound():
    read = 0

    def counted():
        nonlocal read
        for row in rows(range(10_000)):
            read += 1
            yield row

    for given, _ in enumerate(in_order(counted(), "x.csv", Disorder(), 100)):
        assert read - given <= 200


def test_thinning_keeps_the_share_and_the_order():
    kept = seconds(thinned(rows(range(20_000)), 0.25, 0))

    assert len(kept) == pytest.approx(5000, abs=4.5 * (20_000 * 0.1875) ** 0.5)
    assert kept == sorted(kept)


def test_jitter_turns_rounded_stamps_into_a_poisson_process():
    # A Poisson process of 4 per second whose stamps were rounded down to 3 s, as Mooncake's are.
    true = np.cumsum(np.random.default_rng(0).exponential(0.25, 40_000))
    spread = np.array(seconds(jittered(rows(np.floor(true / 3.0) * 3.0), 3.0, 0)))
    gaps = np.diff(spread)
    counts = np.histogram(spread, bins=np.arange(0.0, spread[-1], 1.0))[0]

    assert (gaps >= 0.0).all()
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.06)
    assert (spread >= np.sort(np.floor(true / 3.0) * 3.0)).all()
