"""`assert_not_worse`, as a user's own repository meets it, and what it decides by hand."""

from __future__ import annotations

import pandas
import pytest

import llmsim
from llmsim.errors import InputError
from llmsim.testing import assert_not_worse

pytest_plugins = ["pytester"]


@pytest.fixture(scope="module")
def chat():
    return llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=20, num_prompts=60)


def table(values, metric="p99_ttft_ms", seeds=None):
    seeds = seeds or range(len(values))
    return pandas.DataFrame({"seed": list(seeds), "status": "ok", "reason": "", metric: values})


def test_scenarios_are_paired_over_replications(chat):
    assert_not_worse(chat, chat, "p99_ttft_ms", by=0.0)
    assert_not_worse(chat.with_(gpu="a100-sxm"), chat, "p99_ttft_ms", by=0.0)
    with pytest.raises(AssertionError, match=r"p99_ttft_ms: was .* worse, at most 5.0% is allowed") as failed:
        assert_not_worse(chat, chat.with_(gpu="a100-sxm"), "p99_ttft_ms", replications=3)
    assert "3 paired replications, 95% interval" in str(failed.value)
    assert "hint" not in str(failed.value)


def test_runs_texts_and_other_percentiles_will_do(chat):
    run = llmsim.simulate(chat)
    assert_not_worse(run, chat.to_dict(), "p75_tpot_ms", replications=2)
    assert_not_worse(run, run, "output_throughput", replications=2)


def test_both_face_the_seeds_of_the_first(chat):
    assert_not_worse(chat, chat.with_(seed=99), "mean_ttft_ms", by=0.0, replications=2)


def test_where_nothing_is_random_two_values_are_compared(chat):
    told = {"arrival": {"kind": "constant", "request_rate": 8}, "dataset": {"name": "fixed", "prompt": 64, "output": 8},
            "num_prompts": 20}  # fmt: skip
    fixed = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", workload=told)
    assert_not_worse(fixed, fixed, "mean_ttft_ms", by=0.0)
    with pytest.raises(AssertionError) as failed:
        assert_not_worse(fixed, fixed.with_(gpu="a100-sxm"), "mean_ttft_ms", by=0.0)
    assert "paired" not in str(failed.value)


def test_a_table_decides_by_its_interval():
    """Differences 1, 2, 3: mean 2, s 1, t(2) = 4.3027, so the interval is 2 -+ 2.484: up to 4.5 % of 100."""
    before, after = table([100, 100, 100]), table([101, 102, 103])
    assert_not_worse(before, after, "p99_ttft_ms", by=0.0449)
    with pytest.raises(AssertionError, match="not enough to tell"):
        assert_not_worse(before, after, "p99_ttft_ms", by=0.0448)
    with pytest.raises(AssertionError, match=r"interval -0.5% to \+4.5%"):
        assert_not_worse(before, after, "p99_ttft_ms", by=0.01)


def test_pairs_follow_the_seeds_and_noise_in_common_drops_out():
    before = table([100, 200, 300], seeds=[1, 2, 3])
    assert_not_worse(before, table([303, 202, 101], seeds=[3, 2, 1]), "p99_ttft_ms", by=0.03)


def test_of_a_throughput_less_is_worse():
    before, after = table([100, 100], "output_throughput"), table([90, 90], "output_throughput")
    assert_not_worse(after, before, "output_throughput")
    with pytest.raises(AssertionError, match=r"\+10.0% worse"):
        assert_not_worse(before, after, "output_throughput")


def test_what_cannot_be_compared(chat):
    good = table([1.0, 2.0])
    failed = good.assign(status="infeasible", reason="too large")
    for pair, message in (
        ((good, chat), "two tables"),
        ((good, table([1.0, 2.0], seeds=[5, 6])), "different seeds"),
        ((good, failed), "too large"),
        ((good, table([1.0, float("nan")])), "has no p99_ttft_ms"),
        ((good, table([1.0, 2.0], seeds=[1, 1])), "same seed"),
        ((good, table([1.0, 2.0], "p95_ttft_ms")), "no column 'p99_ttft_ms'"),
    ):
        with pytest.raises(InputError, match=message):
            assert_not_worse(*pair, "p99_ttft_ms")
    with pytest.raises(InputError, match="not negative"):
        assert_not_worse(good, good, "p99_ttft_ms", by=-0.1)
    with pytest.raises(InputError, match="no column 'speed'"):
        assert_not_worse(chat, chat, "speed", replications=2)


def test_it_works_in_somebody_elses_repository(chat, pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest")
    pytester.makepyfile(
        """
        import llmsim
        import pytest
        from llmsim.testing import assert_not_worse

        CHAT = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=20, num_prompts=40)

        def test_more_seats_do_no_harm():
            assert_not_worse(CHAT.with_(max_num_seqs=8), CHAT, "p99_ttft_ms", by=0.05, replications=2)

        def test_fewer_seats_do():
            assert_not_worse(CHAT, CHAT.with_(max_num_seqs=1), "p99_ttft_ms", by=0.05, replications=2)
        """
    )
    result = pytester.runpytest()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["E *AssertionError: p99_ttft_ms: was *, it is * worse, at most 5.0% is allowed)"])
