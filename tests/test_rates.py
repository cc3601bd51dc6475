"""Rate tables: means, profiles of a day, and where in the day they start."""

import numpy as np
import pytest

from llmsim.workload.rates import DAY_S, RateTable, cosine, hourly


def rate_at(table, time_s):
    ends = np.cumsum(table.durations)
    return float(table.rates[np.searchsorted(ends, time_s % ends[-1], side="right")])


def test_the_mean_is_weighted_by_time():
    table = RateTable(np.array([1.0, 3.0]), np.array([8.0, 4.0]), True, "table")

    assert table.mean_rate == 5.0
    assert table.scaled_to(10.0).rates.tolist() == [16.0, 8.0]


def test_a_cosine_day_peaks_where_it_should_by_as_much_as_it_should():
    table = cosine(peak_to_trough=10.0, peak_hour=15.0)

    assert table.mean_rate == pytest.approx(1.0)
    assert float(np.argmax(table.rates)) / len(table.rates) * 24 == pytest.approx(15.0, abs=0.1)
    assert table.rates.max() / table.rates.min() == pytest.approx(10.0, rel=1e-3)


def test_hours_and_weekends():
    table = hourly([1.0] * 12 + [3.0] * 12, weekend=0.5)

    assert table.durations.sum() == 7 * DAY_S
    assert table.mean_rate == pytest.approx(1.0)
    assert rate_at(table, 13 * 3600) / rate_at(table, 0) == pytest.approx(3.0)
    assert rate_at(table, 5 * DAY_S) / rate_at(table, 0) == pytest.approx(0.5)


@pytest.mark.parametrize("offset", [0.0, 3600.0, 5.5 * 3600.0, 23.75 * 3600.0, DAY_S])
def test_a_table_can_start_anywhere_in_its_round(offset):
    table = hourly(list(range(1, 25)))
    turned = table.started_at(offset)

    assert turned.mean_rate == pytest.approx(1.0)
    assert turned.durations.sum() == pytest.approx(DAY_S)
    for time in (0.0, 100.0, 1800.5, 7200.0, 50_000.0):
        assert rate_at(turned, time) == pytest.approx(rate_at(table, time + offset))


@pytest.mark.parametrize("rates", [[0.0, 0.0], [1.0, -1.0]])
def test_rates_that_never_come_or_are_negative_are_refused(rates):
    with pytest.raises(ValueError, match="rates"):
        RateTable(np.ones(2), np.array(rates), True, "table")
