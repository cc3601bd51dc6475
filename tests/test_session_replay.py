"""Sessions of traces as closed loops: who follows whom, after which pause, and what of it a cache finds."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_closed_loop import ended, play

import llmsim
from llmsim.errors import LlmsimError
from llmsim.kvcache.names import BlockNames
from llmsim.workload.build import build
from llmsim.workload.request import History, Prefix
from llmsim.workload.spec import WorkloadSpec


@pytest.fixture
def trace(tmp_path):
    """Return a function that builds the closed replay of rows (JSON lines) or of a text."""

    def make(rows, *, max_model_len=100_000, on_too_long="reject", num_prompts=None, **options):
        text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "t.data").write_text(text)
        spec = WorkloadSpec(
            trace={"path": "t.data", "sessions": "closed", **options}, on_too_long=on_too_long, num_prompts=num_prompts
        )
        return build(spec, seed=0, max_model_len=max_model_len, base=tmp_path)

    return make


def served(workload, seconds=10.0):
    """Serve every request in the same time; return the requests by name."""
    done, _ = play(workload, lambda request: seconds, answered)
    return {request.id: request for request, _ in done}


def answered(request, end):
    return replace(ended(request, end), output_tokens=request.output_tokens)


def shared_blocks(one, other, size=16):
    given = BlockNames(size)
    pairs = zip(given.of(one), given.of(other), strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(given.of(one)), len(given.of(other))))


CHAT = [
    {"arrival_s": 0.0, "prompt_tokens": 100, "output_tokens": 50, "session_id": "a"},
    {"arrival_s": 1.0, "prompt_tokens": 30, "output_tokens": 5, "session_id": "b"},
    {"arrival_s": 4.0, "prompt_tokens": 180, "output_tokens": 50, "session_id": "a"},
    {"arrival_s": 9.0, "prompt_tokens": 60, "output_tokens": 50, "session_id": "a"},
    {"arrival_s": 9.5, "prompt_tokens": 70, "output_tokens": 50},
]


def test_turns_wait_for_the_end_of_the_turn_before_and_the_gap_of_the_trace(trace):
    found = served(trace(CHAT))

    # 10 s each: "a" begins at 0, ends at 10, goes on 4 s later, ends at 24, goes on 5 s later.
    assert {name: request.arrival_s for name, request in found.items()} == {
        "0": 0.0, "1": 1.0, "2": 14.0, "3": 29.0, "4": 9.5,
    }  # fmt: skip
    assert [found[name].turn for name in "01234"] == [0, 0, 1, 2, 0]
    assert [found[name].parent for name in "01234"] == [None, None, "0", "2", None]


def test_answers_are_found_where_the_next_prompt_can_hold_them(trace):
    found = served(trace(CHAT))

    assert shared_blocks(found["0"], found["2"]) == (100 + 50 - 1) // 16
    assert shared_blocks(found["2"], found["3"]) == 0  # 60 tokens can't hold 180 and 50: a new history
    assert shared_blocks(found["0"], found["1"]) == 0
    assert found["4"].prefix is None


def test_the_service_of_the_trace_is_taken_from_its_gaps(trace):
    plain, told = trace(CHAT), trace(CHAT, served_ms_per_token=40.0)

    # 50 tokens at 40 ms are 2 s of the gaps of 4 and 5 s.
    assert served(told)["3"].arrival_s == pytest.approx(10 + 2 + 10 + 3)
    assert served(plain, 0.0)["3"].arrival_s == 9.0
    assert "served_ms_per_token" in str(plain.warnings)
    assert not told.warnings


def test_speed_compresses_pauses_too(trace):
    found = served(trace(CHAT, speedup=2.0))
    assert (found["1"].arrival_s, found["2"].arrival_s, found["3"].arrival_s) == (0.5, 12.0, 24.5)


def test_burstgpt_knows_how_long_its_service_took(trace):
    text = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,abc,1.5,ChatGPT,40,18,58,Conversation log\n"
        "9,abc,0.5,ChatGPT,80,20,100,Conversation log\n"
    )
    workload = trace(text)

    assert served(workload)["1"].arrival_s == pytest.approx(10 + 4 - 1.5)
    assert not workload.warnings
    with pytest.raises(LlmsimError, match="column Elapsed time: 'soon' is not a time"):
        served(trace(text.replace("1.5", "soon")))


def test_pauses_of_aiperf_are_told_and_stand_for_times(trace):
    rows = [
        {"timestamp": 1000, "input_length": 64, "output_length": 20, "hash_ids": [1], "session_id": "x"},
        {"delay": 2500, "input_length": 100, "output_length": 20, "hash_ids": [1], "session_id": "x"},
        {"timestamp": 9000, "input_length": 64, "output_length": 20, "hash_ids": [7], "session_id": "y"},
    ]
    found = served(trace(rows))

    assert [found[name].arrival_s for name in "012"] == [0.0, 12.5, 8.0]
    with pytest.raises(LlmsimError, match="column delay: 'x' is not a pause"):
        served(trace([{**rows[0], "delay": "x"}]))
    with pytest.raises(LlmsimError, match="row 2: column timestamp: is missing"):
        served(trace([rows[0], {**rows[1], "session_id": "new"}]))


def bailian(name, parent, second, prompt, output, ids):
    return {
        "chat_id": name, "parent_chat_id": parent, "timestamp": second, "input_length": prompt,
        "output_length": output, "type": "text", "turn": 1, "hash_ids": ids,
    }  # fmt: skip


def test_bailian_turns_follow_their_parents_and_fork(trace):
    rows = [
        bailian(1, -1, 0.0, 40, 20, [1, 2, 3]),  # blocks of 16: the third is partial
        bailian(2, 1, 30.0, 100, 20, [1, 2, 13, 14, 15, 16, 17]),
        bailian(3, 1, 40.0, 90, 20, [1, 2, 23, 24, 25, 26]),
        bailian(9, 8, 41.0, 90, 20, [5, 6, 7, 8, 9, 10]),  # its parent is not in the trace
    ]
    found = served(trace(rows))

    assert {name: request.arrival_s for name, request in found.items()} == {"1": 0.0, "2": 40.0, "3": 50.0, "9": 41.0}
    assert found["1"].prefix == Prefix((1, 2, 13, 14), 16, answer=True)  # the first fork names the answer
    assert [found[name].session_id for name in "123"] == ["1", "1", "1"]
    assert shared_blocks(found["1"], found["2"]) == (40 + 20 - 1) // 16
    assert shared_blocks(found["1"], found["3"]) == 2


def test_names_of_answers_hold_through_partial_identifiers(trace):
    """Prompts of 700, 1,000 and 2,000 tokens in blocks of 512: the middle one's last identifier stands for a part."""
    rows = [
        {"timestamp": 0, "input_length": 700, "output_length": 100, "hash_ids": [1, 2]},
        {"timestamp": 1000, "input_length": 1000, "output_length": 200, "hash_ids": [1, 3]},
        {"timestamp": 2000, "input_length": 2000, "output_length": 200, "hash_ids": [1, 4, 5, 6]},
    ]
    for row in rows:
        row["session_id"] = "s"
    found = served(trace(rows))

    assert shared_blocks(found["0"], found["1"]) == (700 + 100 - 1) // 16
    assert shared_blocks(found["1"], found["2"]) == (1000 + 200 - 1) // 16


def test_mooncake_sessions_are_inferred_from_whole_identifiers(trace):
    rows = [
        {"timestamp": 0, "input_length": 1100, "output_length": 100, "hash_ids": [1, 2, 3]},
        {"timestamp": 1000, "input_length": 1200, "output_length": 5, "hash_ids": [1, 8, 9]},  # one in common
        {"timestamp": 2000, "input_length": 1600, "output_length": 5, "hash_ids": [1, 2, 4, 5]},
        {"timestamp": 3000, "input_length": 1150, "output_length": 5, "hash_ids": [1, 2, 6]},  # no room for the answer
    ]
    found = served(trace(rows))

    assert [found[name].parent for name in "0123"] == [None, None, "0", None]
    assert found["2"].arrival_s == 12.0
    assert shared_blocks(found["0"], found["2"]) == (1100 + 100 - 1) // 16


def test_agent_traces_tell_by_their_text_what_is_found(trace):
    begin, answer, more = "Fix the bug. " * 100, "I look at it. " * 20, "file.py has 3 lines. " * 50
    rows = [
        {"timestamp": 10**15, "input": begin, "output": answer, "session_id": "s"},
        {"timestamp": 10**15 + 5 * 10**6, "input": begin + answer + more, "output": "Done.", "session_id": "s"},
        {"timestamp": 10**15 + 7 * 10**6, "input": begin + more, "output": "Done.", "session_id": "s"},
    ]
    found = served(trace(rows))

    assert found["1"].arrival_s == 15.0
    assert shared_blocks(found["0"], found["1"]) == (325 + 70 - 1) // 16
    assert shared_blocks(found["0"], found["2"]) == 325 // 16  # that one left the answer out
    assert all(isinstance(request.prefix, Prefix) for request in found.values())


def test_a_replay_starts_again_and_every_row_becomes_one_request(trace):
    workload = trace(CHAT)
    first, again = served(workload), served(workload)

    assert first == again
    assert len(first) == len(CHAT) == workload.expected_requests


def test_tenants_priorities_and_deadlines_come_along(trace):
    rows = [{**row, "tenant": "t", "priority": 2, "slack_s": 0.5} for row in CHAT[:3]]
    (last,) = [request for request in served(trace(rows)).values() if request.turn == 1]

    assert (last.priority, last.arrival_s, last.deadline_s) == (2, 14.0, 14.5)


def test_a_turn_that_was_refused_is_followed_all_the_same(trace):
    workload = trace(CHAT, max_model_len=150)
    requests = {request.id: request for request in workload.start()}
    (second,) = workload.on_end(ended(requests["0"], 3.0, status="rejected"))

    assert (second.id, second.arrival_s) == ("2", 7.0)
    cut = served(trace(CHAT, max_model_len=150, on_too_long="truncate"))
    assert cut["2"].prompt_tokens == 100


@pytest.mark.parametrize(
    ("rows", "fields", "message"),
    [
        (CHAT, {"max_concurrency": 3}, "workload.trace.max_concurrency: does not work with sessions"),
        (CHAT, {"sessions": "both"}, "workload.trace.sessions: is not known"),
        (CHAT, {"sessions": "open", "served_ms_per_token": 5}, "means nothing without sessions: closed"),
        (CHAT, {"served_ms_per_token": -5}, "workload.trace.served_ms_per_token: must be at least 0"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10,20\n", {}, "t.data: has no sessions"),
        ("arrival_s,prompt_tokens,output_tokens\n0,10,20\n", {"start_s": 9}, "t.data: no request is left"),
        ("prompt_tokens,output_tokens\n10,20\n", {}, "workload.trace.sessions: need times"),
    ],
    ids=str,
)
def test_mistakes_are_named(trace, rows, fields, message):
    with pytest.raises(LlmsimError) as caught:
        list(trace(rows, **fields).start())
    assert message in str(caught.value)


@pytest.mark.parametrize("section", [{"arrival": {"request_rate": 1}}, {"closed_loop": {"concurrency": 1}}], ids=str)
def test_other_arrivals_mean_nothing(tmp_path, section):
    (tmp_path / "t").write_text("".join(json.dumps(row) + "\n" for row in CHAT))
    spec = WorkloadSpec(trace={"path": "t", "sessions": "closed"}, **section)
    with pytest.raises(LlmsimError, match=r"means nothing beside trace\.sessions: closed"):
        build(spec, seed=0, max_model_len=1000, base=tmp_path)


# ---------------------------------------------------------------------- through `simulate`


def simulated(path, *, leap=True, **trace_options):
    settings = {"model": "llama-3.1-8b", "gpu": "h100-sxm", "trace": str(path)}
    settings |= {f"workload.trace.{name}": value for name, value in trace_options.items()}
    return llmsim.simulate(llmsim.scenario(**settings), leap=leap)


def test_a_closed_replay_finds_answers_that_an_open_one_cannot_name(tmp_path):
    rows = [
        {"timestamp": 6000 * turn, "input_length": 1100 + 700 * turn, "output_length": 200,
         "hash_ids": [*range(1, -(-(1100 + 700 * turn) // 512)), 100 + turn]}
        for turn in range(6)
    ]  # fmt: skip
    path = tmp_path / "turns.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    closed, opened = simulated(path, sessions="closed"), simulated(path)

    assert [record.cached_tokens for record in closed.records[1:]] == [
        (1100 + 700 * turn + 200 - 1) // 16 * 16 for turn in range(5)
    ]
    assert [record.cached_tokens for record in opened.records[1:]] == [
        (1100 + 700 * turn) // 512 * 512 for turn in range(5)
    ]
    stepped = simulated(path, leap=False, sessions="closed")
    assert [replace(record, bill=None) for record in closed.records] == [
        replace(record, bill=None) for record in stepped.records
    ]
    for before, after in zip(closed.records, closed.records[1:], strict=False):
        assert after.arrival_s == pytest.approx(before.finished_s + 6.0)


def test_the_conversations_of_mooncake_have_as_many_follow_ups_as_was_counted(shared):
    """Counted by hand from hash chains of at least two blocks over the first hour: 38.7 % of 12,031 requests.

    The 4,000 rows here are its first twenty minutes, so fewer requests have their beginnings among them; and a
    prompt that leaves no room for the answer is not counted.
    """
    path = shared / "data" / "traces" / "mooncake" / "conversation_trace.first4000.jsonl"
    workload = build(WorkloadSpec(trace={"path": str(path), "sessions": "closed"}), seed=0, max_model_len=10**6)
    found = served(workload, 1.0)
    follow_ups = sum(request.parent is not None for request in found.values())

    assert len(found) == 4000
    assert 0.25 < follow_ups / 4000 < 0.387
    assert all(request.prefix is None or isinstance(request.prefix, Prefix | History) for request in found.values())


@pytest.mark.parametrize(("kind", "share"), [("miniswe", 0.937), ("magagent", 0.822), ("taubench", 0.65)])
def test_agent_sessions_find_what_was_measured(shared, kind, share):
    """Shares of leading blocks known from before, over all sessions (512 tokens a block); here a few."""
    hits = asked = 0
    for path in sorted((shared / "data" / "traces" / "lmcache_agent" / kind).iterdir()):
        workload = build(WorkloadSpec(trace={"path": str(path), "sessions": "closed"}), seed=0, max_model_len=10**6)
        given, known = BlockNames(512), set()
        for request in served(workload).values():
            blocks = given.of(request)
            whole = request.prompt_tokens // 512
            found = next((place for place, block in enumerate(blocks[:whole]) if block not in known), whole)
            hits, asked = hits + found, asked + whole
            known.update(blocks)
    assert hits / asked == pytest.approx(share, abs=0.02 if kind == "miniswe" else 0.1)
