"""Traces written and read back: nothing is lost on the way."""

import gzip

import pytest

from llmsim.errors import ScenarioError, TraceError
from llmsim.workload.build import build
from llmsim.workload.convert import WRITERS, convert, generate, write
from llmsim.workload.info import trace_info
from llmsim.workload.readers import detect
from llmsim.workload.request import Prefix, Request
from llmsim.workload.spec import WorkloadSpec

FORMATS = {"csv": "csv", "mooncake": "mooncake", "vllm": "timed_trace", "azure": "azure_2023", "vidur": "vidur"}


def requests_of(path, **options):
    spec = WorkloadSpec(trace={"path": str(path), "origin": "file", **options})
    return list(build(spec, seed=0, max_model_len=10**7).start())


def chat(count=300):
    return build(WorkloadSpec(preset="chat", num_prompts=count), seed=3, max_model_len=10**6)


def test_every_writer_is_tested():
    assert sorted(FORMATS) == sorted(WRITERS)


@pytest.mark.parametrize("to", sorted(FORMATS))
def test_what_was_generated_is_read_back(tmp_path, to):
    target = tmp_path / "out.dat"
    assert generate(chat(), target, to) == 300
    assert detect(target).name == FORMATS[to]

    wanted = list(chat().start())
    found = requests_of(target)
    offset = found[0].arrival_s - wanted[0].arrival_s if to == "azure" else 0.0  # its stamps are days, not seconds
    assert [(r.prompt_tokens, r.output_tokens) for r in found] == [(r.prompt_tokens, r.output_tokens) for r in wanted]
    for ours, theirs in zip(wanted, found, strict=True):
        assert theirs.arrival_s - offset == pytest.approx(ours.arrival_s, abs=2e-6)


@pytest.mark.parametrize("to", ["csv", "vidur"])
def test_nanoseconds_survive(tmp_path, to):
    generate(chat(), tmp_path / "out", to)

    for ours, theirs in zip(chat().start(), requests_of(tmp_path / "out"), strict=True):
        assert theirs.arrival_s == pytest.approx(ours.arrival_s, abs=1e-9)


def test_a_target_that_ends_in_gz_is_compressed_the_same_each_time(tmp_path):
    for name in ("a.csv.gz", "b.csv.gz"):
        generate(chat(50), tmp_path / name)

    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"arrival_s,prompt_tokens")
    assert trace_info(tmp_path / "a.csv.gz").rows == 50


@pytest.mark.parametrize("name", ["conversation_trace.first4000.jsonl", "synthetic_trace.first1000.jsonl"])
def test_blocks_keep_what_they_share(shared, tmp_path, name):
    source = shared / "data" / "traces" / "mooncake" / name
    before = trace_info(source)
    convert(source, tmp_path / "same.jsonl", "mooncake")
    convert(source, tmp_path / "small.jsonl", "vllm")
    convert(tmp_path / "small.jsonl", tmp_path / "back.jsonl", "mooncake")

    assert trace_info(tmp_path / "same.jsonl").reuse == before.reuse
    small = trace_info(tmp_path / "small.jsonl").reuse
    assert small.block_tokens == 16
    # smaller blocks find a partial last block again only as far as the prompt went
    assert small.cached_tokens == pytest.approx(before.reuse.cached_tokens, rel=0.005)
    assert trace_info(tmp_path / "back.jsonl").reuse.cached_tokens == pytest.approx(small.cached_tokens, rel=0.005)


def test_blocks_that_no_prefix_names_are_new(tmp_path):
    shared = Prefix((7, 8), 16)
    asked = [Request("0", 0.0, 40, 1, prefix=shared), Request("1", 1.0, 40, 1, prefix=shared), Request("2", 2.0, 20, 1)]
    write(asked, tmp_path / "t.jsonl", "vllm")

    assert [request.prefix.hash_ids for request in requests_of(tmp_path / "t.jsonl")] == [(0, 1, 2), (0, 1, 3), (4, 5)]


def test_sessions_are_written_with_quotes_where_needed(tmp_path):
    asked = [Request(str(n), float(n), 5, 6, session_id=name) for n, name in enumerate(['a,"b"', "c"])]
    write(asked, tmp_path / "t.csv", "csv")

    assert [request.session_id for request in requests_of(tmp_path / "t.csv")] == ['a,"b"', "c"]


def test_a_closed_loop_has_no_times_to_write(tmp_path):
    workload = build(WorkloadSpec(closed_loop={"concurrency": 4}), seed=0, max_model_len=10_000)

    with pytest.raises(ScenarioError, match="closed loop"):
        generate(workload, tmp_path / "t.csv")


def test_lengths_alone_cannot_be_converted(tmp_path):
    (tmp_path / "t.csv").write_text("prompt_tokens,output_tokens\n5,6\n")

    with pytest.raises(TraceError, match="has no times"):
        convert(tmp_path / "t.csv", tmp_path / "u.csv")


def test_unknown_targets_are_refused(tmp_path):
    with pytest.raises(TraceError, match="closest names: azure"):
        write([], tmp_path / "t", "azur")
    with pytest.raises(TraceError, match="cannot be written"):
        write([], tmp_path / "none" / "t", "csv")
