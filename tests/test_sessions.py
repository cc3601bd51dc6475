"""Sessions: who speaks when, what a prompt contains, and what a cache finds of it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from test_closed_loop import ended, play

import llmsim
from llmsim.errors import LlmsimError, ScenarioError
from llmsim.kvcache.names import BlockNames
from llmsim.results.text import closing
from llmsim.workload.build import build
from llmsim.workload.convert import generate
from llmsim.workload.distributions import Geometric
from llmsim.workload.spec import WorkloadSpec

FIXED = {"turns": 4, "first_message": 100, "message": 30, "output": 50, "count": 6}
DRAWN = {
    "turns": {"mean": 5},
    "first_message": {"median": 300, "sigma": 0.8, "max": 2000},
    "message": {"median": 40, "sigma": 0.8, "max": 500},
    "output": {"median": 60, "sigma": 0.7, "max": 300},
    "think_time_s": {"mean": 3.0},
    "tools": {"share": 0.4, "time_s": 0.25, "result": {"median": 200, "sigma": 1.0, "max": 900}},
    "system_prompt": {"tokens": 200, "count": 3, "zipf": 1.0, "share": 0.7},
    "count": 40,
}


def made(sessions, seed=0, longest=100_000, **fields):
    return build(WorkloadSpec(sessions=sessions, **fields), seed=seed, max_model_len=longest)


def served(workload, service=lambda request: 1.0 + request.output_tokens / 50):
    """Serve all requests; return those of each session with their ends, in order."""

    def answered(request, end):
        return replace(ended(request, end), output_tokens=request.output_tokens)

    found: dict[str, list] = {}
    for request, end in play(workload, service, answered)[0]:
        found.setdefault(request.session_id, []).append((request, end))
    return found


# ---------------------------------------------------------------------- turns


def test_prompts_are_all_that_was_said_before_and_a_message():
    found = served(made(FIXED, arrival={"kind": "poisson", "request_rate": 2.0}))

    assert list(found) == [str(number) for number in range(6)]
    for number, turns in found.items():
        requests = [request for request, _ in turns]
        assert [request.prompt_tokens for request in requests] == [100, 180, 260, 340]
        assert [request.turn for request in requests] == [0, 1, 2, 3]
        assert [request.id for request in requests] == [f"{number}-{turn}" for turn in range(4)]
        assert [request.parent for request in requests] == [None, *(request.id for request in requests[:-1])]
        assert len({request.prefix for request in requests}) == 1


@pytest.mark.parametrize("fields", [{}, {"users": 4}, {"users": 4, "rest_s": 5.0, "ramp_s": 2.0}], ids=str)
def test_a_turn_comes_when_the_one_before_has_ended_and_its_pause_is_over(fields):
    arrival = None if fields else {"kind": "poisson", "request_rate": 1.0}
    found = served(made({**DRAWN, **fields}, arrival=arrival))
    pauses = []
    for turns in found.values():
        for (one, end), (two, _) in pairwise(turns):
            assert two.turn == one.turn + 1
            assert two.arrival_s >= end
            assert two.prompt_tokens > one.prompt_tokens + one.output_tokens
            pauses.append(two.arrival_s - end)

    assert len(found) == 40
    assert sum(pause == pytest.approx(0.25) for pause in pauses) / len(pauses) == pytest.approx(0.4, abs=0.12)
    assert max(pauses) > 3


def test_users_have_one_session_at_a_time():
    workload = made({**FIXED, "users": 2, "rest_s": 7.0, "think_time_s": 1.0})
    _, most = play(workload, lambda request: 2.0, lambda request, end: replace(ended(request, end), output_tokens=50))
    found = served(workload, lambda request: 2.0)

    assert most == 2
    # A session: four turns of 2 s, three pauses of 1 s; then a rest of 7 s.
    assert sorted(turns[0][0].arrival_s for turns in found.values()) == [0.0, 0.0, 18.0, 18.0, 36.0, 36.0]


def test_what_is_said_does_not_depend_on_when_sessions_begin_or_how_long_answers_take():
    def said(workload, service):
        return {
            name: [(request.prompt_tokens, request.output_tokens, request.prefix) for request, _ in turns]
            for name, turns in sorted(served(workload, service).items())
        }

    slow = said(made(DRAWN, arrival={"request_rate": 0.1}), lambda request: 60.0)
    fast = said(made({**DRAWN, "users": 3}), lambda request: 0.1)
    fewer = said(made({**DRAWN, "count": 10}), lambda request: 1.0)

    assert slow == fast
    assert fewer == {name: slow[name] for name in fewer}
    assert said(made(DRAWN, seed=1), lambda request: 1.0) != slow


def test_the_limit_on_requests_counts_turns():
    workload = made(FIXED, num_prompts=9)
    assert sum(len(turns) for turns in served(workload).values()) == workload.expected_requests == 9


def test_a_turn_that_fails_ends_its_session_and_its_user_begins_another():
    workload = made({**FIXED, "users": 1})
    (first,) = workload.start()
    (second,) = workload.on_end(ended(first, 1.0, status="rejected"))

    assert (first.session_id, second.session_id, second.turn) == ("0", "1", 0)
    assert list(workload.on_end(ended(replace(first, id="nobody's"), 2.0))) == []


def test_turns_of_a_session_are_geometric():
    values = Geometric(5.0).quantile(np.linspace(0.0, 1.0, 100_001)[:-1])

    assert values.min() == 1
    assert values.mean() == pytest.approx(5.0, rel=2e-3)
    assert np.mean(values == 1) == pytest.approx(1 / 5, abs=1e-4)
    assert np.mean(values > 10) == pytest.approx(0.8**10, abs=1e-4)
    assert set(Geometric(1.0).quantile(np.array([0.0, 0.999]))) == {1.0}


# ---------------------------------------------------------------------- windows


def test_a_history_that_is_too_long_forgets_its_oldest_turns():
    (turns,) = served(made({**FIXED, "turns": 7, "count": 1, "history": 250})).values()
    requests = [request for request, _ in turns]

    # After the first: 150 tokens of history; then 230; then 310, too many: the first turn's 150 go, and 160 are left;
    # then 240; then 320: two more turns are known by then, the oldest 80 go.
    assert [request.prompt_tokens for request in requests] == [100, 180, 260, 190, 270, 270, 270]
    names = [request.prefix.name for request in requests]
    assert [a == b for a, b in pairwise(names)] == [True, True, False, True, False, False]


def test_forgetting_more_at_once_keeps_the_names_longer():
    (turns,) = served(made({**FIXED, "turns": 12, "count": 1, "history": 400, "keep": 0.5})).values()
    names = [request.prefix.name for request, _ in turns]

    assert max(request.prompt_tokens for request, _ in turns) <= 430
    # Before the sixth turn 150 + 4 * 80 = 470 tokens are known: at most 200 are kept, 160.  Before the tenth, 480.
    assert [names.count(name) for name in dict.fromkeys(names)] == [5, 4, 3]


@pytest.mark.parametrize(("rule", "prompts"), [("end", [100, 180]), ("forget", [100, 180, 180, 180])])
def test_a_session_that_meets_the_end_of_the_context_window(rule, prompts):
    # The third prompt would be 260 + 50 tokens; at 240 the oldest turn's 150 go, and 80 + 30 are left ... but the
    # second has 80 tokens only, so the third prompt is 110.
    workload = made({**FIXED, "on_overflow": rule, "count": 1}, longest=240)
    (turns,) = served(workload).values()
    found = [request.prompt_tokens for request, _ in turns]

    assert found == (prompts if rule == "end" else [100, 180, 110, 190])
    assert ("ended early" in str(workload.warnings)) == (rule == "end")
    assert ("forgot" in str(workload.warnings)) == (rule == "forget")


def test_a_first_message_that_never_fits_follows_the_rule_of_the_context_window():
    assert len(served(made({**FIXED, "first_message": 300, "count": 1}, longest=240))["0"]) == 1
    cut = made(
        {**FIXED, "first_message": 300, "count": 1, "on_overflow": "forget"}, longest=240, on_too_long="truncate"
    )
    assert [request.prompt_tokens for request, _ in served(cut)["0"]] == [190, 30, 110, 190]
    with pytest.raises(ScenarioError, match="exceed max_model_len 240"):
        list(made({**FIXED, "first_message": 300}, longest=240, on_too_long="error").start())


def test_system_prompts_lie_in_front_and_stay_when_turns_are_forgotten():
    found = served(made({**DRAWN, "history": 600, "count": 200}))
    fronts = [turns[0][0].prefix.parts for turns in found.values()]

    assert {parts[0][1] for parts in fronts if parts} == {200}
    assert np.mean([bool(parts) for parts in fronts]) == pytest.approx(0.7, abs=0.1)
    names = [parts[0][0] for parts in fronts if parts]
    assert [names.count(f"system prompt {number}") for number in range(3)] == sorted(
        (names.count(name) for name in set(names)), reverse=True
    )
    for turns in found.values():
        assert len({request.prefix.parts for request, _ in turns}) == 1


# ---------------------------------------------------------------------- in a simulation


def simulated(sessions, *, leap=True, **changes):
    settings = {
        "model": "llama-3.1-8b", "gpu": "h100-sxm", "seed": 1, "workload.sessions": sessions,
        "workload.num_prompts": None, **changes,
    }  # fmt: skip
    return llmsim.simulate(llmsim.scenario(**settings), leap=leap)


def test_an_unlimited_cache_finds_what_block_rounding_leaves():
    """Turn n finds floor((prompt + output of turn n - 1, less the last token) / 16) blocks, computed by hand.

    First prompts of 100 tokens are nobody else's: 0.  Then 100 + 50 - 1 = 149 tokens: 9 blocks, 144.  Then
    180 + 50 - 1 = 229: 14 blocks, 224.  Then 309: 19 blocks, 304.
    """
    run = simulated({**FIXED, "users": 3, "think_time_s": 0.5})

    assert len(run.records) == 24
    for record in run.records:
        assert record.cached_tokens == [0, 144, 224, 304][record.turn]
    assert run.counts["prefix_hit_tokens"] == 6 * (144 + 224 + 304)
    assert run.resources["prefix_hit_rate"] == pytest.approx((144 + 224 + 304) / (100 + 180 + 260 + 340))
    assert "prefix hits 76%" in " ".join(closing(run))


def test_shared_system_prompts_are_found_by_later_sessions():
    # 40 tokens of system prompt: two whole blocks, of which the first session pays.
    run = simulated({**FIXED, "users": 1, "system_prompt": {"tokens": 40}})
    first = [record.cached_tokens for record in run.records if record.turn == 0]

    assert first == [0, 32, 32, 32, 32, 32]


def test_random_sessions_find_what_their_names_say():
    run = simulated({**DRAWN, "users": 6})
    requests = {
        request.id: request for turns in served(made({**DRAWN, "users": 6}, seed=1)).values() for request, _ in turns
    }
    given, known, expected = BlockNames(16), set(), {}
    for name in sorted(requests, key=lambda name: tuple(map(int, name.split("-")))):
        blocks = given.of(requests[name])
        prompt = requests[name].prompt_tokens
        hits = 0
        while hits < (prompt - 1) // 16 and blocks[hits] in known:
            hits += 1
        expected[name] = 16 * hits
        known.update(blocks)

    assert {record.id for record in run.records} == set(requests)
    for record in run.records:
        if record.turn:  # which session is the first with a system prompt depends on the order of arrival
            assert record.cached_tokens == expected[record.id]


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("blocks", [None, 400, 170])
def test_sessions_leap_as_they_step(blocks, asynchronous):
    changes = {"async_scheduling": asynchronous, "max_model_len": 2600} | (
        {"num_gpu_blocks_override": blocks} if blocks else {}
    )
    sessions = {**DRAWN, "users": 12, "history": 1200, "think_time_s": {"mean": 0.2}}

    leapt, stepped = simulated(sessions, **changes), simulated(sessions, leap=False, **changes)

    assert [replace(record, bill=None) for record in leapt.records] == [
        replace(record, bill=None) for record in stepped.records
    ]
    assert leapt.counts["finished"] > 100
    if blocks == 170:
        assert leapt.counts["preemptions"] > 0


def test_a_smaller_cache_finds_less():
    sessions = {**DRAWN, "users": 12, "history": 1200}
    rates = [
        simulated(sessions, max_model_len=2600, num_gpu_blocks_override=blocks).resources["prefix_hit_rate"]
        for blocks in (170, 500, 20_000)
    ]
    assert rates == sorted(rates)
    assert rates[0] < 0.9 * rates[-1]
    assert simulated(sessions, max_model_len=2600, enable_prefix_caching=False).resources["prefix_hit_rate"] == 0.0


def test_tables_have_session_and_turn():
    run = simulated({**FIXED, "users": 2})
    frame = run.requests

    assert frame.groupby("turn").size().tolist() == [6, 6, 6, 6]
    assert (frame["request_id"] == frame["session_id"] + "-" + frame["turn"].astype(str)).all()


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"sessions": {}}, "workload.sessions.turns: is required"),
        ({"sessions": {"turns": 3, "message": 5}}, "workload.sessions.output: is required"),
        ({"sessions": {**FIXED, "turns": 0}}, "workload.sessions.turns: must be at least 1"),
        ({"sessions": {**FIXED, "turns": {"mean": 0.5}}}, "workload.sessions.turns.mean: must be at least 1"),
        ({"sessions": {**FIXED, "turn": 3}}, "workload.sessions.turn: unknown option\nhint: did you mean turns?"),
        ({"sessions": {**FIXED, "history": "some"}}, "workload.sessions.history: must be whole, or the most tokens"),
        ({"sessions": {**FIXED, "history": 0}}, "workload.sessions.history: must be at least 1"),
        ({"sessions": {**FIXED, "keep": 2}}, "workload.sessions.keep: must be at most 1"),
        ({"sessions": {**FIXED, "on_overflow": "stop"}}, "workload.sessions.on_overflow: is not known"),
        ({"sessions": {**FIXED, "rest_s": 3}}, "workload.sessions.rest_s: means nothing without users"),
        ({"sessions": {**FIXED, "tools": {"result": 5}}}, "workload.sessions.tools.share: is required"),
        ({"sessions": {**FIXED, "tools": {"share": 0.5}}}, "workload.sessions.tools.result: is required"),
        ({"sessions": {**FIXED, "system_prompt": {}}}, "workload.sessions.system_prompt.tokens: is required"),
        ({"sessions": {**FIXED, "system_prompt": {"tokens": 10**9}}}, "must be less than max_model_len"),
        ({"sessions": {**FIXED, "users": 2}, "arrival": {"request_rate": 1}}, "workload.arrival: sessions.users begin"),
        ({"sessions": FIXED, "arrival": {"request_rate": 1, "max_concurrency": 3}}, "workload.arrival.max_concurrency"),
        ({"sessions": FIXED, "closed_loop": {"concurrency": 3}}, "workload.closed_loop: means nothing beside sessions"),
        ({"sessions": FIXED, "dataset": {"name": "random"}}, "workload.dataset: means nothing beside sessions"),
        ({"sessions": FIXED, "trace": {"path": "chat-200"}}, "workload.sessions: the trace gives the sessions"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named(fields, message):
    with pytest.raises(LlmsimError) as caught:
        build(WorkloadSpec(**fields), seed=0, max_model_len=10_000)
    assert message in str(caught.value)


def test_without_a_count_arrivals_at_once_have_no_end():
    sessions = {name: value for name, value in FIXED.items() if name != "count"}

    with pytest.raises(ScenarioError, match=r"workload\.sessions\.count"):
        made(sessions, num_prompts=5)
    assert len(list(made(sessions).start())) == 100


def test_sessions_have_no_times_to_write(tmp_path):
    with pytest.raises(ScenarioError, match="only once it was simulated"):
        generate(made(FIXED), tmp_path / "t.csv")


def test_a_scenario_with_sessions_is_read_and_told(tmp_path):
    base = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", **{"workload.sessions": {**FIXED, "users": 3}})
    changed = base.with_({"workload.sessions.users": 5})

    assert changed.to_dict()["workload"]["sessions"]["users"] == 5
    assert "closed_loop" in base.with_(concurrency=4).to_dict()["workload"]
    assert "sessions" not in base.with_(concurrency=4).to_dict()["workload"]
