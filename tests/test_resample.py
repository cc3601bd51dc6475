"""Replications of a trace by blocks of its arrivals: what stays as it was, what varies, and what is refused."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_scenarios import fixed_draws

import llmsim
from llmsim.errors import ScenarioError, TraceError
from llmsim.workload.readers.rows import Row
from llmsim.workload.request import Prefix
from llmsim.workload.resample import Resampling, resampled

SECOND = 10**9


def rows_at(*moments: float, prefix: bool = False) -> list[Row]:
    return [
        Row(number, round(moment * SECOND), 100 + number, 10, id=f"r{number}",
            prefix=Prefix((0, 1000 + number), 16) if prefix else None)
        for number, moment in enumerate(moments)
    ]  # fmt: skip


def drawn(rows, *, block_s=10.0, within_s=20.0, seed=0):
    return list(resampled(rows, Resampling(block_s, within_s), seed, "x.csv"))


def evenly(count: int, gap_s: float = 1.0) -> list[Row]:
    return rows_at(*(number * gap_s for number in range(count)))


def test_each_block_is_one_that_lies_around_its_place():
    rows = evenly(200)
    came = drawn(rows, seed=3)
    # One request a second: every block has ten, whichever is drawn, and the last one has the rest's beginning.
    assert len(came) == 200
    assert [row.time_ns for row in came] == [row.time_ns for row in rows]
    for place in range(20):
        of_block = {(row.prompt_tokens - 100) // 10 for row in came[10 * place : 10 * place + 10]}
        assert len(of_block) == 1
        assert abs(of_block.pop() - place) <= 2
        tokens = [row.prompt_tokens for row in came[10 * place : 10 * place + 10]]
        assert tokens == list(range(tokens[0], tokens[0] + 10))  # as they stood in the block


def test_all_blocks_around_are_drawn_alike():
    # The middle block of seven, with two on each side: 2,000 seeds, 400 of each (deviation 18).
    rows = evenly(70)
    seen = Counter((drawn(rows, seed=seed)[30].prompt_tokens - 100) // 10 for seed in range(2000))
    assert set(seen) == {1, 2, 3, 4, 5}
    assert min(seen.values()) > 320
    assert max(seen.values()) < 480


def test_the_day_keeps_its_shape():
    # One request a second in the first half, ten in the second: far from the change every replication has that.
    moments = np.concatenate((np.arange(0, 500, 1.0), np.arange(500, 1000, 0.1)))
    rows = rows_at(*moments)
    counts = np.array(
        [np.histogram([row.time_ns / SECOND for row in drawn(rows, seed=seed)], bins=100, range=(0, 1000))[0]
         for seed in range(30)]
    )  # fmt: skip
    assert (counts[:, :48] == 10).all()
    assert (counts[:, 52:-1] == 100).all()
    assert counts[:, 49].std() > 0


def test_the_number_of_requests_varies_as_much_as_that_of_a_poisson_process():
    # Blocks are long against the gaps, so the variance of the resampled count is that of the process: its mean.
    random = np.random.default_rng(1)
    spreads = []
    for _ in range(40):
        moments = random.exponential(0.1, 2000).cumsum()
        rows = rows_at(*moments)
        counts = [len(drawn(rows, block_s=4.0, within_s=1e9, seed=seed)) for seed in range(40)]
        spreads.append(np.var(counts) / 2000)
    assert 0.75 < np.mean(spreads) < 1.15


def test_a_block_drawn_again_brings_other_requests_with_other_texts():
    rows = rows_at(*range(40), prefix=True)
    came = drawn(rows, within_s=1000.0, seed=1)
    assert len({row.id for row in came}) == len(came)
    again = [row for row in came if "~" in row.id]
    assert again
    first, second = zip(*(row.prefix.hash_ids for row in came), strict=True)
    assert set(first) == {0}  # the system prompt that all share
    assert len(set(second)) == len(came)  # and nobody else's text
    assert all(row.prefix.hash_ids[1] < 0 for row in again)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60), st.integers(1, 30), st.integers(1, 100), st.integers(0, 9))
@fixed_draws
def test_requests_come_in_order_within_the_span_of_the_trace(moments, block_s, within_s, seed):
    rows = rows_at(*sorted(moments))
    before = [(row.id, row.time_ns) for row in rows]
    span_s = (rows[-1].time_ns - rows[0].time_ns) / SECOND
    if span_s < 2 * block_s:
        with pytest.raises(TraceError, match="less than two blocks"):
            drawn(rows, block_s=block_s, within_s=within_s, seed=seed)
        return
    came = drawn(rows, block_s=block_s, within_s=within_s, seed=seed)
    times = [row.time_ns for row in came]
    assert times == sorted(times)
    assert all(rows[0].time_ns <= time <= rows[-1].time_ns for time in times)
    assert len({row.id for row in came}) == len(came)
    assert {row.prompt_tokens for row in came} <= {row.prompt_tokens for row in rows}
    assert before == [(row.id, row.time_ns) for row in rows]
    assert times == [row.time_ns for row in drawn(rows, block_s=block_s, within_s=within_s, seed=seed)]


# ---------------------------------------------------------------------- whole scenarios


@pytest.fixture
def trace(tmp_path):
    random = np.random.default_rng(7)
    moments = random.exponential(0.25, 400).cumsum()
    lines = [f"{moment:.6f},{int(tokens)},{20}" for moment, tokens in zip(moments, random.integers(50, 800, 400))]  # noqa: B905
    file = tmp_path / "day.csv"
    file.write_text("\n".join(["arrival_s,prompt_tokens,output_tokens", *lines]) + "\n")
    return file


def scenario(trace, **options):
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", **{"workload.trace": {"path": str(trace), **options}})


def test_replications_of_a_resampled_trace_differ_and_have_an_interval(trace):
    with pytest.raises(ScenarioError, match="resample, jitter_s or thin"):
        llmsim.sweep(scenario(trace), {"max_num_seqs": [8, 64]}, replications=3)
    table = llmsim.sweep(scenario(trace, resample="5s"), {"max_num_seqs": [8, 64]}, replications=3)
    assert table["mean_ttft_ms"].nunique() == 6
    # The same streams at all points: what is asked is the same.
    asked = table.pivot_table(index="replication", columns="max_num_seqs", values="total_input_tokens")
    assert (asked[8] == asked[64]).all()
    assert asked[8].nunique() == 3
    answer = llmsim.capacity(scenario(trace, resample="5s"), {"p90_ttft_ms": 200.0}, replications=2, tolerance=0.3)
    assert len(set(answer.each)) <= 2
    assert answer.answer is not None


def test_a_run_says_how_its_trace_was_resampled(trace):
    run = llmsim.simulate(scenario(trace, resample={"block": "5s", "within": "0.5min"}))
    assert "resampled in blocks of 5 s from within 30 s" in run.setup.workload
    assert "resampled in blocks of 5 s from within 25 s" in llmsim.simulate(scenario(trace, resample=5)).setup.workload
    assert run.counts["finished"] == len(run.records) != 400


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resample": "soon"}, r"resample: must be a time such as 60s or 10min \(got 'soon'\)"),
        ({"resample": 0}, "resample: must be more than 0"),
        ({"resample": {"within": "5s"}}, "resample.block: is required"),
        ({"resample": {"block": "5s", "width": 3}}, "resample.width: unknown option"),
        ({"resample": {"block": "5s", "within": "1s"}}, "resample.within: must be at least a block"),
        ({"resample": "5s", "sessions": "closed"}, "resample: would tear sessions: closed apart"),
    ],
)
def test_what_makes_no_sense_is_refused(trace, options, words):
    with pytest.raises(ScenarioError, match=words):
        llmsim.simulate(scenario(trace, **options))


def test_a_trace_that_is_too_short_is_an_error_with_a_hint(trace):
    with pytest.raises(TraceError, match=r"less than two blocks of 3600 s\nhint: shorter blocks"):
        llmsim.simulate(scenario(trace, resample="1h"))


def test_without_the_times_of_a_trace_there_is_nothing_to_resample(trace):
    with pytest.raises(ScenarioError, match="resample: means nothing"):
        llmsim.simulate(scenario(trace, resample="5s").with_(request_rate=3))
