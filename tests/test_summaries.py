"""Means and paired differences of sweeps, on tables whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pandas
import pytest

import llmsim
from llmsim.errors import InputError
from llmsim.results.intervals import student_t


def table(rows) -> pandas.DataFrame:
    """Return a table like a sweep's of (scheduler, replication, status, ttft)."""
    return pandas.DataFrame(
        [
            {
                "scheduler": scheduler,
                "replication": number,
                "seed": number,
                "status": status,
                "reason": "",
                "ttft": ttft,
            }
            for scheduler, number, status, ttft in rows
        ]
    )


PLAIN = table([("a", 0, "ok", 10.0), ("a", 1, "ok", 20.0), ("b", 0, "ok", 12.0), ("b", 1, "ok", 23.0)])


def test_means_by_hand():
    found = llmsim.summarise(PLAIN, ["ttft"])
    assert list(found.columns) == ["scheduler", "replications", "status", "ttft", "ttft_lo95", "ttft_hi95"]
    assert list(found["ttft"]) == [15.0, 17.5]
    # s = 5 sqrt(2), over sqrt(2): half width 5 t(1) = 63.53
    assert found["ttft_hi95"][0] == pytest.approx(15 + 5 * 12.7062, rel=1e-5)


def test_differences_by_hand():
    (row,) = llmsim.paired(PLAIN, "scheduler", ["ttft"]).to_dict("records")
    assert (row["scheduler"], row["baseline"], row["mean"], row["difference"], row["pairs"]) == ("b", 15, 17.5, 2.5, 2)
    assert row["hi95"] == pytest.approx(2.5 + 0.5 * 12.7062, rel=1e-5)
    assert row["percent"] == pytest.approx(100 / 6)
    assert not row["differs"]
    (row,) = llmsim.paired(PLAIN, "scheduler", ["ttft"], baseline="b").to_dict("records")
    assert (row["scheduler"], row["difference"]) == ("a", -2.5)


def test_pairing_takes_out_what_replications_share():
    random = np.random.default_rng(3)
    shared = random.normal(100.0, 50.0, 12)
    rows = [("a", number, "ok", value) for number, value in enumerate(shared)]
    rows += [("b", number, "ok", value + 2 + random.normal(0, 0.5)) for number, value in enumerate(shared)]
    (row,) = llmsim.paired(table(rows), "scheduler", ["ttft"]).to_dict("records")
    assert row["differs"]
    assert 1 < row["lo95"] < 2 < row["hi95"] < 3
    means = llmsim.summarise(table(rows), ["ttft"])
    assert means["ttft_hi95"][0] > means["ttft_lo95"][1]  # the two means alone would say nothing


def test_only_replications_that_both_have_are_compared():
    rows = [("a", 0, "ok", 1.0), ("a", 1, "stopped", 9.0), ("a", 2, "ok", 3.0)]
    rows += [("b", 0, "ok", 2.0), ("b", 1, "ok", 5.0), ("b", 2, "ok", math.nan), ("c", 0, "infeasible", math.nan)]
    found = llmsim.paired(table(rows), "scheduler", ["ttft"]).set_index("scheduler")
    assert (found.pairs["b"], found.difference["b"], found.lo95["b"]) == (1, 1.0, -math.inf)
    assert found.pairs["c"] == 0
    assert math.isnan(found.difference["c"])
    assert not found.differs["c"]
    status = llmsim.summarise(table(rows), ["ttft"]).set_index("scheduler")
    assert (status.status["a"], status.replications["a"], status.status["c"]) == ("stopped", 2, "infeasible")


def test_other_keys_are_compared_apart_and_nested_values_may_be_swept():
    rows = [
        {"rate": rate, "scheduler": scheduler, "replication": number, "seed": 0, "status": "ok", "ttft": value}
        for rate, base in ((1, 10.0), (2, 100.0))
        for scheduler, add in (({"name": "fair"}, 0.0), ({"name": "adaptive", "bound": 3}, rate))
        for number, value in enumerate((base + add, base + 5 + add))
    ]
    found = llmsim.paired(pandas.DataFrame(rows), "scheduler", ["ttft"])
    assert list(found["rate"]) == [1, 2]
    assert list(found["difference"]) == [1.0, 2.0]
    assert list(found["differs"]) == [True, True]
    assert found["scheduler"][0] == {"name": "adaptive", "bound": 3}


def test_confidence_is_heard():
    found = llmsim.summarise(PLAIN, ["ttft"], confidence=0.5)
    assert found["ttft_hi50"][0] == pytest.approx(15 + 5 * student_t(1, confidence=0.5))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: llmsim.summarise(pandas.DataFrame({"x": [1]}), []), "not the table of a sweep"),
        (lambda: llmsim.summarise(PLAIN, ["tpot"]), "no metric 'tpot'"),
        (lambda: llmsim.summarise(PLAIN, ["ttft"], confidence=95), "between 0 and 1 .got 95"),
        (lambda: llmsim.paired(PLAIN, "rate", ["ttft"]), "'rate' was not swept"),
        (lambda: llmsim.paired(PLAIN, "scheduler", ["ttft"], baseline="z"), "never is z here"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_the_table_is_the_same_for_any_number_of_jobs():
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=20)
    over = {"engine.max_num_seqs": [1, 64], "model": ["llama-3.1-8b", "llama-3.1-405b"]}
    seen = []
    alone = llmsim.sweep(scenario, over, replications=2, progress=lambda done, total: seen.append((done, total)))
    together = llmsim.sweep(scenario, over, replications=2, n_jobs=2)
    threads = llmsim.sweep(scenario, over, replications=2, n_jobs=2, backend="threading")
    pandas.testing.assert_frame_equal(alone, together, check_exact=True)
    pandas.testing.assert_frame_equal(alone, threads, check_exact=True)
    assert seen == [(done, 8) for done in range(1, 9)]
    assert set(alone["status"]) == {"ok", "infeasible"}


@pytest.mark.parametrize("wrong", [{"n_jobs": 0}, {"backend": "carrier pigeon"}])
def test_impossible_workers_are_named(wrong):
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=5)
    with pytest.raises(llmsim.InputError, match=r"sweep: .*got n_jobs="):
        llmsim.sweep(scenario, {"engine.max_num_seqs": [1]}, **wrong)


@pytest.mark.parametrize("as_text", [False, True])
def test_saturated_replications_are_counted(as_text):
    told = [True, False, None, True]
    known = PLAIN.assign(saturated=[str(one) for one in told] if as_text else told)
    found = llmsim.summarise(known, ["ttft"])
    assert list(found["saturated"]) == [1, 1]
    assert list(found.columns)[:4] == ["scheduler", "replications", "status", "saturated"]
