"""llama.cpp: which kernels ggml runs, what bounds them, and what comes of it against measured rows."""

import math

import numpy as np
import pytest

from llmsim.accuracy.measured import Row, read_measured
from llmsim.accuracy.names import device_named
from llmsim.accuracy.numbers import formats_of, gguf_format
from llmsim.accuracy.run import predictions_of
from llmsim.accuracy.score import score
from llmsim.accuracy.setups import case_of
from llmsim.accuracy.software import software_of
from llmsim.hardware import cluster_of, load_device, load_node
from llmsim.model import load_model
from llmsim.parallel import Plan, Stage, place
from llmsim.performance import ggml
from llmsim.performance.correction import stack_names, stack_of
from llmsim.performance.ggml_prices import GgmlPrices, prices_of_stage
from llmsim.performance.stage_prices import StagePrices

ONE = np.array([1.0])


def prices(model: str, device: str, stack: str = "ggml-cuda", stages: int = 1) -> list[StagePrices]:
    shape, chip = load_model(model), load_device(device)
    plan = Plan(1, stages)
    node = load_node(chip.node or "")
    placed = place(shape, plan, cluster_of(node, 1))[0]
    return [prices_of_stage(shape, plan, stage, chip, stack=stack) for stage in placed]


def seconds(made: StagePrices, tokens: float) -> float:
    return float(made.linear(np.array([tokens])).sum())


# ---------------------------------------------------------------------- one product


def test_a_product_with_a_vector_is_bound_by_memory_or_by_what_multiprocessors_draw() -> None:
    # A100 80 GB: 2,039 GB/s x 0.8744 = 1,782.9 GB/s; 108 x 1.41 GHz x 32 B = 4,873 GB/s of operands.
    # 1e9 weights in q4_0, 0.5625 B each, beside activations of 36/32 B: 0.31549 and 0.34630 ms.
    price = ggml.Products(load_device("a100-sxm-80gb"), "ggml-cuda").price(1e9, "q4_0", ONE)
    memory, draw = 0.5625 / 1782.9, (0.5625 + 1.125) / 4872.96
    assert price.total[0] == pytest.approx((memory**3 + draw**3) ** (1 / 3), rel=1e-3)
    assert price.compute[0] / price.memory[0] == pytest.approx((draw / memory) ** 3, rel=1e-3)
    # RTX 4090: 1,008 GB/s, 10,322 GB/s: memory alone, near enough.
    price = ggml.Products(load_device("rtx-4090"), "ggml-cuda").price(1e9, "q4_0", ONE)
    assert price.total[0] == pytest.approx(0.5625 / (1008 * 0.8744), rel=0.01)


def test_a_prompt_goes_through_memory_as_16_bit_and_then_through_cublas() -> None:
    # RTX 3090: 936 GB/s x 0.8744 = 818.4 GB/s; 284 / 2 TFLOP/s with sums in 16 bit x 0.8367 = 118.8; 0.7 x 350 W = 245.
    products = ggml.Products(load_device("rtx-3090"), "ggml-cuda")
    tokens = np.array([512.0])
    plain, packed = (products.price(1e9, name, tokens).total[0] for name in ("fp16", "q4_0"))
    parts = [2 * 512 / 118.81e3, 2 * 512 / 245e3, 2.0 / 818.4]
    assert plain == pytest.approx(sum(part**3 for part in parts) ** (1 / 3), rel=1e-3)
    assert packed - plain == pytest.approx((0.5625 + 2.0) / 818.4, rel=1e-3)
    # Since June 2024 nothing is unpacked to memory.
    later = ggml.Products(load_device("rtx-3090"), "ggml-cuda-mmq").price(1e9, "q4_0", tokens).total[0]
    assert later < plain


def test_metal_unpacks_a_weight_for_each_tile_of_32_tokens() -> None:
    products = ggml.Products(load_device("m2-ultra"), "ggml-metal")
    tokens = np.array([512.0])
    plain, packed = (products.price(1e9, name, tokens).compute[0] for name in ("fp16", "q4_0"))
    assert packed / plain == pytest.approx(1 + 6 / 32, rel=0.01)
    # From the M3 on beside the products.
    products = ggml.Products(load_device("m3-max"), "ggml-metal")
    plain, packed = (products.price(1e9, name, tokens).compute[0] for name in ("fp16", "q4_0"))
    assert packed == pytest.approx(plain, rel=0.01)


@pytest.mark.parametrize(
    ("device", "tera"),
    [
        ("rtx-4090", 330.3),  # GeForce: int8 / 2; its own file says 165.2, with sums in 32 bit
        ("rtx-a6000", 154.85),  # the same with either
        ("h100-pcie", 0.62 * 4096 * 114 * 1.755e-3),  # mma.sync
        ("m1-max", 10.6),
        ("v100-sxm-32gb", 125.0),
        ("p40", 23.5),  # four-way dot products of int8
    ],
)
def test_rate_of_matrix_products(device: str, tera: float) -> None:
    assert ggml.matrix_flops(load_device(device)) == pytest.approx(tera * 1e12, rel=2e-3)


def test_codes_in_gddr6_take_their_part_of_the_bandwidth() -> None:
    corrected = {"a40", "a10", "l4", "l40", "l40s", "t4"}
    plain = {"rtx-a6000", "rtx-3090", "rtx-3080", "rtx-2080-ti", "a100-sxm-40gb", "a100-sxm-80gb", "h200-sxm",
             "v100-sxm-32gb", "m3-pro", "rtx-4000-ada", "rtx-6000-ada", "mi300x"}  # fmt: skip
    for name in corrected | plain:
        device = load_device(name)
        share = 15 / 16 if name in corrected else 1.0
        assert ggml.data_bandwidth(device) == pytest.approx(share * device.memory_bandwidth), name


# ---------------------------------------------------------------------- a stage


def test_stacks_choose_the_prices() -> None:
    assert isinstance(prices("llama-3-8b", "rtx-3090")[0], GgmlPrices)
    assert not isinstance(prices("llama-3-8b", "h100-sxm", "vllm")[0], GgmlPrices)
    assert isinstance(prices("llama-3-8b", "rtx-3090", "llamacpp@2024")[0], GgmlPrices)
    assert "llama.cpp" in prices("llama-3-8b", "rtx-3090")[0].label


def test_prompts_are_cut_into_batches_of_512_tokens() -> None:
    made = prices("llama-3-8b-q4_k_m", "rtx-3090")[0]
    assert made.micro_batch == 512
    assert seconds(made, 1024) == pytest.approx(2 * seconds(made, 512))
    assert seconds(made, 600) == pytest.approx(seconds(made, 512) + seconds(made, 88))
    # Scores of a chunk, masked or not: 512 x 512 + 512 x 1024.
    first = made.mixed_attention(0, [(512, 0)], 0, 0.0, 0.0)[0]
    second = made.mixed_attention(0, [(512, 512)], 0, 0.0, 0.0)[0]
    both = made.mixed_attention(0, [(1024, 0)], 0, 0.0, 0.0)[0]
    assert both == pytest.approx(first + second, rel=0.02)
    assert second == pytest.approx(2 * first, rel=0.02)


def test_a_layer_split_shortens_no_token() -> None:
    one = sum(seconds(part, 1) for part in prices("llama-3-8b", "rtx-3090"))
    four = sum(seconds(part, 1) for part in prices("llama-3-8b", "rtx-3090", stages=4))
    assert four == pytest.approx(one + 3 * ggml.HOP_S, rel=0.01)


def test_a_token_reads_its_own_experts_and_a_prompt_all() -> None:
    mixture = prices("mixtral-8x7b-q4_k_m", "a100-sxm-80gb")[0]
    kinds = [resource for resource, _ in mixture.kinds]
    alone, prompt = (mixture.linear(np.array([tokens]))[:, 0] for tokens in (1.0, 512.0))
    # Two of eight experts: 12.9 of 46.7 billion weights.
    dense = ggml.Products(load_device("a100-sxm-80gb"), "ggml-cuda")
    read = dense.price(12.9e9, "q4_k_m", ONE).total[0]
    spent = sum(value for value, kind in zip(alone, kinds, strict=True) if kind != "launch")
    assert spent == pytest.approx(read, rel=0.05)
    unpacked = 45e9 * (0.6 + 4.0) / (2.039e12 * 0.8744)
    assert sum(prompt) > 0.9 * unpacked


def test_every_backend_prices_every_step() -> None:
    for device, stack in (("rtx-4090", "ggml-cuda-mmq"), ("m1-pro", "ggml-metal"), ("xeon-8480", "ggml-cpu")):
        for model in ("llama-3-8b-q8_0", "deepseek-v2-lite", "mixtral-8x7b-q4_0"):
            made = prices_of_stage(
                load_model(model), Plan(), Stage(0, 0, len(load_model(model).layers), ()), load_device(device),
                stack=stack,
            )  # fmt: skip
            tokens = np.array([1.0, 2.0, 8.0, 9.0, 64.0, 512.0, 2048.0])
            total = made.linear(tokens).sum(axis=0) + made.head(np.ones(len(tokens))).sum(axis=0)
            assert np.all(np.isfinite(total))
            assert np.all(total > 0)
            assert total[-1] > total[0]
            assert made.decode_attention(0, ONE, np.array([1000.0])).sum() > 0


# ---------------------------------------------------------------------- words of rows


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Q4_K_M", "q4_k_m"), ("q4_0", "q4_0"), ("llama 8B Q4_K - Medium", "q4_k_m"), ("Q8_0", "q8_0"),
        ("Q6_K", "q6_k"), ("Q5_K_S", "q5_k"), ("Q3_K_L", "q3_k"), ("IQ4_XS", "q4_0"), ("IQ2_XXS", "q2_k"),
        ("4-bit", "q4_0"), ("int8", "q8_0"), ("F16", None), ("bf16", None), ("fp32", None),
    ],
)  # fmt: skip
def test_formats_of_gguf(words: str, name: str | None) -> None:
    assert gguf_format(words.lower()) == name


def test_other_engines_keep_their_formats() -> None:
    model, device = load_model("llama-3-8b"), load_device("a100-sxm-80gb")
    vllm, llamacpp = software_of("vLLM 0.6"), software_of("llama.cpp b4000")
    assert vllm is not None
    assert llamacpp is not None
    assert formats_of("q4 awq", model, device, vllm).model == model.name
    assert formats_of("Q4_K_M", model, device, llamacpp).model.endswith("q4_k_m")


def row(**said: object) -> Row:
    plain = {
        "id": "1", "source": "OURS", "engine": "llama.cpp (2024-05)", "model": "Llama-3-8B", "precision": "Q4_K_M",
        "device": "3090 24GB", "devices": 1, "tensor": 1, "pipeline": 1, "experts": None, "prompt": 1024, "output": 0,
        "batch": 1, "concurrency": None, "rate": None, "dataset": "", "metric": "total_tok_s", "statistic": "mean",
        "value": 1.0, "kind": "static-batch", "device_norm": "", "model_norm": "", "tier": "B", "notes": "", "line": 2,
    }  # fmt: skip
    return Row(**{**plain, **said})


@pytest.mark.parametrize(
    ("engine", "device", "stack"),
    [
        ("llama.cpp (2024-05)", "3090 24GB", "llamacpp@2024"),
        ("llama.cpp", "RTX 4090", "llamacpp@2024"),
        ("llama.cpp (Aug 2023)", "3090 24GB", "llamacpp@2023"),
        ("llama.cpp b4500", "RTX 4090", "llamacpp@2025"),
        ("llama.cpp b2900", "RTX 4090", "llamacpp@2024"),
        ("llama.cpp (2025-03)", "RTX 4090", "llamacpp@2025"),
        ("llama.cpp (2024-05)", "M2 Ultra 76-Core GPU 192GB", "llamacpp-metal@2024"),
        ("llama.cpp Metal", "M1 7-Core GPU 8GB", "llamacpp-metal@2024"),
        ("llama.cpp (2024-05)", "Xeon Platinum 8480+", "llamacpp-cpu@2024"),
    ],
)
def test_builds_of_llama_cpp(engine: str, device: str, stack: str) -> None:
    setup = case_of(row(engine=engine, device=device)).setup
    assert setup is not None
    assert setup.stack == stack


def test_variants_of_apples_chips_are_told_by_their_cores() -> None:
    names = {"M1 7-Core GPU 8GB": "m1-7-core", "M1 Max 32-Core GPU 64GB": "m1-max", "M1 Max 24-core": "m1-max-24-core",
             "Apple M2 Ultra (60-core GPU)": "m2-ultra-60-core", "M3 Max 40-Core GPU 64GB": "m3-max"}  # fmt: skip
    for said, name in names.items():
        assert device_named(said).name == name
    for name in ("m1-7-core", "m2-max-30-core", "m2-ultra-60-core", "m4-pro-16-core"):
        device = load_device(name)
        cores = int(name.split("-")[-2])
        assert device.multiprocessors == cores
        assert device.peak_flops["fp16"] == pytest.approx(cores * 256 * device.clock_hz, rel=0.02)


def test_prompts_on_several_devices_pass_one_behind_the_other() -> None:
    # Two batches of 512 tokens over p devices: (2 + p - 1) / (2 p) of the time of one, but for what passes between.
    made = {
        count: predictions_of([row(devices=count, pipeline=count)], n_jobs=1)[0].value or 0.0 for count in (1, 2, 4)
    }
    assert made[1] < made[2] < made[4]
    assert made[2] / made[1] == pytest.approx(4 / 3, rel=0.1)
    assert made[4] / made[1] == pytest.approx(8 / 5, rel=0.15)


# ---------------------------------------------------------------------- measured


def test_stacks_of_llama_cpp_have_few_numbers() -> None:
    for name in stack_names():
        stack = stack_of(name)
        assert stack.correction.free_numbers + len(stack_of(stack.like).constants) <= 6, name
    assert stack_of("llamacpp-cpu@2024").correction.free_numbers == 0


def test_measured_runs_on_one_device(shared) -> None:
    rows = [
        one for one in read_measured(shared / "data/measured/measured.csv.gz")
        if one.source == "LLAMACPP" and one.tier == "B" and one.devices == 1
    ]  # fmt: skip
    assert len(rows) > 70
    found = predictions_of(rows, n_jobs=1)
    assert not [one.reason for one in found if one.value is None]
    written, read = (
        score([one for one in found if one.row.metric == metric]) for metric in ("output_tok_s", "total_tok_s")
    )
    assert written is not None
    assert read is not None
    # All rows, several devices too: 3.6 and 12 % in the median, 8.9 and 27 % at the 90th percentile.
    assert written.median < 6
    assert written.p90 < 16
    assert read.median < 14
    assert read.p90 < 32
    assert not math.isnan(written.bias)
