"""Tenants, priorities and deadlines: from the columns of a trace, and drawn for a generated workload."""

import json
import math
from collections import Counter
from itertools import pairwise
from types import SimpleNamespace

import pytest

import llmsim
from llmsim.errors import ScenarioError, TraceError
from llmsim.workload.build import build
from llmsim.workload.convert import generate
from llmsim.workload.spec import WorkloadSpec
from llmsim.workload.tenants import mixed, read_tenants

CSV = """arrival_s,prompt_tokens,output_tokens,tenant,priority,deadline_s
10,100,5,chat,0,12.5
11,200,6,batch,3,
12,300,7,,-1,11.5
"""


def workload(seed: int = 0, **spec):
    return build(WorkloadSpec(**spec), seed=seed, max_model_len=10**6)


def labels(requests) -> list[tuple]:
    return [(request.tenant, request.priority, request.deadline_s) for request in requests]


def replayed(tmp_path, text: str, name: str = "trace.csv", **options):
    path = tmp_path / name
    path.write_text(text)
    return list(workload(trace={"path": str(path), **options}).start())


# ---------------------------------------------------------------------- columns of a trace


def test_columns_say_who_asks_and_how_urgent_it_is(tmp_path):
    """Times begin at the first request, deadlines with them: 12.5 is 2.5 s after 10."""
    expected = [("chat", 0, 2.5), ("batch", 3, None), (None, -1, 1.5)]
    assert labels(replayed(tmp_path, CSV)) == expected
    assert labels(replayed(tmp_path, CSV, origin="file")) == [("chat", 0, 12.5), ("batch", 3, None), (None, -1, 11.5)]


def test_speed_moves_arrivals_and_leaves_clients_their_patience(tmp_path):
    """Twice as fast the third request arrives at 1 s instead of 2 s, and still wants its token 0.5 s earlier."""
    assert labels(replayed(tmp_path, CSV, speedup=2.0)) == [("chat", 0, 2.5), ("batch", 3, None), (None, -1, 0.5)]


def test_a_slack_counts_from_the_arrival_in_any_unit_of_time(tmp_path):
    text = "timestamp_ms,input_tokens,output_tokens,slack_s\n5000,10,5,0.25\n6000,10,5,\n7000,10,5,2\n"
    assert labels(replayed(tmp_path, text)) == [(None, 0, 0.25), (None, 0, None), (None, 0, 4.0)]
    text = text.replace("slack_s", "deadline_s").replace("0.25", "5.25").replace("5,2\n", "5,9\n")
    assert labels(replayed(tmp_path, text)) == [(None, 0, 0.25), (None, 0, None), (None, 0, 4.0)]


def test_where_a_row_has_both_the_slack_holds(tmp_path):
    text = "arrival_s,prompt_tokens,output_tokens,slack_s,deadline_s\n0,10,5,3,7\n1,10,5,,7\n"
    assert labels(replayed(tmp_path, text)) == [(None, 0, 3.0), (None, 0, 7.0)]


def test_lines_of_json_have_them_too(tmp_path):
    rows = [
        {"arrival_s": 1, "prompt_tokens": 10, "output_tokens": 5, "tenant": "a", "priority": 2, "deadline_s": 4.5},
        {"arrival_s": 2, "prompt_tokens": 10, "output_tokens": 5, "tenant": None, "deadline_s": None},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    assert labels(replayed(tmp_path, text, "trace.jsonl")) == [("a", 2, 3.5), (None, 0, None)]


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("priority", "high", r"trace.csv:row 2: column priority: 'high' is not a number"),
        ("priority", "1.5", r"trace.csv:row 2: column priority: 1.5 is not a whole number"),
        ("deadline_s", "soon", r"trace.csv:row 2: column deadline_s: 'soon' is not a number"),
        ("slack_s", "inf", r"trace.csv:row 2: column slack_s: 'inf' is not a number"),
    ],
)
def test_a_broken_cell_is_an_error_with_its_place(tmp_path, column, cell, message):
    with pytest.raises(TraceError, match=message):
        replayed(tmp_path, f"arrival_s,prompt_tokens,output_tokens,{column}\n0,10,5,{cell}\n")


def test_a_deadline_needs_an_arrival(tmp_path):
    path = tmp_path / "lengths.csv"
    path.write_text("prompt_tokens,output_tokens,deadline_s\n10,5,3\n")
    lengths = workload(trace={"path": str(path)}, arrival={"request_rate": 1.0}, num_prompts=1)
    with pytest.raises(TraceError, match="column deadline_s: means nothing without arrivals"):
        list(lengths.start())


def test_what_is_written_is_read_again(tmp_path):
    spec = {
        "dataset": {"tenants": {"a": 1, "b": {"weight": 2, "priority": 4, "slack_s": 0.5}}},
        "arrival": {"request_rate": 5},
        "num_prompts": 40,
    }
    made = list(workload(**spec).start())
    path = tmp_path / "kept.csv"
    assert generate(workload(**spec), path) == 40
    assert path.read_text().startswith("arrival_s,prompt_tokens,output_tokens,tenant,priority,slack_s\n")
    again = list(workload(trace={"path": str(path), "origin": "file"}).start())
    for one, other in zip(made, again, strict=True):
        assert (one.tenant, one.priority) == (other.tenant, other.priority)
        assert other.deadline_s == (None if one.deadline_s is None else pytest.approx(one.deadline_s, abs=1e-8))


# ---------------------------------------------------------------------- drawn tenants


def test_tenants_have_their_shares():
    """Four standard errors of a share p of n draws: 4 sqrt(p (1 - p) / n)."""
    count = 20_000
    tenants = {"a": 5, "b": 3, "c": {"weight": 2}}
    requests = workload(dataset={"tenants": tenants}, arrival={"request_rate": 10}, num_prompts=count).start()
    drawn = Counter(request.tenant for request in requests)
    for name, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs(drawn[name] / count - share) < 4 * math.sqrt(share * (1 - share) / count)


def test_neighbours_are_independent():
    """Of n pairs of neighbours, a quarter should be two of the rarer half: four standard errors."""
    requests = workload(dataset={"tenants": {"a": 1, "b": 1}}, arrival={"request_rate": 10}, num_prompts=10_001).start()
    names = [request.tenant for request in requests]
    pairs = sum(one == other == "a" for one, other in pairwise(names)) / 10_000
    assert abs(pairs - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 10_000) * 1.5


def test_priorities_and_deadlines_come_with_the_tenant():
    tenants = {"chat": {"weight": 0.6, "slack_s": 1.5}, "batch": {"weight": 0.4, "priority": 2}}
    for request in workload(dataset={"tenants": tenants}, arrival={"request_rate": 10}, num_prompts=50).start():
        if request.tenant == "chat":
            assert (request.priority, request.deadline_s) == (0, request.arrival_s + 1.5)
        else:
            assert (request.tenant, request.priority, request.deadline_s) == ("batch", 2, None)


def test_tenants_change_nothing_else_and_belong_to_the_seed():
    spec = {"arrival": {"request_rate": 10}, "num_prompts": 60}
    dataset = {"name": "lognormal", "prompt": {"mean": 90, "sd": 30}, "output": {"mean": 20, "sd": 9}}
    tenants = {"tenants": {"a": 1, "b": 1}}
    plain = list(workload(dataset=dataset, **spec).start())
    given = list(workload(dataset=dataset | tenants, **spec).start())
    bodies = [
        [(one.id, one.arrival_s, one.prompt_tokens, one.output_tokens) for one in some] for some in (plain, given)
    ]
    assert bodies[0] == bodies[1]
    assert labels(given) == labels(workload(dataset=dataset | tenants, **spec).start())
    assert labels(given) != labels(workload(1, dataset=dataset | tenants, **spec).start())
    other = {**spec, "arrival": {"kind": "all_at_once"}}
    assert labels(given) == labels(workload(dataset=dataset | tenants, **other).start())


def test_a_closed_loop_and_a_trace_can_have_drawn_tenants(tmp_path):
    dataset = {"tenants": {"a": 1, "b": 1}}
    loop = workload(dataset=dataset, closed_loop={"concurrency": 4}, num_prompts=10)
    first = list(loop.start())
    following = [request for number in range(6) for request in loop.on_end(ended(first[number % 4]))]
    drawn = {request.id: request.tenant for request in (*first, *following)}
    open_loop = workload(dataset=dataset, arrival={"request_rate": 3}, num_prompts=10).start()
    assert drawn == {request.id: request.tenant for request in open_loop}
    path = tmp_path / "trace.csv"
    path.write_text(CSV)
    names = [request.tenant for request in workload(trace={"path": str(path)}, dataset=dataset).start()]
    assert names == [drawn[str(number)] for number in range(3)]  # in place of the trace's own


def ended(request):
    """Return all that a workload looks at in a record; every request takes a second."""
    return SimpleNamespace(id=request.id, arrival_s=request.arrival_s, finished_s=request.arrival_s + 1.0)


def test_a_request_that_was_held_back_keeps_its_slack():
    spec = {"dataset": {"tenants": {"a": {"weight": 1, "slack_s": 2}}}, "num_prompts": 3}
    capped = workload(arrival={"request_rate": 10, "max_concurrency": 1}, **spec)
    first = next(capped.start())
    (second,) = capped.on_end(ended(first))
    assert second.arrival_s == first.arrival_s + 1.0
    assert second.deadline_s == second.arrival_s + 2.0


def test_a_traces_deadline_moves_with_a_request_that_was_held_back(tmp_path):
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,prompt_tokens,output_tokens,slack_s\n0,10,5,1\n0.5,10,5,2\n")
    capped = workload(trace={"path": str(path), "max_concurrency": 1})
    first = next(capped.start())
    (second,) = capped.on_end(ended(first))
    assert (second.arrival_s, second.deadline_s) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("tenants", "message"),
    [
        ([], r"workload.dataset.tenants: must map names of tenants to weights"),
        ({}, r"must map names of tenants to weights"),
        ({"a": 0}, r"workload.dataset.tenants.a: must be more than 0 \(got 0\)"),
        ({"a": "much"}, r"workload.dataset.tenants.a: must be a number"),
        ({"a": {}}, r"workload.dataset.tenants.a.weight: is required"),
        (
            {"a": {"weight": 1, "slack": 2}},
            r"workload.dataset.tenants.a.slack: unknown option\nhint: did you mean slack_s",
        ),
        ({"a": {"weight": 1, "slack_s": -2}}, r"workload.dataset.tenants.a.slack_s: must be at least 0"),
        ({"a": {"weight": 1, "priority": 1.5}}, r"workload.dataset.tenants.a.priority: must be a whole number"),
    ],
)
def test_bad_tenants_are_refused(tenants, message):
    with pytest.raises(ScenarioError, match=message):
        workload(dataset={"tenants": tenants})


def test_shares_add_up_to_one():
    tenants = read_tenants({"a": 3, 7: {"weight": 1}}, "here")
    assert [(tenant.name, tenant.share) for tenant in tenants] == [("a", 0.75), ("7", 0.25)]


def test_mixing_is_splitmix64():
    """The first outputs of SplitMix64 from the state 0, as its authors' reference code gives them."""
    golden = 0x9E3779B97F4A7C15
    assert [mixed(golden * step % 2**64) for step in range(3)] == [
        0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F,
    ]  # fmt: skip


def test_tenants_and_their_deadlines_reach_the_scheduler_and_the_records():
    tenants = {"a": 1, "b": {"weight": 1, "slack_s": 1}}
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=8, num_prompts=40)
    scenario = scenario.with_({"workload.dataset": {"tenants": tenants}})
    for name in ("fair", "earliest_deadline", "shortest_job_first"):
        run = llmsim.simulate(scenario.with_({"scheduler": name}))
        assert {record.tenant for record in run.records} == {"a", "b"}
        assert {record.status for record in run.records} == {"finished"}
