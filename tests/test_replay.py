"""Traces as workloads: slices, speed, jitter, odd rows, and what does not fit the window."""

import pytest

from llmsim.errors import ScenarioError, TraceError
from llmsim.workload.build import build
from llmsim.workload.request import Prefix
from llmsim.workload.spec import WorkloadSpec

VIDUR = "arrived_at,num_prefill_tokens,num_decode_tokens\n"


@pytest.fixture
def trace(tmp_path):
    """Return a function that builds the replay of a text with options."""

    def make(text, *, max_model_len=100_000, on_too_long="reject", num_prompts=None, seed=0, **options):
        (tmp_path / "t.csv").write_text(text)
        spec = WorkloadSpec(trace={"path": "t.csv", **options}, on_too_long=on_too_long, num_prompts=num_prompts)
        return build(spec, seed=seed, max_model_len=max_model_len, base=tmp_path)

    return make


def evenly(count, first=100.0):
    return VIDUR + "".join(f"{first + number},10,{number + 1}\n" for number in range(count))


def arrivals(workload):
    return [request.arrival_s for request in workload.start()]


def test_time_starts_at_the_first_request(trace):
    assert arrivals(trace(evenly(3))) == [0.0, 1.0, 2.0]
    assert arrivals(trace(evenly(3), origin="file")) == [100.0, 101.0, 102.0]


def test_speed_compresses_time(trace):
    assert arrivals(trace(evenly(3), speedup=4)) == [0.0, 0.25, 0.5]


def test_slices_and_limits(trace):
    workload = trace(evenly(10), start_s=2, stop_s=6)
    assert [request.output_tokens for request in workload.start()] == [3, 4, 5, 6]
    assert arrivals(workload) == [0.0, 1.0, 2.0, 3.0]
    assert len(arrivals(trace(evenly(10), limit=4))) == 4
    assert len(arrivals(trace(evenly(10), num_prompts=3, limit=4))) == 3


def test_a_replay_starts_again_from_its_beginning(trace):
    workload = trace(evenly(50), thin=0.5, jitter_s=3.0)

    assert list(workload.start()) == list(workload.start())


def test_rows_out_of_order_are_sorted_and_counted(trace):
    workload = trace(VIDUR + "5,1,1\n3,2,2\n4,3,3\n")

    assert [(r.id, r.arrival_s, r.prompt_tokens) for r in workload.start()] == [
        ("0", 0.0, 2),
        ("1", 1.0, 3),
        ("2", 2.0, 1),
    ]
    assert workload.warnings == ["t.csv: 1 rows were out of order and were sorted by time"]


def test_an_output_of_zero_becomes_one_token_or_is_dropped(trace):
    text = VIDUR + "0,5,0\n1,5,2\n2,0,3\n"
    workload = trace(text)
    assert [(r.prompt_tokens, r.output_tokens) for r in workload.start()] == [(5, 1), (5, 2), (1, 3)]
    assert workload.warnings == [
        "t.csv: 1 rows with 0 output tokens were replayed with 1",
        "t.csv: 1 rows with 0 prompt tokens were replayed with 1",
    ]

    workload = trace(text, zero_output="drop")
    assert [request.output_tokens for request in workload.start()] == [2, 3]
    assert "dropped as failed" in workload.warnings[0]


def test_failures_of_burstgpt_are_dropped(trace):
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,10,0,10,API log\n6,GPT-4,20,5,25,API log\n9,ChatGPT,30,5,35,API log\n"
    )
    workload = trace(text)
    assert [(r.arrival_s, r.prompt_tokens, r.tenant) for r in workload.start()] == [
        (0.0, 20, "GPT-4"),
        (3.0, 30, "ChatGPT"),
    ]
    assert workload.warnings == ["t.csv: 1 rows with 0 output tokens were dropped as failed"]

    assert [request.prompt_tokens for request in trace(text, only="GPT-4").start()] == [20]


def test_what_exceeds_the_window_is_left_to_the_engine(trace):
    (request,) = trace(VIDUR + "0,900,200\n", max_model_len=1000).start()

    assert (request.prompt_tokens, request.output_tokens) == (900, 200)


def test_what_exceeds_the_window_is_cut_on_request(trace):
    workload = trace(VIDUR + "0,900,200\n1,900,100\n2,5,5000\n", max_model_len=1000, on_too_long="truncate")

    assert [(r.prompt_tokens, r.output_tokens) for r in workload.start()] == [(800, 200), (900, 100), (1, 999)]
    assert workload.warnings == ["2 requests exceed max_model_len 1000: their prompts were cut"]


def test_cutting_a_prompt_cuts_its_blocks(trace):
    text = '{"timestamp": 0, "input_length": 1500, "output_length": 100, "hash_ids": [1, 2, 3]}\n'
    (request,) = trace(text, max_model_len=1000, on_too_long="truncate").start()

    assert request.prompt_tokens == 900
    assert request.prefix == Prefix((1, 2), 512)


def test_what_exceeds_the_window_is_an_error_on_request(trace):
    with pytest.raises(ScenarioError, match=r"request 1: 900 prompt and 200 output tokens exceed max_model_len 1000"):
        list(trace(VIDUR + "0,9,9\n1,900,200\n", max_model_len=1000, on_too_long="error").start())


def test_lengths_alone_come_all_at_once_or_by_an_arrival_process(tmp_path):
    (tmp_path / "t.csv").write_text("num_prefill_tokens,num_decode_tokens\n1,2\n3,4\n")
    build_it = {"seed": 0, "max_model_len": 1000, "base": tmp_path}
    everything = build(WorkloadSpec(trace={"path": "t.csv"}), **build_it)
    assert [(r.arrival_s, r.prompt_tokens, r.output_tokens) for r in everything.start()] == [(0.0, 1, 2), (0.0, 3, 4)]

    spec = WorkloadSpec(trace={"path": "t.csv"}, arrival={"kind": "constant", "request_rate": 2}, num_prompts=5)
    timed = list(build(spec, **build_it).start())
    assert [request.arrival_s for request in timed] == [0.5, 1.0, 1.5, 2.0, 2.5]
    assert [request.prompt_tokens for request in timed] == [1, 3, 1, 3, 1]


def test_an_arrival_process_replaces_the_times_of_a_trace(tmp_path):
    (tmp_path / "t.csv").write_text(evenly(4))
    spec = WorkloadSpec(trace={"path": "t.csv"}, arrival={"kind": "constant", "request_rate": 10})
    workload = build(spec, seed=0, max_model_len=1000, base=tmp_path)

    assert arrivals(workload) == pytest.approx([0.1, 0.2, 0.3, 0.4])

    spec.trace["speedup"] = 2
    with pytest.raises(ScenarioError, match=r"workload\.trace\.speedup: means nothing"):
        build(spec, seed=0, max_model_len=1000, base=tmp_path)


def test_a_trace_in_a_closed_loop_gives_its_lengths(tmp_path):
    (tmp_path / "t.csv").write_text(evenly(4))
    spec = WorkloadSpec(trace={"path": "t.csv"}, closed_loop={"concurrency": 2})
    workload = build(spec, seed=0, max_model_len=1000, base=tmp_path)

    assert [(r.arrival_s, r.output_tokens) for r in workload.start()] == [(0.0, 1), (0.0, 2)]


def test_the_number_of_requests_is_known_where_it_can_be(trace):
    assert trace(evenly(7)).expected_requests == 7
    assert trace(evenly(7), limit=3).expected_requests == 3
    assert trace(evenly(7), thin=0.5).expected_requests is None


def test_vllm_datasets_that_read_a_file(tmp_path):
    (tmp_path / "s.json").write_text("[[10, 20], [2, 20], [30, 40]]")
    spec = WorkloadSpec(dataset={"name": "sharegpt", "dataset_path": "s.json"}, num_prompts=3)
    workload = build(spec, seed=0, max_model_len=1000, base=tmp_path)

    assert [(r.arrival_s, r.prompt_tokens) for r in workload.start()] == [(0.0, 10), (0.0, 30), (0.0, 10)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"speedup": 0}, "workload.trace.speedup: must be more than 0"),
        ({"thin": 2}, "workload.trace.thin: must be at most 1"),
        ({"speed_up": 2}, "workload.trace.speed_up: unknown option\nhint: did you mean speedup?"),
        ({"origin": "middle"}, "one of first, file"),
    ],
)
def test_wrong_options_are_named(trace, options, message):
    with pytest.raises(ScenarioError) as caught:
        trace(evenly(3), **options)
    assert message in str(caught.value)


def test_nothing_to_replay_is_an_error(trace):
    with pytest.raises(TraceError, match="no request is left"):
        trace(evenly(3), start_s=100).start()


def test_a_missing_trace_says_where_it_was_looked_for(tmp_path):
    with pytest.raises(TraceError, match=r"no such file 'none.csv'\nhint: looked in"):
        build(WorkloadSpec(trace={"path": "none.csv"}), seed=0, max_model_len=10, base=tmp_path)


def test_a_sample_of_the_catalogue_is_found_by_name(tmp_path):
    workload = build(WorkloadSpec(trace={"path": "chat-200"}), seed=0, max_model_len=100_000, base=tmp_path)

    assert len(list(workload.start())) == 200
