"""Cache bytes a token, and the groups of layers that share a cache."""

import pytest

from llmsim.errors import InputError
from llmsim.model import load_model
from llmsim.model.weights import cache_bytes_per_token, cache_format, cache_groups, in_format

KIB = 1024

LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


@pytest.mark.parametrize(
    ("name", "kib"),
    [
        ("llama-3.1-8b", 128),
        ("llama-3.1-70b", 320),
        ("llama-2-7b", 512),
        ("llama-3.1-405b", 504),
        ("qwen2.5-7b", 56),
        ("qwen3-0.6b", 112),  # heads x head_dim is twice the hidden size: the naive formula gives half
        ("gemma-3-27b", 496),
        ("gpt-oss-120b", 72),
        ("falcon-7b", 8),  # one KV head
        ("deepseek-v3", 68.625),  # 61 x (512 + 64) x 2: one latent, not 128 heads
        ("mixtral-8x7b", 128),
        ("gpt-3-175b", 4608),
    ],
)
def test_cache_bytes_of_a_token(name, kib):
    assert cache_bytes_per_token(load_model(name)) == kib * KIB


def test_cache_bytes_follow_the_cache_format_and_not_the_weights():
    shape = load_model("llama-3.1-8b")
    assert cache_bytes_per_token(shape, "fp8") == 64 * KIB
    assert cache_bytes_per_token(in_format(shape, "fp8"), "bf16") == 128 * KIB
    assert cache_bytes_per_token(load_model("deepseek-v3"), "fp8_ds_mla") == 61 * 656


def test_kv_heads_are_divided_over_ranks_and_then_repeated():
    shape = load_model("llama-3.1-70b")
    assert [cache_bytes_per_token(shape, "bf16", tensor) / KIB for tensor in (1, 2, 8, 16)] == [320, 160, 40, 40]
    latent = load_model("deepseek-v3")
    assert cache_bytes_per_token(latent, "bf16", 8) == cache_bytes_per_token(latent, "bf16", 1)


def test_cache_groups_put_full_attention_first():
    def windows(name):
        return [(group.window, group.layers) for group in cache_groups(load_model(name))]

    assert windows("llama-3.1-8b") == [(None, 32)]
    assert windows("gemma-3-27b") == [(None, 10), (1024, 52)]
    assert windows("gemma-2-9b") == [(None, 21), (4096, 21)]
    assert windows("gpt-oss-20b") == [(None, 12), (128, 12)]
    assert windows("mistral-7b-v0.1") == [(4096, 32)]
    assert windows("mistral-7b") == [(None, 32)]
    assert windows("llama-4-scout") == [(None, 12), (8192, 36)]
    assert windows("phi-3-mini-128k") == [(None, 32)]  # its window is longer than its context


def test_windows_alternate_in_the_right_order():
    gemma2, gemma3, oss = (load_model(name).layers for name in ("gemma-2-9b", "gemma-3-27b", "gpt-oss-20b"))
    assert [layer.attention.window for layer in gemma2[:4]] == [4096, None, 4096, None]
    assert [layer.attention.window for layer in gemma3[:7]] == [1024] * 5 + [None, 1024]
    assert [layer.attention.window for layer in oss[:2]] == [128, None]
    assert load_model("llama-4-scout").layers[0].attention.chunked


def test_cache_formats_have_vllms_names():
    shape = load_model("llama-2-7b")
    assert cache_format(shape) == "fp16"
    assert cache_format(shape, "fp8_e4m3") == "fp8"
    assert cache_format(load_model({**LLAMA, "quantization_config": {
        "quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})) == "fp8"  # fmt: skip
    with pytest.raises(InputError, match="kv_cache_dtype: not modelled"):
        cache_format(shape, "turboquant")
