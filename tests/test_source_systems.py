"""The systems of the source documents, each held to measured rows: how far off, and no further.

Every bound is the error that was found when the test was written, and a few points; none was fitted to these rows.
Rows are read from the reference data, which is not part of the package; without it these tests are skipped.
"""

import csv
import gzip
from dataclasses import replace
from statistics import median

import pytest

from llmsim.hardware import Link, load_device
from llmsim.model import load_model
from llmsim.model.weights import in_format
from llmsim.performance.forward import decode_steps, forward_pass, one_stage, static_batch

DEVICES = {
    "A100-80GB-SXM": "a100-sxm-80gb", "A100-40GB": "a100-sxm-40gb", "V100-16GB": "v100-sxm-16gb",
    "V100-32GB": "v100-sxm-32gb", "T4": "t4", "TPU v4": "tpu-v4", "Xeon-8592+ (EMR)": "xeon-8592",
    "Apple-M1-Max": "m1-max",
}  # fmt: skip


@pytest.fixture(scope="module")
def measured(shared):
    with gzip.open(shared / "data/measured/measured.csv.gz", "rt", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row["device_norm"] in DEVICES]


def rows(measured, **wanted):
    """Return the rows whose columns contain what is wanted, with a value for statistics of the middle."""
    found = [
        row
        for row in measured
        if all(text in row[name] for name, text in wanted.items()) and not row["statistic"].startswith("p9")
    ]
    assert found, f"no such rows: {wanted}"
    return found


def error(predicted, row):
    return predicted / float(row["value"]) - 1


def numbers(row, *names):
    return tuple(int(row[name]) for name in names)


def prices(model, row, weight_format="fp16", **settings):
    shape = replace(model, weight_format=weight_format, dtype="fp16")
    return one_stage(shape, load_device(DEVICES[row["device_norm"]]), **{"stack": "trtllm", **settings})


# ---------------------------------------------------------------------- encoders


@pytest.mark.parametrize(
    ("device", "precision", "most"),
    # A100 is fitted; V100 and T4 are priced from data sheets, of which the T4's 65 TFLOP/s are not held for long.
    [("A100-80GB-SXM", "fp16", 0.15), ("A100-80GB-SXM", "fp32", 0.15), ("V100-16GB", "fp32", 0.12),
     ("V100-16GB", "fp16", 0.30), ("T4", "fp16", 0.35), ("T4", "fp32", 0.35)],
)  # fmt: skip
def test_bert_base_of_fastertransformer(measured, device, precision, most):
    engine = "FasterTransformer op [TensorFlow]"
    found = rows(measured, model_norm="BERT-base", engine=engine, device_norm=device, precision=precision)
    errors = []
    for row in found:
        batch, length = numbers(row, "batch", "isl")
        stage = prices(load_model("bert-base"), row, precision)
        errors.append(error(forward_pass(stage, [length] * batch).total_s * 1e3, row))
    assert median(map(abs, errors)) < most


def test_bert_base_with_padding_removed(measured):
    # "Effective FT": texts of half the stated length on average, padding not computed.
    engine = "Effective FasterTransformer (remove padding) [TensorFlow]"
    found = rows(measured, model_norm="BERT-base", engine=engine, device_norm="A100-80GB", precision="fp16")
    stage = prices(load_model("bert-base"), found[0])
    errors = []
    for row in found:
        batch, length = numbers(row, "batch", "isl")
        errors.append(error(forward_pass(stage, [length // 2] * batch).total_s * 1e3, row))
    assert median(map(abs, errors)) < 0.35
    large = [one for one, row in zip(errors, found, strict=True) if int(row["batch"]) * int(row["isl"]) > 8000]
    assert large
    assert median(map(abs, large)) < 0.25


def test_bert_large_through_tensorrt(measured):
    found = rows(measured, model_norm="BERT-large", engine="Triton, NVIDIA TensorRT", device_norm="A100")
    stage = prices(load_model("bert-large"), found[0])
    errors = [error(forward_pass(stage, [384] * int(row["batch"])).total_s * 1e3, row) for row in found]
    assert median(map(abs, errors)) < 0.25


def test_bert_large_on_two_sockets(measured):
    # MLPerf offline, int8 on AMX, both sockets at once: each has its own copy and its own memory (NUMA domain).  SQuAD
    # v1.1 has 178 tokens on average where MLPerf pads to 384 (our count of the data set's published histogram).
    row = rows(measured, model_norm="BERT-large", device_norm="Xeon", metric="req_s", source="Intel/results")[0]
    stage = one_stage(in_format(load_model("bert-large"), "w8a8"), load_device("xeon-8592"))
    per_second = 2 * 64 / forward_pass(stage, [178] * 64).total_s
    assert abs(error(per_second, row)) < 0.35


def test_longformer_of_fastertransformer(measured):
    found = rows(measured, model_norm="Longformer", engine="FasterTransformer", precision="fp16", tier="A")
    stage = prices(load_model("longformer-large"), found[0])
    errors = [error(forward_pass(stage, [int(row["isl"])] * int(row["batch"])).total_s * 1e3, row) for row in found]
    assert median(map(abs, errors)) < 0.30
    # The same rows in "fp32" need more than the fp32 peak: those are tf32.
    single = rows(measured, model_norm="Longformer", engine="FasterTransformer", precision="fp32", tier="A")
    wide = prices(load_model("longformer-large"), single[0], "tf32")
    errors = [error(forward_pass(wide, [int(row["isl"])] * int(row["batch"])).total_s * 1e3, row) for row in single]
    assert median(map(abs, errors)) < 0.45


# ---------------------------------------------------------------------- decoders, memories, recurrence


def test_transformer_xl_segments(measured):
    # One segment of 64 tokens behind a memory of 640, all tokens scored.  Large batches keep the device busy; at small
    # ones the host's Python is the limit, which is not priced: 16 layers of some 60 launches each.
    found = rows(measured, model_norm="Transformer-XL", device_norm="V100", tier="B", precision="fp16")
    stage = prices(load_model("transformer-xl-base"), found[0], eager=True)

    def predicted(row):
        batch, length = numbers(row, "batch", "isl")
        return forward_pass(stage, [length] * batch, before=640, rows=batch * length).total_s * 1e3

    errors = {int(row["batch"]): error(predicted(row), row) for row in found}
    assert abs(errors[max(errors)]) < 0.15
    assert -0.9 < errors[1] < 0


def test_gnmt_translates_a_sentence(measured):
    # newstest2014 in BPE: 27 tokens in, 28 out on average; batch 1 alone says nothing of the longest of many.
    found = rows(measured, model_norm="GNMT-v2", device_norm="A100", precision="fp16", notes="beam size 1;")
    row = next(row for row in found if row["batch"] == "1")
    stage = prices(load_model("gnmt-v2"), row, eager=True, stack="vllm")
    assert abs(error(static_batch(stage, 1, 27, 28).total_s * 1e3, row)) < 0.10


def test_t5_decodes_faster_with_the_batch_as_measured(measured):
    # Lengths of the test set are unpublished: the rows can tell the size, and how it grows with the batch.
    found = rows(measured, model_norm="T5-base", device_norm="A100", engine="FasterTransformer", precision="fp16")
    found = {int(row["batch"]): row for row in found if row["notes"].startswith("sampling=4")}
    stage = prices(load_model("t5-base"), found[1])
    rate = {batch: batch * 28 / static_batch(stage, batch, 27, 28).total_s for batch in (1, 8)}
    assert error(rate[1], found[1]) == pytest.approx(0.27, abs=0.15)
    grown = float(found[8]["value"]) / float(found[1]["value"])
    assert rate[8] / rate[1] > 0.9 * grown


def test_gpt2_medium_generates_a_batch(measured):
    # FasterTransformer's "GPT 350M" has GPT-2 medium's layers.
    found = rows(measured, model_norm="GPT-350M", engine="FasterTransformer", tier="A")
    stage = prices(load_model("gpt2-medium"), found[0])
    errors = []
    for row in found:
        batch, prompt, output = numbers(row, "batch", "isl", "osl")
        errors.append(error(static_batch(stage, batch, prompt, output).total_s * 1e3, row))
    # As GPT-3 below: kernels of 2022, here with unfused attention too, take about twice as long as those of the fits.
    assert -0.55 < median(errors) < 0
    assert max(errors) - min(errors) < 0.25


def test_gpt3_over_eight_devices(measured):
    found = rows(measured, model_norm="GPT-175B", engine="FasterTransformer", tier="A")
    stage = prices(load_model("gpt-3-175b"), found[0], tensor=8)
    errors = []
    for row in found:
        batch, prompt, output = numbers(row, "batch", "isl", "osl")
        errors.append(error(static_batch(stage, batch, prompt, output).total_s * 1e3, row))
    # FasterTransformer of 2022 is slower than today's kernels, most at small batches.
    assert -0.45 < median(errors) < 0
    assert errors[-1] > errors[0]


def test_palm_on_64_tpus(measured):
    # Heads padded from 48 to 64 (Pope et al. 2022, section 4); prefill of 60 tokens a sequence.
    palm = load_model("palm-540b")
    padded = tuple(replace(one, attention=replace(one.attention, heads=64)) for one in palm.layers)
    stage = one_stage(replace(palm, layers=padded), load_device("tpu-v4"), tensor=64)
    found = rows(measured, model_norm="PaLM", device_norm="TPU v4", isl="60", tier="B")
    errors = {"ttft_ms": [], "tpot_ms": []}
    for row in found:
        batch = int(row["batch"])
        if row["metric"] == "ttft_ms":
            errors["ttft_ms"].append(error(forward_pass(stage, [60] * batch).total_s * 1e3, row))
        elif row["metric"] == "tpot_ms":
            errors["tpot_ms"].append(error(decode_steps(stage, batch, 61, 20).total_s / 20 * 1e3, row))
    assert median(map(abs, errors["ttft_ms"])) < 0.25
    assert median(map(abs, errors["tpot_ms"])) < 0.45


def test_gguf_on_a_desktop(measured):
    # llama.cpp on an M1 Max: generation is the weights through the memory's bandwidth.  The data-sheet layer pads a
    # single row to a matrix unit's tile, which GPUs without such units do not: too slow by half.
    found = rows(measured, model_norm="Llama-3.x-8B", device_norm="Apple-M1-Max", precision="q4_k_m")
    row = next(row for row in found if row["metric"] == "output_tok_s")
    stage = one_stage(in_format(load_model("llama-3.1-8b"), "q4_k_m"), load_device("m1-max"))
    assert abs(error(1 / decode_steps(stage, 1, 64, 1).total_s, row)) < 0.55


def test_a_cpu_generates_at_the_speed_of_its_memory(shared):
    # llama.cpp of August 2023 on an i9-13900K with two channels of DDR5-6400 (102.4 GB/s) and some 1.5 TFLOP/s
    # (8 + 16 cores), by threads; the fastest run is the memory's.  The source leaves the format unsaid (tier C): q4_0.
    with gzip.open(shared / "data/measured/measured.csv.gz", "rt", encoding="utf-8") as file:
        found = [
            row for row in csv.DictReader(file) if "i9-13900K" in row["device_norm"] and row["metric"] == "tpot_ms"
        ]
    fastest = min(found, key=lambda row: float(row["value"]))
    socket = replace(load_device("xeon-8592"), memory_bandwidth=102.4e9, peak_flops={"fp32": 1.5e12})
    stage = one_stage(in_format(load_model("llama-7b"), "q4_0"), socket)
    assert abs(error(decode_steps(stage, 1, 1, 128).total_s / 128 * 1e3, fastest)) < 0.20


def test_two_sockets_are_faster_than_one_but_not_twice():
    # Tensor parallelism over NUMA domains: each socket reads its half of the weights from its own memory, and the
    # halves meet over UPI.
    model, socket = load_model("llama-3.1-8b"), load_device("xeon-8592")
    one = decode_steps(one_stage(model, socket), 1, 512, 1)
    two = decode_steps(one_stage(model, socket, tensor=2, link=Link("upi", 160e9, 1e-6)), 1, 512, 1)
    assert 1.3 < one.total_s / two.total_s < 2
    assert two.by_resource()["communication"] > 0
