"""TensorRT-LLM of 2023 to 2025: the kernel it decoded by, how its benchmark sized engines, and what that predicts."""

import json
from statistics import median

import numpy as np
import pytest

from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.names import device_named, model_named
from llmsim.accuracy.numbers import formats_of
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.score import cells_of
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of
from llmsim.accuracy.trtllm_bench import engine_limits, rounded
from llmsim.errors import CatalogError
from llmsim.hardware import load_device
from llmsim.model.shape import Attention, CacheGroup
from llmsim.performance import correction
from llmsim.performance.attention import GroupAttention
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.correction import StackCorrection, stack_of, with_numbers
from llmsim.performance.fits import Chip, MaskedFit
from llmsim.performance.masked_attention import MaskedAttention

CHIP = Chip(bandwidth=2e12, multiprocessors=100, flops={"bf16": 1e15})
FIT = MaskedFit(t0_us=8.0, e_bw=0.5, elements=10.0)


def masked(heads, kv_heads):
    return MaskedAttention(FIT, CHIP, 1e9, heads, kv_heads, 128, cache_bytes=2.0)


# By hand, for 50 sequences of 1,000 tokens: each token is read as 2 (keys, values) x 128 x 2 bytes a KV head at 1 TB/s,
# and multiplied as 2 x 128 elements a query head at 100 x 1e9 x 10 = 1e12 elements/s.
@pytest.mark.parametrize(
    ("heads", "kv_heads", "read_s", "multiply_s"),
    [(32, 32, 50e3 * 32 * 512 / 1e12, 50e3 * 32 * 256 / 1e12), (32, 4, 50e3 * 4 * 512 / 1e12, 50e3 * 32 * 256 / 1e12)],
)
def test_masked_attention_takes_the_longer_of_memory_and_multiprocessors(heads, kv_heads, read_s, multiply_s):
    price = masked(heads, kv_heads).price(50, 1000.0)
    longer = max(read_s, multiply_s)
    assert float(price.launch) == pytest.approx(8e-6)
    assert longer <= float(price.compute + price.memory) <= longer * 1.001
    assert (float(price.memory) > float(price.compute)) == (read_s > multiply_s)
    seconds, computing = masked(heads, kv_heads).seconds(50, 50e3)
    assert seconds == pytest.approx(float(price.compute + price.memory))
    assert computing == pytest.approx(float(price.compute))


def test_query_heads_that_share_a_kv_head_save_memory_time_and_no_more():
    alone, shared = masked(32, 32).price(50, 1000.0), masked(32, 8).price(50, 1000.0)
    assert float(shared.total) == pytest.approx(float(masked(32, 1).price(50, 1000.0).total), rel=0.01)
    assert float(shared.total) < float(alone.total)


def group_of(kv_heads, shares, heads=32):
    known = Coefficients(load_device("h100-sxm"), "trtllm")
    attention = Attention(heads=heads, kv_heads=kv_heads, head_dim=128)
    return GroupAttention(known, CacheGroup(None, attention, 1), 1, "fp8", shares=shares)


def test_a_stack_says_which_groups_read_a_kv_head_once():
    # Eight KV heads: four query heads each.  Sharing reads a quarter of what the masked kernel multiplies.
    for shares, is_masked in ((None, False), ((), True), ((8,), True), ((2, 4, 8), False)):
        priced = group_of(8, shares).decode(np.array([120.0]), np.array([1152.0]))
        plain = group_of(8, None).decode(np.array([120.0]), np.array([1152.0]))
        assert (float(priced.total[0]) > 1.5 * float(plain.total[0])) == is_masked, shares


@pytest.mark.parametrize("kv_heads", [1, 4, 32])
def test_a_step_with_a_prompt_adds_what_decoding_alone_costs(kv_heads):
    group = group_of(kv_heads, ())
    alone, _ = group.mixed([], 64, 64 * 1000.0, 1000.0)
    prompt, _ = group.mixed([(128, 0)], 0, 0.0, 0.0)
    both, share = group.mixed([(128, 0)], 64, 64 * 1000.0, 1000.0)
    table = group.decode(np.array([64.0]), np.array([1000.0]))
    assert alone == pytest.approx(float(table.total[0]))
    assert both == pytest.approx(prompt + alone - float(table.launch[0]))
    assert 0.0 <= share <= 1.0


def test_properties_of_kernels_are_handed_on_and_are_no_free_numbers():
    assert [stack_of(f"trtllm@{name}").correction.shares for name in ("0.5", "0.8", "1")] == [(), (8,), None]
    assert stack_of("trtllm-mlperf@2024").correction.shares == stack_of("trtllm@0.14").correction.shares
    assert stack_of("trtllm@0.5", {"trtllm@0.5": StackCorrection(launch=2.0)}).correction.shares == ()
    assert StackCorrection(shares=(8,)).free_numbers == 0
    assert with_numbers(StackCorrection(shares=(8,)), {"launch": 2}).shares == (8,)


@pytest.mark.parametrize("said", [8, [0], ["8"]])
def test_groups_that_are_no_list_of_numbers_are_refused(monkeypatch, said):
    monkeypatch.setattr(correction, "_entries", lambda: {"x@1": {"kernels": "trtllm", "shares": said}})
    with pytest.raises(CatalogError, match="shares: must be a list of whole numbers"):
        stack_of("x@1")


# Requests in the cache -> batch: to the next 32 below 256, 128 below 1,024, 256 beyond, at least 64.  Tokens: requests
# x (1 + prompt / output), to the next 256 below 4,096 and 512 beyond, 2,048 to 8,192, which limits the requests too.
@pytest.mark.parametrize(
    ("requests", "prompt", "output", "batch", "tokens"),
    [
        (50.2, 128, 4096, 64, 2048),  # 51.8 tokens a step
        (219, 128, 2048, 224, 2048),
        (972, 128, 2048, 1024, 2048),
        (1872, 128, 128, 2048, 3840),  # 3,744 tokens
        (3457, 128, 128, 3584, 7168),  # 6,914 tokens
        (9000, 128, 128, 4096, 8192),  # 8,192 tokens are 4,096 requests
        (1000, 2048, 128, 512, 8192),  # 8,192 tokens are 481.9 requests of 17 tokens a step
    ],
)
def test_engines_are_sized_by_the_requests_that_the_cache_holds(requests, prompt, output, batch, tokens):
    limits = rounded(requests, prompt, output)
    assert (limits.batch, limits.tokens) == (batch, tokens)


def limits_of(device, words, devices, output, *, whole):
    model, gpu = model_named("LLaMA v3 70B"), device_named(device)
    software = software_of("TensorRT-LLM 0.14.0")
    formats = formats_of(words, model, gpu, software)
    return engine_limits(model, gpu, formats, devices, 128, output, whole=whole)


def test_the_memory_of_one_device_or_of_all_counts():
    # 70.55e9 parameters in 16 bit over 8 devices leave 85.9e9 - 17.6e9 bytes of one; 327,680 bytes of cache a token and
    # 4,224 tokens a request: 49.3 requests.  All devices: (687.2e9 - 141.1e9) / 1.384e9 = 394.6.
    assert limits_of("H100-SXM-80GB", "fp16", 8, 4096, whole=False).batch == 64
    assert limits_of("A100-80GB-SXM", "fp16", 8, 4096, whole=False).batch == 64
    assert limits_of("H100-SXM-80GB", "fp16", 8, 4096, whole=True).batch == 512
    # In fp8, weights and cache: (85.9e9 - 8.8e9) / 0.692e9 = 111.4.
    assert limits_of("H100-SXM-80GB", "fp8", 8, 4096, whole=False).batch == 128


@pytest.mark.parametrize(
    ("engine", "stack", "sized"),
    [
        ("TensorRT-LLM 0.5.0", "trtllm@0.5", ""), ("TensorRT-LLM 0.6.1", "trtllm@0.5", ""),
        ("TensorRT-LLM (2023)", "trtllm@0.5", ""), ("TensorRT-LLM 0.8a", "trtllm@0.8", ""),
        ("TensorRT-LLM 0.9.0", "trtllm@0.8", ""), ("TensorRT-LLM (2024)", "trtllm@2024", ""),
        ("TensorRT-LLM 0.12.0", "trtllm@0.14", ""), ("TensorRT-LLM 0.14.0", "trtllm@0.14", "device"),
        ("TensorRT-LLM 0.17.0", "trtllm@0.14", "all"), ("TensorRT-LLM 1.0 (PyTorch backend)", "trtllm@1", ""),
    ],
)  # fmt: skip
def test_releases_are_told_apart(engine, stack, sized):
    software = software_of(engine)
    assert (software.stack, software.sized) == (stack, sized)


def test_a_queued_run_has_the_limits_of_its_engine():
    row = Row("1", "OURS", "TensorRT-LLM 0.14.0", "LLaMA v3 70B", "fp16", "H100-SXM-80GB", 8, 8, 1, None, 128, 4096,
              None, None, None, "", "output_tok_s", "mean", 1.0, "offline-throughput", "", "", "B", "", 2)  # fmt: skip
    engine = json.loads(case_of(row).setup.engine)
    assert (engine["max_num_seqs"], engine["max_num_batched_tokens"]) == (64, 2048)
    assert json.loads(case_of(row).setup.workload)["num_prompts"] == 1500


# Errors in per cent: what these cells had before was 36 (in the median) and 58 (at worst).
@pytest.mark.parametrize(("source", "middle", "worst"), [("TRT-0.6.1", 10.0, 25.0), ("TRT-0.5.0", 10.0, 25.0)])
def test_measured_throughputs_of_the_first_year_are_met(shared, source, middle, worst):
    every = read_measured(shared / "data" / "measured" / "measured.csv.gz")
    rows = [row for row in every if row.source == source and row.kind == "offline-throughput"]
    cells = cells_of(predictions_of(rows, n_jobs=1))
    errors = [cell.error for cell in cells]
    assert median(errors) < middle
    assert max(errors) < worst
