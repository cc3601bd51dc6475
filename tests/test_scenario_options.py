"""Plain options in Python: short names, a trace with its own options, and what is said of a mistake."""

import pytest

import llmsim
from llmsim.errors import ScenarioError

MACHINE = {"model": "llama-3.1-8b", "gpu": "h100-sxm"}


def test_a_trace_may_come_with_its_options():
    told = llmsim.scenario(**MACHINE, trace={"path": "chat-200", "limit": 20}, speedup=2)
    assert told.workload.trace.path == "chat-200"
    assert told.workload.trace.speedup == 2
    assert len(llmsim.simulate(told).requests) == 20


def test_a_sweep_goes_over_the_speed_of_a_trace():
    base = llmsim.scenario(**MACHINE, trace={"path": "chat-200", "limit": 20})
    table = llmsim.sweep(base, {"speedup": [1, 2]})
    assert table["status"].to_list() == ["ok", "ok"]
    assert table["duration"].iloc[1] < table["duration"].iloc[0]
    means = llmsim.summarise(table)
    assert means["p99_ttft_ms"].to_list() == table["p99_ttft_ms"].to_list()
    assert llmsim.summarise(table, "p50_e2el_ms")["p50_e2el_ms"].to_list() == table["p50_e2el_ms"].to_list()
    assert llmsim.paired(table, "speedup", "p99_ttft_ms")["metric"].to_list() == ["p99_ttft_ms"]


@pytest.mark.parametrize(("options", "message"), [
    ({**MACHINE, "requst_rate": 4}, r"requst_rate: unknown key \(did you mean 'request_rate'\?\)"),
    ({**MACHINE, "max_num_seq": 4}, r"max_num_seq: unknown key \(did you mean 'max_num_seqs'\?\)"),
    ({"model": "llama-3.1-8b"}, r"cluster: missing\nhint: gpu="),
])  # fmt: skip
def test_a_mistake_is_told_with_what_was_meant(options, message):
    with pytest.raises(ScenarioError, match=message):
        llmsim.scenario(**options)
