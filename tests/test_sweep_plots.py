"""Pictures of sweeps: knees, limits and fronts where they belong, units on axes, bad tables refused."""

import numpy as np
import pandas
import pytest

import llmsim
from llmsim import fronts
from llmsim.errors import InputError
from llmsim.plot import knee


def table(tensor=(1, 2), rates=(2, 4, 6, 8, 10), replications=3, capacity=7.0):
    """A sweep as a queue would have it: 1 / (1 - load), and 20 times that once overloaded."""
    rows = []
    for devices in tensor:
        for rate in rates:
            load = rate / (capacity * devices)
            for number in range(replications):
                ttft = (20 / (1 - load) if load < 0.99 else 2000 * load) * (1 + 0.01 * number)
                rows.append({
                    "engine.tensor_parallel_size": devices, "workload.arrival.request_rate": rate,
                    "replication": number, "seed": number, "status": "ok", "reason": "", "prices": "",
                    "p50_ttft_ms": ttft / 2, "p99_ttft_ms": ttft, "mean_tpot_ms": 5 + 10 * load / devices,
                    "output_throughput": 100.0 * rate, "devices": devices,
                })  # fmt: skip
    return pandas.DataFrame(rows)


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_the_knee_is_where_a_curve_bends():
    # 1, 1, 1, 1, 11, 21 over 0..5: the chord is 4 x, and is farthest above the curve at x = 3, by 12 of 20.
    assert knee(np.arange(6.0), np.array([1.0, 1, 1, 1, 11, 21])) == 3
    assert knee(np.arange(6.0), np.arange(1.0, 7.0)) is None, "a straight line has none"
    assert knee(np.arange(6.0), np.array([1, 11, 16, 19, 20.5, 21])) is None, "one that flattens has none"
    assert knee(np.arange(3.0), np.array([1.0, 1, 9])) is None, "three points are too few"
    assert knee(np.arange(4.0), np.array([5.0, 4, 3, 2])) is None


def test_latency_against_load_says_up_to_where_the_slo_is_kept():
    # Load 6/7 gives 20 * 7 = 140 ms, load 8/7 two seconds: with two devices all stay below 200 ms.
    figure = llmsim.plot.latency_throughput(table(), slo=200)
    assert legend(figure) == [
        "tensor_parallel_size 1: keeps the SLO to 6", "tensor_parallel_size 2: keeps the SLO throughout",
        "p50 time to first token", "p99 time to first token",
    ]  # fmt: skip
    axes = figure.axes[0]
    assert axes.get_xlabel() == "request rate (requests/s)"
    assert axes.get_ylabel() == "time to first token (ms)"
    assert axes.get_yscale() == "log"
    assert "knee 6" in [text.get_text() for text in axes.texts]
    assert "SLO 200 ms" in [text.get_text() for text in axes.texts]
    low, high = axes.get_ylim()
    assert low < 12
    assert high > 2800


def test_a_summary_draws_the_same_means_as_its_table():
    one = table(tensor=(1,)).drop(columns="engine.tensor_parallel_size")
    figures = [
        llmsim.plot.latency_throughput(each, y="p99_ttft_ms") for each in (one, llmsim.summarise(one, ["p99_ttft_ms"]))
    ]
    first, second = (figure.axes[0].lines[0].get_ydata() for figure in figures)
    assert list(first) == list(second)
    assert figures[0].legends == []
    assert len(figures[0].axes[0].collections) == 1, "the band of the intervals"


def test_points_that_did_not_run_leave_a_gap():
    some = table(tensor=(1,))
    some.loc[some["workload.arrival.request_rate"] == 4, ["status", "p99_ttft_ms"]] = ["infeasible", float("nan")]
    lines = llmsim.plot.latency_throughput(some, y="p99_ttft_ms", hue="tensor_parallel_size").axes[0].lines
    assert list(lines[0].get_xdata()) == [2, 6, 8, 10]


def test_pareto_divides_by_the_devices_and_draws_the_front():
    figure = llmsim.plot.pareto(table())
    lines = figure.axes[0].lines
    front = next(line for line in lines if line.get_label() == "front")
    assert max(front.get_ydata()) == pytest.approx(1000.0)  # 100 tokens for each of 10 requests a second, one device
    two = next(line for line in lines if len(line.get_xdata()) == 5 and max(line.get_ydata()) == 500.0)
    assert max(two.get_xdata()) == pytest.approx(1e3 / (5 + 10 * 2 / 14 / 2))
    assert list(two.get_ydata()) == [100.0, 200.0, 300.0, 400.0, 500.0], "a curve runs along its loads"
    ready = llmsim.plot.pareto(fronts.pareto(table()), hue="tensor_parallel_size").axes[0].lines
    assert [list(line.get_ydata()) for line in ready] == [list(line.get_ydata()) for line in lines]
    assert legend(figure) == ["tensor_parallel_size 1", "tensor_parallel_size 2", "front"]


def test_a_front_of_other_metrics_names_their_units():
    axes = llmsim.plot.pareto(table(), x="p99_ttft_ms", y="output_throughput").axes[0]
    assert axes.get_xlabel() == "p99 time to first token (ms)"
    assert axes.get_ylabel() == "throughput (output tokens/s)"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop(columns="replication"), {}, "not the table of a sweep"),
        (lambda t: t, {"y": "p98_ttft_ms"}, "none of p98_ttft_ms"),
        (lambda t: t, {"hue": "scheduler"}, "hue: 'scheduler' was not swept\nhint: swept keys are engine"),
        (lambda t: t.drop(columns="workload.arrival.request_rate"), {}, "no load was swept"),
        (
            lambda t: t.assign(status="infeasible", p50_ttft_ms=np.nan, p99_ttft_ms=np.nan),
            {},
            "no point of the table ran",
        ),
    ],
)
def test_what_cannot_be_drawn_is_said(change, options, message):
    with pytest.raises(InputError, match=message):
        llmsim.plot.latency_throughput(change(table()), **options)


def test_figures_show_themselves_in_a_notebook():
    picture = llmsim.plot.pareto(table())
    assert picture._repr_png_().startswith(b"\x89PNG")
