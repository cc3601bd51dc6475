"""Pareto fronts: by hand, against every pair, and over plans and loads."""

from __future__ import annotations

import random

import pandas
import pytest
from click.testing import CliRunner

import llmsim
from llmsim.cli.app import cli
from llmsim.errors import InputError


def table(points, names=("output_throughput", "request_throughput")):
    rows = [{"key": number, "replication": 0, "status": "ok", "devices": 1, **dict(zip(names, point, strict=True))}
            for number, point in enumerate(points)]  # fmt: skip
    return pandas.DataFrame(rows)


def on_front(points, names=("output_throughput", "request_throughput")):
    found = llmsim.pareto(table(points, names), *names)
    return sorted(found.loc[found["front"], "key"])


def test_what_another_point_beats_is_not_on_the_front():
    assert on_front([(1, 5), (2, 4), (2, 3), (3, 1), (0, 5)]) == [0, 1, 3]
    assert on_front([(1, 1), (1, 1)]) == [0, 1]  # neither beats the other
    assert on_front([(1, 1), (1, 2)]) == [1]


def test_of_latencies_less_is_better():
    names = ("output_throughput", "p99_ttft_ms")
    assert on_front([(1, 10), (2, 20), (2, 15), (3, 50), (1, 5)], names) == [2, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_the_front_is_what_no_pair_refutes(seed):
    draw = random.Random(seed)
    points = [(draw.randint(0, 9), draw.randint(0, 9)) for _ in range(30)]
    expected = [
        number
        for number, (x, y) in enumerate(points)
        if not any(other[0] >= x and other[1] >= y and other != (x, y) for other in points)
    ]
    assert on_front(points) == expected


def test_points_without_figures_are_rows_off_the_front_and_beat_nobody():
    rows = table([(1, 1), (9, 9)])
    rows.loc[1, ["status", "output_throughput", "request_throughput"]] = ["infeasible", float("nan"), float("nan")]
    found = llmsim.pareto(rows, "output_throughput", "request_throughput")
    assert found["front"].tolist() == [True, False]
    assert found["replications"].tolist() == [1, 0]


def test_plans_and_loads_trade_speed_for_yield():
    chat = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", num_prompts=40)
    runs = llmsim.sweep(chat, {"tensor_parallel_size": [1, 4], "request_rate": [1, 60]}, replications=2)
    found = llmsim.pareto(runs)
    point = found.iloc[0]
    rows = runs[(runs["tensor_parallel_size"] == point["tensor_parallel_size"])
                & (runs["request_rate"] == point["request_rate"])]  # fmt: skip
    assert point["speed_per_user"] == pytest.approx((1000 / rows["mean_tpot_ms"]).mean())
    assert point["throughput_per_gpu"] == pytest.approx((rows["output_throughput"] / rows["devices"]).mean())
    front = found[found["front"]]
    assert front["speed_per_user"].is_monotonic_increasing
    assert front["throughput_per_gpu"].is_monotonic_decreasing
    fastest, thriftiest = front.iloc[-1], front.iloc[0]
    assert (fastest["tensor_parallel_size"], fastest["request_rate"], fastest["devices"]) == (4, 1, 4)
    assert (thriftiest["tensor_parallel_size"], thriftiest["request_rate"]) == (1, 60)


def test_what_cannot_have_a_front():
    with pytest.raises(InputError, match="not the table of a sweep"):
        llmsim.pareto(pandas.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="no metric 'speed'"):
        llmsim.pareto(table([(1, 1)]), "speed", "output_throughput")
    with pytest.raises(InputError, match="twice"):
        llmsim.pareto(table([(1, 1)]), "output_throughput", "output_throughput")


def test_the_command_prints_the_front_and_writes_all_points(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["sweep", "--model", "llama-3.1-8b", "--gpu", "h100-sxm", "--num-prompts", "30", "-j", "1", "-o", "out",
             "--replications", "1", "--set", "tensor_parallel_size=1,2,3", "--set", "request_rate=2,40",
             "--pareto"]  # fmt: skip
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 0, said.output
    assert "on the front, " in said.stdout
    written = pandas.read_csv("out/pareto.csv")
    assert len(written) == 6
    assert 1 <= written["front"].sum() <= 4
