import csv
import gzip
from functools import cache

import numpy as np
import pytest

from llmsim import catalog
from llmsim.hardware import Link, load_device
from llmsim.model import load_model, model_names
from llmsim.parallel import Plan, Stage, layer_ranges
from llmsim.performance import kernels
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.kinds import KINDS
from llmsim.performance.stage_prices import StagePrices


@cache
def prices(model: str, device: str, tensor: int = 1, **options) -> StagePrices:
    """Price a whole model as one stage."""
    shape = load_model(model)
    stage = Stage(0, 0, len(shape.layers), ())
    return StagePrices(shape, Plan(tensor), stage, load_device(device), **options)


def by(seconds: np.ndarray, *, resource: str | None = None, operator: str | None = None) -> np.ndarray:
    rows = [i for i, kind in enumerate(KINDS) if resource in (None, kind[0]) and operator in (None, kind[1])]
    return seconds[rows].sum(axis=0)


def decode_step(stage: StagePrices, batch: float, context: float) -> float:
    """Price one step of ``batch`` sequences at a mean context, by its parts."""
    size = np.array([float(batch)])
    attention = sum(
        stage.decode_attention(group, size, np.array([context if window is None else min(context, window)])).sum()
        for group, window in enumerate(stage.windows)
    )
    return float(stage.linear(size).sum() + stage.head(size).sum() + attention)


def prefill_step(stage: StagePrices, tokens: int) -> float:
    attention = sum(stage.mixed_attention(g, [(tokens, 0)], 0, 0.0, 0.0)[0] for g in range(len(stage.windows)))
    return float(stage.linear(np.array([float(tokens)])).sum() + stage.head(np.ones(1)).sum() + attention)


def closed_loop_tpot(stage: StagePrices, concurrency: float, prompt: float, output: float) -> float:
    """Return the time per output token in the steady state of a closed loop (performance model, section 3)."""
    return decode_step(stage, concurrency, prompt + output / 2) + (concurrency - 1) / output * prefill_step(
        stage, int(prompt)
    )


# -- composition -------------------------------------------------------------------------------------------


def test_a_layer_is_the_sum_of_its_kernels():
    stage = prices("llama-3.1-70b", "h200-sxm", 8, weight_format="fp8")
    known = Coefficients(load_device("h200-sxm"), "vllm")
    fit, chip, tokens = known.gemm("fp8").fit, known.chip, 48.0
    narrow = {"compute": "fp8", "weight_bytes": 1.0, "activation_bytes": 1.0}
    total = 0.0
    for columns, depth in ((10 * 128, 8192), (8192, 1024), (2 * 3584, 8192), (8192, 3584)):
        total += kernels.gemm(fit, chip, tokens, columns, depth, **narrow).total
    for name, elements, count in (("norm", 2 * 8192, 2), ("rope", 2 * 9 * 128, 1), ("act", 3 * 3584, 1)):
        total += count * kernels.stream(known.stream(name), chip, 2 * elements * tokens).total
    size = 2 * 8192 * tokens
    custom, nccl = known.collective("vllm", "all_reduce", 8), known.collective("nccl", "all_reduce", 8)
    fastest = min(
        kernels.collective(custom.fit, "all_reduce", 8, size, one_shot=True),
        kernels.collective(nccl.fit, "all_reduce", 8, size),
    )
    whole = 80 * (total + 2 * fastest) + fastest + kernels.stream(known.stream("embedding"), chip, 2 * size).total
    assert stage.linear(np.array([tokens])).sum() == pytest.approx(whole, rel=1e-12)


def test_kinds_are_complete_and_each_time_has_one():
    assert len(set(KINDS)) == len(KINDS)
    stage = prices("mixtral-8x7b", "h100-sxm", 2)
    seconds = stage.linear(np.array([1.0, 100.0]))
    assert seconds.shape == (len(KINDS), 2)
    assert (seconds >= 0).all()
    parts = sum(by(seconds, operator=operator) for operator in ("attention", "experts", "embedding", "collective"))
    np.testing.assert_allclose(parts, seconds.sum(axis=0), rtol=1e-12)
    assert not by(seconds, resource="host").any()


def test_the_head_is_priced_on_the_last_stage_only():
    shape = load_model("llama-3.1-8b")
    first = StagePrices(shape, Plan(1, 2), Stage(0, 0, 16, ()), load_device("h100-sxm"))
    last = StagePrices(shape, Plan(1, 2), Stage(1, 16, 32, ()), load_device("h100-sxm"))
    rows = np.array([1.0, 64.0])
    assert not first.head(rows).any()
    assert by(last.head(rows), operator="head").min() > 128256 * 4096 * 2 / 3.35e12
    assert by(last.head(rows), operator="sampler")[1] == pytest.approx(25e-6 + 64 * 0.6e-6)
    assert by(first.linear(rows), operator="embedding").all()
    assert not by(last.linear(rows), operator="embedding").any()


def test_stages_add_up_to_the_whole_model_plus_the_sends_between_them():
    shape, device = load_model("llama-3.1-70b"), load_device("h100-sxm")
    link = Link("infiniband", 50e9, 20e-6)
    tokens = np.array([1.0, 64.0, 4096.0])
    total = np.zeros(3)
    ranges = layer_ranges(80, 4)
    for index, (first, last) in enumerate(ranges):
        onward = link if index < 3 else None
        stage = StagePrices(shape, Plan(1, 4), Stage(index, first, last, (), None, onward), device)
        total += stage.linear(tokens).sum(axis=0)
    whole = StagePrices(shape, Plan(1, 1), Stage(0, 0, 80, ()), device).linear(tokens).sum(axis=0)
    sends = 3 * (20e-6 + 2 * 2 * 8192 * tokens / (0.721 * 50e9))
    np.testing.assert_allclose(total, whole + sends, rtol=1e-12)


@pytest.mark.parametrize("device", ["h200-sxm", "a100-sxm-80gb", "l40s", "rtx-pro-6000", "mi300x", "xeon-8592"])
def test_more_tokens_never_cost_less(device):
    stage = prices("llama-3.1-8b", device)
    assert (np.diff(stage.linear(np.arange(1.0, 4097.0)).sum(axis=0)) > 0).all()
    assert (np.diff(stage.head(np.arange(1.0, 257.0)).sum(axis=0)) > 0).all()
    batch = np.repeat([1.0, 8.0, 64.0, 256.0], 4)
    context = np.tile([16.0, 512.0, 4096.0, 32768.0], 4)
    table = stage.decode_attention(0, batch, context).sum(axis=0).reshape(4, 4)
    assert (np.diff(table, axis=0) > 0).all()
    assert (np.diff(table, axis=1) > 0).all()


def test_two_ranks_read_half_the_weights_each():
    one, two, four = (prices("llama-3.1-70b", "h100-sxm", ranks).linear(np.ones(1)) for ranks in (1, 2, 4))
    for operator in ("feed_forward", "attention"):
        memory = [by(seconds, resource="memory", operator=operator)[0] for seconds in (one, two, four)]
        assert memory[0] / memory[1] == pytest.approx(2, rel=0.03)
        assert memory[1] / memory[2] == pytest.approx(2, rel=0.06)
    assert not by(one, resource="communication").any()
    assert by(two, resource="communication").all()


def test_weights_of_one_step_take_the_time_that_the_memory_needs():
    stage = prices("llama-3.1-70b", "h100-sxm", 4)
    memory = by(stage.linear(np.ones(1)), resource="memory")[0]
    layers = 80 * (8192 * (8192 * 2 + 2 * 1024) + 3 * 8192 * 28672) * 2 / 4
    assert memory == pytest.approx(layers / (3.35e12 * 0.9017), rel=0.03)


# -- formats, links, hosts, devices ------------------------------------------------------------------------


def test_groups_follow_the_windows_of_the_model():
    stage = prices("gpt-oss-20b", "h100-sxm")
    assert stage.windows == (None, 128)
    long, short = (stage.decode_attention(group, np.array([32.0]), np.array([128.0])) for group in (0, 1))
    np.testing.assert_allclose(long, short)
    deep = prices("gemma-3-27b", "h100-sxm")
    assert deep.windows == (None, 1024)
    one = np.ones(1)
    assert deep.decode_attention(1, one, one).sum() > deep.decode_attention(0, one, one).sum()  # five layers in six


def test_a_device_without_fp8_units_reads_fp8_weights_and_multiplies_at_16_bit():
    plain = prices("llama-3.1-8b", "a100-sxm-80gb")
    narrow = prices("llama-3.1-8b", "a100-sxm-80gb", weight_format="fp8")
    few, many = np.ones(1), np.full(1, 8192.0)
    moving = [each.linear(few).sum() - by(each.linear(few), resource="launch") for each in (narrow, plain)]
    assert moving[0] == pytest.approx(moving[1] / 2, rel=0.1)  # what computes is not halved
    assert narrow.linear(many).sum() == pytest.approx(plain.linear(many).sum(), rel=0.05)
    assert any("unpacked to 16 bit" in warning for warning in narrow.warnings)
    assert not plain.warnings


@pytest.mark.parametrize("weight_format", ["int4", "int8", "mxfp4", "nf4", "nvfp4", "fp8_block", "fp16", "fp32"])
def test_every_weight_format_has_a_price_on_hopper(weight_format):
    stage = prices("llama-3.1-8b", "h100-sxm", weight_format=weight_format)
    plain = prices("llama-3.1-8b", "h100-sxm")
    memory = [by(each.linear(np.ones(1)), resource="memory", operator="feed_forward")[0] for each in (stage, plain)]
    assert (memory[0] > memory[1] * 1.5) if weight_format == "fp32" else (memory[0] <= memory[1] * 1.0001)
    assert np.isfinite(stage.linear(np.array([1.0, 1000.0]))).all()


def test_blackwell_multiplies_mxfp4_natively():
    hopper = prices("gpt-oss-120b", "h200-sxm").warnings
    blackwell = prices("gpt-oss-120b", "b200-sxm").warnings
    assert any("unpacked" in warning for warning in hopper)
    assert any("priced as nvfp4 kernels" in warning for warning in blackwell)


def test_a_quantised_checkpoint_keeps_its_attention_in_16_bit():
    own = prices("gpt-oss-20b", "h100-sxm", weight_format="mxfp4").linear(np.ones(1))
    np.testing.assert_array_equal(own, prices("gpt-oss-20b", "h100-sxm").linear(np.ones(1)))
    wide = prices("gpt-oss-20b", "h100-sxm", weight_format="bf16").linear(np.ones(1))
    np.testing.assert_allclose(by(own, operator="attention"), by(wide, operator="attention"))
    assert by(own, resource="memory", operator="experts") < 0.3 * by(wide, resource="memory", operator="experts")


def test_the_host_of_2023_bounds_a_step_of_80_layers_at_30_ms():
    old = prices("llama-2-70b", "h100-sxm", 8, stack="vllm-2023")
    assert old.host_bound
    assert old.host(np.array([1.0, 33.0]), np.array([1.0, 33.0])) == pytest.approx([30.496e-3, 39.968e-3])
    assert prices("llama-2-70b", "a100-sxm-80gb", 8, stack="vllm-2023").host(np.zeros(1), np.zeros(1)) == 44.5e-3
    graphs, eager = prices("llama-2-70b", "h100-sxm", 8), prices("llama-2-70b", "h100-sxm", 8, eager=True)
    assert not graphs.host_bound
    assert eager.host_bound
    assert graphs.host(np.ones(1), np.ones(1))[0] < 2e-3 < eager.host(np.ones(1), np.ones(1))[0]


@pytest.mark.parametrize("name", catalog.names("hardware/devices"))
def test_every_device_of_the_catalogue_has_a_price_and_an_honest_label(name):
    device = load_device(name)
    for model in ("llama-3.1-8b", "mixtral-8x7b", "deepseek-v2-lite"):
        stage = prices(model, name, 2)
        tokens = np.array([1.0, 37.0, 2048.0])
        for seconds in (stage.linear(tokens), stage.head(tokens), stage.decode_attention(0, tokens, tokens)):
            assert np.isfinite(seconds).all()
            assert (seconds >= 0).all()
            assert (seconds.sum(axis=0) > 0).all()
        mixed, compute = stage.mixed_attention(0, [(500, 100)], 3, 600.0, 400.0)
        assert 0 < mixed < 10
        assert 0 <= compute <= 1
        # No device moves the weights of its layers faster than its memory allows.
        floor = 32 * 3 * 4096 * 14336 * 2 / 2 / device.memory_bandwidth if model == "llama-3.1-8b" else 0.0
        assert stage.linear(np.ones(1)).sum() > floor
        if device.performance is None:
            assert stage.label.startswith("data sheet")
            assert any("data sheet" in warning for warning in stage.warnings)
        assert "matrix products" in stage.expected_error


@pytest.mark.parametrize("name", model_names())
def test_every_model_of_the_catalogue_has_a_price(name):
    stage = prices(name, "h100-sxm")
    seconds = stage.linear(np.array([1.0, 1000.0]))
    assert np.isfinite(seconds).all()
    assert (seconds.sum(axis=0) > 0).all()
    assert np.isfinite(prefill_step(stage, 1000))


# -- measured ----------------------------------------------------------------------------------------------


@pytest.mark.accuracy
@pytest.mark.parametrize(("concurrency", "measured_ms"), [(4, 7.93), (64, 12.73)])
def test_llama_70b_fp8_on_h200_tp8_decodes_as_fast_as_measured(concurrency, measured_ms):
    """InferenceX, vLLM, 1k/1k closed loop; lengths there are drawn from [0.8 L, L]."""
    stage = prices("llama-3.1-70b", "h200-sxm", 8, weight_format="fp8")
    assert 1e3 * closed_loop_tpot(stage, concurrency, 0.9 * 1024, 0.9 * 1024) == pytest.approx(measured_ms, rel=0.15)


@pytest.mark.accuracy
def test_llama_70b_of_2023_is_bound_by_the_host():
    """Splitwise, vLLM of 2023, TP8, 512/128 at batch 1: TPOT 29.8 ms (H100) and 44.9 ms (A100)."""
    for device, measured_ms in (("h100-sxm", 29.8), ("a100-sxm-80gb", 44.9)):
        stage = prices("llama-2-70b", device, 8, stack="vllm-2023")
        host = float(stage.host(np.ones(1), np.ones(1))[0])
        assert 1e3 * max(host, decode_step(stage, 1, 576)) == pytest.approx(measured_ms, rel=0.10)


@pytest.mark.accuracy
def test_inferencex_llama_70b_on_vllm(shared):
    """225 points, H100, H200, B200, fp8 and nvfp4, TP 1-8, no coefficient fitted on them."""
    devices = {"H100-SXM-80GB": "h100-sxm", "H200-SXM": "h200-sxm", "B200-SXM": "b200-sxm"}
    errors = []
    with gzip.open(shared / "data/measured/measured.csv.gz", "rt") as lines:
        for row in csv.DictReader(lines):
            if row["source_key"] != "INFERENCEX" or row["model_norm"] != "Llama-3.x-70B" or row["metric"] != "tpot_ms":
                continue
            if "vllm" not in row["engine"]:
                continue
            device, tensor = devices[row["device_norm"]], int(float(row["tp"]))
            stage = prices("llama-3.1-70b", device, tensor, weight_format=row["precision"])
            lengths = 0.9 * float(row["isl"]), 0.9 * float(row["osl"])
            errors.append(1e3 * closed_loop_tpot(stage, float(row["concurrency"]), *lengths) / float(row["value"]) - 1)
    assert len(errors) == 225
    assert np.median(np.abs(errors)) < 0.06
    assert np.quantile(np.abs(errors), 0.9) < 0.15
