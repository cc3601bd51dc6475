"""Timelines for Perfetto: valid by its rules, complete, capped with a note, and true to the records."""

import json

import numpy as np
import pytest
from perfetto_rules import problems, read
from synthetic import synthetic_run

import llmsim
from llmsim.errors import InputError
from llmsim.results.perfetto import save_timeline


def events(document, phase, **fields):
    """Return the events of a phase whose fields are these."""
    chosen = [event for event in document["traceEvents"] if event["ph"] == phase]
    return [event for event in chosen if all(event.get(name) == value for name, value in fields.items())]


def timeline(run, folder, **options):
    document = read(save_timeline(run, folder / "timeline.json.gz", **options))
    assert problems(document) == []
    return document


@pytest.fixture(scope="module")
def pressed():
    """A cache with room for few: preemptions."""
    return llmsim.simulate(llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", request_rate=40, num_prompts=120, input_len=256, output_len=200,
        num_gpu_blocks_override=300,
    ))  # fmt: skip


def test_the_validator_finds_what_is_wrong():
    step = {"ph": "X", "pid": 0, "tid": 0, "name": "s", "ts": 0, "dur": 10}
    begin = {"ph": "b", "pid": 0, "cat": "c", "id": "1", "name": "r", "ts": 5}

    def found(*events):
        return problems({"traceEvents": list(events)})

    assert found(step, {**step, "ts": 10}) == []
    assert found(step, {**step, "ts": 2, "dur": 3}) == []
    assert found(step, {**step, "ts": 5}) == ["event 1: ends after the one around it"]
    assert found({**step, "ts": 3}, {**step, "ts": 1, "dur": 1}) == ["event 1: 1000 ns after 3000 ns"]
    assert found(begin) == ["request (0, 'c', '1') never ends"]
    assert found(begin, {**begin, "ph": "e", "id": "2"})[0] == "event 1: ends r, which is not open"
    assert found({**begin, "ph": "Q"}) == ["event 0: phase 'Q'"]


def test_every_step_and_every_request_is_there_with_its_moments(tmp_path):
    run = synthetic_run(requests=80, rejected=2, replicas=2)
    document = timeline(run, tmp_path, seconds=float("inf"))
    steps = events(document, "X")
    assert len(steps) == run.counts["steps"]
    assert sum(step["args"]["prefill_tokens"] for step in steps) == sum(
        log.columns()["prefill_tokens"].sum() for log in run.steps
    )
    # Leaps are written out: seconds in steps are seconds in rows.
    rows = sum((log.columns()["end_s"] - log.columns()["start_s"]).sum() for log in run.steps)
    assert sum(step["dur"] for step in steps) == pytest.approx(rows * 1e6, rel=1e-9)
    begins = {event["args"]["request"]: event for event in events(document, "b", name="request")}
    ends = {event["id"]: event for event in events(document, "e", name="request")}
    firsts = {event["id"]: event for event in events(document, "n", name="first_token")}
    assert set(begins) == {record.id for record in run.records}
    for record in run.records:
        begin = begins[record.id]
        assert begin["ts"] == pytest.approx(record.arrival_s * 1e6, abs=1e-3)
        assert ends[begin["id"]]["ts"] == pytest.approx(record.finished_s * 1e6, abs=1e-3)
        if record.status == "finished":
            assert firsts[begin["id"]]["ts"] == pytest.approx(record.first_token_s * 1e6, abs=1e-3)
    assert "note" not in document["otherData"]
    assert {event["args"]["name"] for event in events(document, "M", name="process_name")} == {
        "replica 0", "replica 1", "requests that reached no replica"
    }  # fmt: skip


def test_leaping_and_stepping_give_the_same_steps(tmp_path):
    scenario = llmsim.scenario(model="llama-3.1-8b", gpu="h100-sxm", request_rate=20, num_prompts=30, output_len=50)
    leapt, stepped = (
        events(timeline(llmsim.simulate(scenario, leap=leap), tmp_path, seconds=5), "X") for leap in (True, False)
    )
    assert len(leapt) == len(stepped)
    for name in ("ts", "dur"):
        assert np.allclose([e[name] for e in leapt], [e[name] for e in stepped], rtol=0, atol=0.002)  # us
    assert [e["args"]["tokens"] for e in leapt] == [e["args"]["tokens"] for e in stepped]


def test_preemptions_are_instants_inside_their_requests(pressed, tmp_path):
    assert pressed.counts["preemptions"] > 5
    document = timeline(pressed, tmp_path, seconds=float("inf"))
    out = events(document, "n", name="preempted")
    assert len(out) == pressed.counts["preemptions"]
    usage = [event["args"]["kv_cache_usage"] for event in events(document, "C", name="kv_cache_usage")]
    assert 0.9 < max(usage) <= 1.0
    assert usage[-1] == 0.0
    waiting = [event["args"]["waiting"] for event in events(document, "C", name="waiting")]
    assert max(waiting) == pressed.resources["max_waiting"]


def test_stages_of_a_pipeline_are_threads_whose_steps_do_not_overlap(tmp_path):
    run = llmsim.simulate(llmsim.scenario(
        model="llama-3.1-8b", gpu="h100-sxm", pipeline_parallel_size=2, request_rate=20, num_prompts=30, output_len=40,
    ))  # fmt: skip
    log = run.steps[0]
    assert (log.stage_moments[:, -1, 1] == log.columns()["end_s"]).all()
    assert (log.stage_moments[:, 0, 0] >= log.columns()["start_s"]).all()
    document = timeline(run, tmp_path, seconds=float("inf"))
    for stage in (0, 1):
        assert len(events(document, "X", tid=stage)) == run.counts["steps"]


def test_a_long_run_is_cut_with_a_note(pressed, tmp_path):
    whole = timeline(pressed, tmp_path, seconds=float("inf"))
    short = timeline(pressed, tmp_path, seconds=1.0)
    assert short["otherData"]["note"].startswith("timeline ends here: 1.000 s of ")
    assert events(short, "i")[0]["name"] == short["otherData"]["note"]
    assert max(event["ts"] for event in events(short, "b")) <= 1.0e6 + min(event["ts"] for event in events(whole, "b"))
    few = timeline(pressed, tmp_path, most_events=300)
    assert len(few["traceEvents"]) <= 1.3 * 300
    assert "as many events as a viewer takes" in few["otherData"]["note"]


def test_the_same_run_gives_the_same_bytes_compressed_or_not(pressed, tmp_path):
    first, second = (save_timeline(pressed, tmp_path / name / "t.json.gz") for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert read(save_timeline(pressed, tmp_path / "t.json")) == read(first)


def test_a_run_without_requests_has_an_empty_timeline(tmp_path):
    assert events(timeline(synthetic_run(requests=1), tmp_path), "X")
    nothing = json.loads(save_timeline(llmsim.Run(records=[]), tmp_path / "t.json").read_text())
    assert nothing["traceEvents"] == []


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_an_impossible_span_is_refused(pressed, tmp_path, seconds):
    with pytest.raises(InputError, match="timeline: shows more than nothing"):
        save_timeline(pressed, tmp_path / "t.json", seconds=seconds)


def test_a_file_that_cannot_be_written_is_an_error(pressed, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the timeline cannot be written"):
        pressed.save_timeline(tmp_path / "file" / "t.json")
