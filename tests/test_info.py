"""What `trace_info` says: against independent figures of real traces, and against theory on generated ones."""

import json

import numpy as np
import pytest

from llmsim.errors import TraceError
from llmsim.workload.build import build
from llmsim.workload.convert import generate
from llmsim.workload.info import trace_info
from llmsim.workload.spec import WorkloadSpec

NAMES = [
    "azure2023/AzureLLMInferenceTrace_code.csv",
    "azure2023/AzureLLMInferenceTrace_conv.csv",
    "mooncake/conversation_trace.first4000.jsonl",
    "mooncake/synthetic_trace.first1000.jsonl",
    "vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.first10000.csv",
    "vidur/splitwise_conv.first2000.csv",
]


@pytest.mark.parametrize("name", NAMES)
def test_numbers_agree_with_those_of_an_independent_script(shared, name):
    folder = shared / "data" / "traces"
    expected = json.loads((folder / "EXPECTED.json").read_text())[name]
    info = trace_info(folder / name)
    found = {
        "rows": info.rows,
        "sum_prompt": info.prompt.total,
        "sum_output": info.output.total,
        "max_prompt": info.prompt.largest,
        "max_output": info.output.largest,
        "min_prompt": info.prompt.smallest,
        "min_output": info.output.smallest,
        "prompt_p50_p90_p99": [info.prompt.percentiles[percent] for percent in (50.0, 90.0, 99.0)],
        "output_p50_p90_p99": [info.output.percentiles[percent] for percent in (50.0, 90.0, 99.0)],
    }
    if info.timing is not None:
        found |= {
            "first_s": 0.0,
            "last_s": info.timing.span_s,
            "mean_rate": info.timing.rate,
            "sorted": info.timing.out_of_order == 0,
            "distinct_times": info.timing.distinct_stamps,
        }
    if info.reuse is not None:
        found |= {
            "blocks": info.reuse.blocks,
            "unique_blocks": info.reuse.unique_blocks,
            "prefix_hit_blocks_infinite_cache": info.reuse.hit_blocks,
            "hit_ratio": info.reuse.hit_ratio,
            "cached_tokens": info.reuse.cached_tokens,
        }

    assert sorted(found) == sorted(expected)
    for key, value in expected.items():
        # the script rounds times to 6 decimals, rates to 6 figures and ratios to 6 decimals
        assert found[key] == (pytest.approx(value, rel=1e-5, abs=1e-6) if isinstance(value, float | list) else value), (
            key
        )


def test_every_trace_of_the_reference_figures_is_compared(shared):
    assert sorted(json.loads((shared / "data" / "traces" / "EXPECTED.json").read_text())) == sorted(NAMES)


@pytest.mark.parametrize(
    ("name", "cv", "dispersion", "peak"),
    [(NAMES[0], 13.15, (13.19, 71.8, 166.9), 67), (NAMES[1], 1.09, (1.39, 3.9, 16.4), 16)],
)
def test_bursts_agree_with_the_published_fits(shared, name, cv, dispersion, peak):
    timing = trace_info(shared / "data" / "traces" / name).timing

    assert timing.gap_cv == pytest.approx(cv, abs=0.005)
    assert [timing.dispersion[width] for width in (1.0, 10.0, 60.0)] == pytest.approx(dispersion, rel=0.01)
    assert timing.peak_rate[1.0] == peak


def test_rounded_stamps_are_noticed(shared):
    info = trace_info(shared / "data" / "traces" / NAMES[2])

    assert "trace.jitter_s: 3" in "\n".join(info.warnings)


def test_the_same_requests_in_two_formats_agree(shared):
    folder = shared / "data" / "traces"
    vidur = trace_info(folder / NAMES[5])
    spec = WorkloadSpec(trace={"path": str(folder / NAMES[1]), "limit": 2000})
    azure = list(build(spec, seed=0, max_model_len=10**6).start())

    assert sum(request.prompt_tokens for request in azure) == vidur.prompt.total
    assert azure[-1].arrival_s == pytest.approx(vidur.timing.span_s, abs=1e-5)


def test_statistics_agree_with_numpy(tmp_path):
    random = np.random.default_rng(0)
    times = np.round(np.cumsum(random.exponential(0.3, 40_000)), 6)
    prompts, outputs = random.integers(1, 9_000_000, 40_000), random.integers(1, 50, 40_000)
    text = "arrival_s,prompt_tokens,output_tokens\n"
    text += "".join(f"{t:.6f},{p},{o}\n" for t, p, o in zip(times, prompts, outputs, strict=True))
    (tmp_path / "t.csv").write_text(text)
    info = trace_info(tmp_path / "t.csv")
    relative = times - times[0]
    gaps = np.diff(times)

    for percent in (50.0, 90.0, 95.0, 99.0):
        assert info.prompt.percentiles[percent] == pytest.approx(np.percentile(prompts, percent))
        assert info.output.percentiles[percent] == pytest.approx(np.percentile(outputs, percent))
    assert info.prompt.mean == pytest.approx(prompts.mean())
    assert (info.prompt.smallest, info.prompt.largest) == (prompts.min(), prompts.max())
    assert info.timing.gap_cv == pytest.approx(gaps.std() / gaps.mean())
    assert info.timing.longest_gap_s == pytest.approx(gaps.max())
    for width in (1.0, 10.0, 60.0):
        counts = np.histogram(relative, bins=np.arange(0.0, relative[-1], width))[0]
        assert info.timing.dispersion[width] == pytest.approx(counts.var(ddof=1) / counts.mean(), rel=1e-6)


def test_prefix_reuse_counts_leading_blocks_alone(tmp_path):
    rows = [(1024, [1, 2]), (1024, [1, 3]), (1024, [4, 2]), (600, [1, 2])]  # the last block of the last row is partial
    text = "".join(
        json.dumps({"timestamp": number, "input_length": tokens, "output_length": 1, "hash_ids": ids}) + "\n"
        for number, (tokens, ids) in enumerate(rows)
    )
    (tmp_path / "t.jsonl").write_text(text)
    reuse = trace_info(tmp_path / "t.jsonl").reuse

    assert (reuse.blocks, reuse.unique_blocks, reuse.hit_blocks) == (8, 4, 3)
    assert reuse.cached_tokens == 512 + 600
    assert reuse.cached_share == pytest.approx(1112 / 3672)


def test_a_generated_poisson_trace_looks_like_one(tmp_path):
    spec = WorkloadSpec(arrival={"kind": "poisson", "request_rate": 5.0}, num_prompts=20_000)
    generate(build(spec, seed=0, max_model_len=10_000), tmp_path / "p.csv")
    timing = trace_info(tmp_path / "p.csv").timing

    assert timing.rate == pytest.approx(5.0, rel=4.5 / 20_000**0.5)
    assert timing.gap_cv == pytest.approx(1.0, abs=0.04)
    assert timing.dispersion[1.0] == pytest.approx(1.0, abs=4.5 * (2 / 4000) ** 0.5)


def test_the_text_names_what_was_found(tmp_path):
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n0,5,0\n\n3,5,2\n2,0,3\n")
    text = trace_info(tmp_path / "t.csv").text()

    assert "requests              3" in text
    assert "note: 1 blank rows were skipped" in text
    assert "note: 1 rows come before the row above them" in text
    assert "note: 1 rows with 0 output tokens: which a replay gives 1" in text
    assert "note: 1 rows with 0 prompt tokens" in text


def test_lengths_without_times_have_no_timing(tmp_path):
    (tmp_path / "t.csv").write_text("prompt_tokens,output_tokens\n5,6\n")
    info = trace_info(tmp_path / "t.csv")

    assert info.timing is None
    assert "no times" in info.text()


def test_client_data_are_described_by_what_they_generate(shared):
    info = trace_info(shared / "data" / "traces" / "servegen" / "data" / "reason" / "deepseek-r1")

    assert info.format == "servegen"
    assert info.rows == 20_000
    assert "generated" in info.text()


def test_a_header_alone_holds_no_request(tmp_path):
    (tmp_path / "t.csv").write_text("arrival_s,prompt_tokens,output_tokens\n")

    with pytest.raises(TraceError, match="holds no request"):
        trace_info(tmp_path / "t.csv")
