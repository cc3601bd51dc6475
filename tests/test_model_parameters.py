"""Parameters and weight bytes against published figures."""

import pytest

from llmsim.model import load_model
from llmsim.model.weights import active_parameters, layer_weight_bytes, parameters, stage_weight_bytes, weight_bytes

GIB = 2**30


# Parameters in billions as counted from the published checkpoints (model cards and safetensors headers).
PUBLISHED = {
    "llama-2-7b": 6.738,
    "llama-2-13b": 13.016,
    "llama-2-70b": 68.977,
    "codellama-34b": 33.744,
    "llama-3-8b": 8.030,
    "llama-3.1-8b": 8.030,
    "llama-3.1-70b": 70.554,
    "llama-3.1-405b": 405.85,
    "llama-3.2-1b": 1.236,
    "llama-3.2-3b": 3.213,
    "llama-3.3-70b": 70.554,
    "llama-65b": 65.286,
    "mistral-7b": 7.248,
    "mistral-7b-v0.1": 7.242,
    "mistral-nemo-12b": 12.248,
    "mistral-small-24b": 23.572,
    "mixtral-8x7b": 46.703,
    "mixtral-8x22b": 140.62,
    "qwen1.5-7b": 7.721,
    "qwen1.5-moe-a2.7b": 14.316,
    "qwen2-72b": 72.706,
    "qwen2.5-0.5b": 0.494,
    "qwen2.5-7b": 7.616,
    "qwen2.5-14b": 14.77,
    "qwen2.5-32b": 32.764,
    "qwen2.5-72b": 72.706,
    "qwen3-0.6b": 0.596,
    "qwen3-1.7b": 1.721,
    "qwen3-4b": 4.022,
    "qwen3-8b": 8.191,
    "qwen3-14b": 14.768,
    "qwen3-32b": 32.762,
    "qwen3-30b-a3b": 30.532,
    "qwen3-235b-a22b": 235.094,
    "gemma-2b": 2.506,
    "gemma-7b": 8.538,
    "gemma-2-2b": 2.614,
    "gemma-2-9b": 9.242,
    "gemma-2-27b": 27.227,
    "gemma-3-1b": 1.000,
    "gemma-3-4b": 3.880,
    "gemma-3-27b": 27.009,
    "phi-3-mini": 3.821,
    "phi-4": 14.66,
    "gpt-oss-20b": 20.91,
    "gpt-oss-120b": 116.83,
    "deepseek-v3": 671.03,
    "deepseek-v2": 235.74,
    "deepseek-v2-lite": 15.706,
    "gpt2": 0.12444,
    "gpt2-xl": 1.5576,
    "opt-6.7b": 6.658,
    "opt-13b": 12.853,
    "opt-66b": 65.72,
    "falcon-7b": 6.922,
    "falcon-40b": 41.303,
    "bloom-7b1": 7.069,
    "bloom-176b": 176.247,
    "gpt-j-6b": 6.051,
    "gpt-neox-20b": 20.555,
    "yi-34b": 34.389,
    "olmo-2-7b": 7.299,
    "starcoder2-15b": 15.958,
}


# Figures published with fewer digits.
ROUNDED = {
    "gpt-3-175b": 175,
    "opt-175b": 175,
    "megatron-530b": 530,
    "llama-4-scout": 108,
    "llama-4-maverick": 401,
    "glm-4.5-air": 106,
    "kimi-k2": 1026,
}


@pytest.mark.parametrize(("name", "billions"), PUBLISHED.items())
def test_parameters_agree_with_published_counts(name, billions):
    assert parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=1e-3)


@pytest.mark.parametrize(("name", "billions"), ROUNDED.items())
def test_parameters_agree_with_rounded_published_counts(name, billions):
    assert parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=1e-2)


def test_exact_counts_of_three_safetensors_headers():
    assert parameters(load_model("llama-3.1-8b")) == 8_030_261_248
    assert parameters(load_model("qwen2.5-7b")) == 7_615_616_512
    assert parameters(load_model("gemma-2-9b")) == 9_241_705_984


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        # A mixture is not dense: parameters that one token visits, as the model cards give them.
        ("mixtral-8x7b", 12.9),
        ("qwen3-30b-a3b", 3.35),
        ("qwen3-235b-a22b", 22.2),
        ("deepseek-v3", 37.6),
        ("llama-4-scout", 17.2),
        ("llama-3.1-8b", 8.03),
    ],
)
def test_a_token_visits_only_its_experts(name, billions):
    assert active_parameters(load_model(name)) == pytest.approx(billions * 1e9, rel=0.01)


def test_weights_of_published_checkpoints_on_disk():
    # gpt-oss model card, table 1: 60.8 GiB and 12.8 GiB; experts in MXFP4, the rest in BF16.
    assert weight_bytes(load_model("gpt-oss-120b")) / GIB == pytest.approx(60.8, abs=0.1)
    assert weight_bytes(load_model("gpt-oss-20b")) / GIB == pytest.approx(12.8, abs=0.1)
    # vLLM's start-up line for Llama-3.1-8B in bf16: "model weights take 14.99GiB".
    assert weight_bytes(load_model("llama-3.1-8b")) / GIB == pytest.approx(14.99, rel=0.005)
    assert weight_bytes(load_model("deepseek-v3")) / 1e9 == pytest.approx(671, rel=0.01)
    assert weight_bytes(load_model("llama-3.1-8b"), weight_format="fp8") / GIB == pytest.approx(8.49, rel=0.005)


def test_layers_embedding_and_head_make_up_the_whole():
    for name in ("llama-3.1-8b", "gemma-2-9b", "gpt-oss-20b", "opt-13b"):
        shape = load_model(name)
        middle = len(shape.layers) // 2
        halves = stage_weight_bytes(shape, 0, middle) + stage_weight_bytes(shape, middle, len(shape.layers))
        layers = sum(layer_weight_bytes(shape, index) for index in range(len(shape.layers)))
        vocabulary = shape.vocab_size * shape.hidden_size * 2
        assert layers < weight_bytes(shape) < layers + 2.1 * vocabulary
        # A tied matrix is needed at both ends of a pipeline.
        assert halves == weight_bytes(shape) + (vocabulary if shape.tied_embeddings else 0)


def test_ranks_hold_little_more_than_their_share():
    for name in ("llama-3.1-70b", "mixtral-8x7b", "deepseek-v3", "gpt-oss-120b"):
        shape = load_model(name)
        assert 1.0 <= stage_weight_bytes(shape, tensor=8) * 8 / weight_bytes(shape) < 1.03
