"""Eager and older stacks: launches by layer kind, unfused attention, and what their benchmarks' words stand for."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmsim.accuracy.forward import predict_forward
from llmsim.accuracy.layouts import parts_of_batch, slice_of
from llmsim.accuracy.machines import Machines
from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of
from llmsim.hardware import Link, load_device
from llmsim.model import load_model
from llmsim.parallel import Plan, Stage
from llmsim.performance.coefficients import Coefficients
from llmsim.performance.collectives import Group
from llmsim.performance.correction import StackCorrection, Unfused, stack_of, with_numbers
from llmsim.performance.stage_prices import StagePrices
from llmsim.performance.unfused import PLAIN_LAUNCHES, launches, plain_layers

EAGER = "PyTorch 20.06-py3 pure Python"
ROW = Row(
    id="1", source="OURS", engine=EAGER, model="BERT-base", precision="fp16", device="A100-80GB-SXM", devices=1,
    tensor=1, pipeline=1, experts=1, prompt=128, output=0, batch=4, concurrency=None, rate=None, dataset="",
    metric="e2e_ms", statistic="mean", value=5.0, kind="static-batch", device_norm="A100-80GB-SXM",
    model_norm="BERT-base", tier="A", notes="", line=2,
)  # fmt: skip


def prices(model: str, device: str = "a100-sxm-80gb", **settings: object) -> StagePrices:
    shape = load_model(model)
    return StagePrices(shape, Plan(), Stage(0, 0, len(shape.layers), ()), load_device(device), **settings)


# ---------------------------------------------------------------------- launches


def test_launches_are_counted_by_the_kind_of_layer():
    # BERT: four projections with a bias each (8), four transpositions, both products with scale, mask and softmax (5),
    # residual and norm (2): 19; two matrices with biases (4), activation, residual and norm (3): 7.
    bert, relative = load_model("bert-base").layers[0], load_model("transformer-xl-base").layers[0]
    assert launches(bert) == PLAIN_LAUNCHES == 19 + 7
    assert launches(relative) == 24 + 7
    lstm = [launches(layer) for layer in load_model("gnmt-v2").layers]
    assert max(lstm) < PLAIN_LAUNCHES / 1.5
    assert plain_layers(load_model("bert-base").layers) == 12


def test_the_host_of_an_eager_stack_pays_for_launches_and_of_another_for_layers():
    eager = StackCorrection(step_us=0.0, layer_us=260.0, sequence_us=0.0, unfused=Unfused(8))
    plain = replace(eager, unfused=None)
    one = np.ones(1)
    assert prices("transformer-xl-base", eager=True, correction=eager).host(one, one)[0] == pytest.approx(16 * 310e-6)
    assert prices("transformer-xl-base", eager=True, correction=plain).host(one, one)[0] == pytest.approx(16 * 260e-6)


# ---------------------------------------------------------------------- attention that is no kernel of its own


def test_scores_pass_through_memory_as_often_as_is_said():
    # One text of 1,000 tokens, 12 heads: a million scores a head, 2 bytes each, four times more often, in 12 layers, at
    # the bandwidth that element-wise kernels reach.
    chunks = [(1000, 0)]
    seconds = [
        prices("bert-base", correction=StackCorrection(unfused=Unfused(often))).mixed_attention(0, chunks, 0, 0, 0)[0]
        for often in (4, 8)
    ]
    known = Coefficients(load_device("a100-sxm-80gb"))
    rate = known.chip.bandwidth * known.stream("act").e_bw
    assert seconds[1] - seconds[0] == pytest.approx(12 * 4 * 12 * 1e6 * 2 / rate, rel=1e-6)


def test_single_precision_moves_twice_the_bytes_and_is_computed_at_its_own_peak():
    def of(weight_format: str) -> float:
        made = prices("bert-base", weight_format=weight_format, correction=StackCorrection(unfused=Unfused(8)))
        return made.mixed_attention(0, [(512, 0)] * 8, 0, 0, 0)[0]

    # Twice the bytes, and peaks of 19.5, 156 and 312 TFLOP/s.
    assert of("fp32") > 1.9 * of("tf32") > 1.9 * 1.9 * of("fp16")


def test_encoders_of_16_bit_may_have_fused_heads_and_generated_tokens_are_not_concerned():
    plain, fused = prices("bert-base"), Unfused(4, 0, (64,))
    same = prices("bert-base", correction=StackCorrection(unfused=fused))
    assert same.mixed_attention(0, [(384, 0)], 0, 0, 0) == plain.mixed_attention(0, [(384, 0)], 0, 0, 0)
    other = prices("bert-base", correction=StackCorrection(unfused=fused), weight_format="fp32")
    assert other.mixed_attention(0, [(384, 0)], 0, 0, 0)[0] > 2 * plain.mixed_attention(0, [(384, 0)], 0, 0, 0)[0]
    decoder = prices("gpt2", correction=StackCorrection(unfused=Unfused(8)))
    batch, context = np.array([4.0]), np.array([300.0])
    np.testing.assert_array_equal(
        decoder.decode_attention(0, batch, context), prices("gpt2").decode_attention(0, batch, context)
    )


def test_a_stack_keeps_its_properties_under_other_numbers():
    before = stack_of("fastertransformer@5")
    assert before.correction.unfused == Unfused(4.0, 8.0, (64,))
    after = stack_of("fastertransformer@5", {"fastertransformer@5": StackCorrection(launch=2.0)})
    assert after.correction.unfused == before.correction.unfused
    assert with_numbers(before.correction, {"launch": 1.0}).unfused == before.correction.unfused
    assert StackCorrection(unfused=Unfused(8)).free_numbers == 0
    assert stack_of("vllm@0.14").correction.unfused is None


# ---------------------------------------------------------------------- what words stand for


def test_words_for_older_engines():
    assert software_of("Triton, ONNX Runtime, Backend accelerator TensorRT").stack == "tensorrt"
    assert software_of("Triton, ONNX Runtime").stack == "onnxruntime@2023"
    assert software_of("Triton, PyTorch").stack == "torchscript@2020"
    assert software_of(EAGER).stack == "pytorch@2020"
    assert software_of("FasterTransformer", "encoder only (Longformer)").tensor_float
    assert not software_of("FasterTransformer op [PyTorch]", "BERT-base").tensor_float
    assert software_of("FasterTransformer 5.x (C++/triton)", "bert_triton_example.cc").no_padding


def test_formats_of_older_engines():
    def engine(precision: str, **changes: object) -> str:
        return case_of(replace(ROW, engine="FasterTransformer", precision=precision, **changes)).setup.engine

    assert '"quantization": "tf32"' in engine("tf32")
    assert '"quantization": "w8a8"' in engine("int8-v2")
    assert "tf32" not in engine("fp32")
    assert "tf32" in engine("fp32", notes="Longformer")
    assert "tf32" not in engine("fp32", notes="Longformer", device="V100-16GB", device_norm="V100-16GB")


def test_a_segment_of_transformer_xl_is_measured_with_its_memory_full():
    row = replace(ROW, model="Transformer-XL-base", model_norm="Transformer-XL-base", prompt=64)
    setup = case_of(row).setup
    assert (setup.before, setup.prompt) == (640, 64)
    machines = Machines()
    without = predict_forward(replace(setup, batch=32, before=0), machines).numbers["e2e_ms:batch"]
    assert predict_forward(replace(setup, batch=32), machines).numbers["e2e_ms:batch"] >= without
    assert case_of(ROW).setup.before == 0


# ---------------------------------------------------------------------- pipelines


@pytest.mark.parametrize(
    ("batch", "length", "pipeline", "parts"),
    # By hand: 4 of 32 tokens in two halves; 32 of 384 halved from 16 to 2 (768 tokens); 3 does not divide 256, which is
    # halved to 8 of 128 tokens; one device, or an odd batch of long texts, stays whole.
    [(4, 32, 2, 2), (32, 384, 2, 16), (256, 128, 3, 32), (32, 384, 1, 1), (3, 4096, 2, 1), (1, 1024, 2, 1)],
)
def test_a_pipeline_cuts_a_batch_into_parts(batch, length, pipeline, parts):
    assert parts_of_batch(batch, length, pipeline, 1024) == parts
    assert parts_of_batch(batch, length, pipeline, 0) == 1


def test_parts_follow_each_other_as_fast_as_the_slowest_stage():
    row = replace(
        ROW, engine="FasterTransformer", model="BERT-6B", model_norm="BERT-6B", devices=2, pipeline=2, batch=32
    )
    whole = case_of(row).setup
    machines = Machines()
    part = predict_forward(replace(whole, batch=32 // whole.parts, parts=1), machines).numbers["e2e_ms:batch"]
    together = predict_forward(whole, machines).numbers["e2e_ms:batch"]
    # Two stages that take about as long: each part more costs half of what a part alone does.
    assert together == pytest.approx(part * (1 + (whole.parts - 1) / 2), rel=0.1)


# ---------------------------------------------------------------------- devices


def test_a_power_limit_slows_what_computes_and_nothing_else():
    t4 = load_device("t4")
    limited, free = Coefficients(t4).chip, Coefficients(replace(t4, sustained_clock_hz=None)).chip
    assert limited.flops["fp16"] / free.flops["fp16"] == pytest.approx(1.07 / 1.59)
    assert limited.bandwidth == free.bandwidth
    v100 = load_device("v100-sxm-16gb")
    assert Coefficients(v100).chip.flops["fp16"] == v100.peak_flops["fp16"]


def test_a_torus_adds_hops_not_ranks():
    # 4 x 4 x 4: six ring operations of 3 us, and 3 x 64^(1/3) = 12 hops of 1.5 us.
    known = Coefficients(load_device("tpu-v4"))
    small = Group(known, 64, Link("ici", 270e9, 1.5e-6)).all_reduce(np.array([8.0]))
    assert small[0] == pytest.approx(36e-6, rel=0.1)


def test_a_slice_of_tpus_is_one_node():
    assert slice_of(load_device("tpu-v4"), 64) == "tpu-v4-64"
    assert slice_of(load_device("tpu-v4"), 48) == ""
    assert slice_of(load_device("h100-sxm"), 64) == ""


# ---------------------------------------------------------------------- measured


def sampled(shared: Path, pattern: str, each: int = 6) -> list[Row]:
    cells: dict[tuple[str, ...], list[Row]] = {}
    for row in read_measured(shared / "data/measured/measured.csv.gz"):
        if re.search(pattern, row.source) and row.tier in "AB":
            cells.setdefault(row.cell, []).append(row)
    return [rows[place] for rows in cells.values() for place in range(0, len(rows), max(len(rows) // each, 1))]


@pytest.mark.parametrize(
    ("pattern", "median", "worst"),
    [("^FT-", 17, 35), ("^NVDLE-(TXL|BERT)", 18, 30), ("^NVDLE-GNMT", 25, 30), ("^POPE-TPUV4", 12, 20)],
)
def test_older_families_stay_as_near_as_they_came(shared, pattern, median, worst):
    errors: dict[tuple[str, ...], list[float]] = {}
    for one in predictions_of(sampled(shared, pattern), n_jobs=1):
        assert one.value is not None, one.reason
        errors.setdefault(one.row.cell, []).append(abs(one.value / one.row.value - 1) * 100)
    cells = [float(np.median(found)) for found in errors.values()]
    assert np.median(cells) < median
    assert max(cells) < worst
