"""Static batching by hand: padding, waiting for the longest answer, and the cache as if all were the longest."""

from __future__ import annotations

import pytest
from simulations import PlainPrices, options, run

from llmsim.workload.request import Request

PRICES = {"fixed": 0.25, "token": 1 / 64, "context": 1e-3, "bend": 0.0}


def simulate(requests, *, seats: int = 2, blocks: int = 1000, leap: bool = True):
    """Return the records by id."""
    records, engine = run(
        requests,
        engine=options(max_num_seqs=seats, cudagraph_sizes=()),
        blocks=blocks,
        scheduler="static",
        leap=leap,
        prices=[PlainPrices(**PRICES)],
    )
    assert engine.pool.free == engine.pool.blocks
    return {record.id: record for record in records}


def prompt_s(count: int, padded: int) -> float:
    """Price a step with ``count`` prompts of ``padded`` tokens, by hand (attention as in `PlainPrices`)."""
    return 0.25 + count * padded / 64 + count * padded * (padded / 2) * 1e-9


def decode_s(count: int, context: int) -> float:
    return 0.25 + count / 64 + count * context * 1e-3


@pytest.mark.parametrize("leap", [True, False])
def test_two_run_padded_until_the_longer_is_done_and_the_third_waits(leap):
    requests = [Request("short", 0.0, 10, 2), Request("long", 0.0, 30, 5), Request("late", 0.1, 20, 1)]
    records = simulate(requests, leap=leap)
    prompts = prompt_s(2, 30)
    end = prompts + sum(decode_s(2, context) for context in (31, 32, 33, 34))
    assert end == pytest.approx(2.5725009, abs=1e-7)
    for name in ("short", "long"):
        assert records[name].admitted_s == 0.0
        assert records[name].finished_s == pytest.approx(end, abs=1e-9)
    assert records["long"].first_token_s == pytest.approx(prompts, abs=1e-9)
    assert [records[name].output_tokens for name in ("short", "long", "late")] == [2, 5, 1]
    assert records["late"].admitted_s == pytest.approx(end, abs=1e-9)
    assert records["late"].finished_s == pytest.approx(end + prompt_s(1, 20), abs=1e-9)


def test_an_idle_engine_does_not_wait_for_its_batch_to_fill():
    records = simulate([Request("0", 0.0, 10, 1), Request("1", 0.01, 10, 1)], seats=8)
    assert records["0"].finished_s == pytest.approx(prompt_s(1, 10), abs=1e-9)
    assert records["1"].admitted_s == records["0"].finished_s


@pytest.mark.parametrize(("blocks", "together"), [(26, True), (25, False), (16, False)])
def test_the_cache_holds_each_as_if_it_were_the_longest(blocks, together):
    # Alone they hold 7 blocks each; padded to 100 + 100 tokens, of which the last is not computed, 13 each.
    records = simulate([Request("0", 0.0, 10, 100), Request("1", 0.0, 100, 10)], blocks=blocks)
    assert (records["1"].admitted_s == 0.0) is together
    assert all(record.status == "finished" for record in records.values())
