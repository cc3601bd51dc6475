"""Families with encoders and recurrent layers, and those whose naive formulas go wrong: published figures."""

import pytest

from llmsim.errors import ModelError
from llmsim.model import load_model
from llmsim.model.shape import Lstm, Recurrent
from llmsim.model.weights import (
    active_parameters,
    cache_bytes_per_token,
    cache_groups,
    in_format,
    parameters,
    stage_weight_bytes,
    state_bytes,
    weight_bytes,
)

KIB, MIB = 1024, 2**20

# Counted by transformers' `num_parameters()` or in the safetensors headers of the checkpoints named; the cache in
# elements a token, by hand from the shapes in their papers.
EXACT = {
    # name: (parameters, cache elements a token, source)
    "bert-base": (109_482_240, 0, "google-bert/bert-base-uncased, BertModel with its pooler"),
    "bert-large": (335_141_888, 0, "google-bert/bert-large-uncased, BertModel with its pooler"),
    "roberta-base": (124_645_632, 0, "FacebookAI/roberta-base, RobertaModel with its pooler"),
    "distilbert-base": (66_362_880, 0, "distilbert/distilbert-base-uncased, DistilBertModel"),
    "longformer-base": (148_659_456, 0, "allenai/longformer-base-4096, LongformerModel"),
    "longformer-large": (434_600_960, 0, "allenai/longformer-large-4096, LongformerModel"),
    "t5-small": (60_506_624, 6 * 2 * 512, "google-t5/t5-small"),
    "t5-base": (222_903_552, 12 * 2 * 768, "google-t5/t5-base"),
    "t5-large": (737_668_096, 24 * 2 * 1024, "google-t5/t5-large"),
    "t5-3b": (2_851_598_336, 24 * 2 * 32 * 128, "google-t5/t5-3b"),
    "gpt2-medium": (354_823_168, 24 * 2 * 1024, "openai-community/gpt2-medium"),
    "gpt2-large": (774_030_080, 36 * 2 * 1280, "openai-community/gpt2-large"),
    "mamba-130m": (129_135_360, 0, "state-spaces/mamba-130m-hf"),
    "mamba-2.8b": (2_768_345_600, 0, "state-spaces/mamba-2.8b-hf"),
    "mamba2-130m": (128_989_632, 0, "state-spaces/mamba2-130m"),
}
ROUNDED = {
    # name: (billions, relative tolerance, active billions or None, cache KiB a token, source)
    "gnmt-v2": (0.160, 0.02, None, 4.0, "NVIDIA DeepLearningExamples, GNMT v2: 160M parameters"),
    "transformer-xl-base": (0.192, 0.001, None, 16.0, "NVIDIA DeepLearningExamples, Transformer-XL base: 192M"),
    "jamba-v0.1": (51.57, 0.001, 12.0, 16.0, "Jamba paper: 52B total, 12B active; 4 GB of cache at 256K tokens"),
    "nemotron-h-8b": (8.1, 0.001, None, 16.0, "Nemotron-H paper: 8B, 4 attention layers of 52"),
    "qwen3-next-80b-a3b": (80.0, 0.01, 3.9, 24.0, "Qwen3-Next model card: 80B total, 3B active"),
    "qwen3.5-27b": (27.0, 0.01, None, 64.0, "Qwen3.5-27B model card"),
    "palm-540b": (540.35, 0.001, None, 118.0, "PaLM paper, table 1: 540.35B, one KV head of 256"),
}


@pytest.mark.parametrize(("name", "figures"), EXACT.items())
def test_counts_of_checkpoints_are_met_to_the_last_parameter(name, figures):
    count, cache, _ = figures
    shape = load_model(name)
    assert parameters(shape) == count
    assert cache_bytes_per_token(shape) == 2 * cache
    assert weight_bytes(shape) == 2 * count
    assert stage_weight_bytes(shape) == weight_bytes(shape)


@pytest.mark.parametrize(("name", "figures"), ROUNDED.items())
def test_rounded_counts_and_caches(name, figures):
    billions, tolerance, active, cache_kib, _ = figures
    shape = load_model(name)
    assert parameters(shape) == pytest.approx(billions * 1e9, rel=tolerance)
    if active is not None:
        assert active_parameters(shape) == pytest.approx(active * 1e9, rel=0.02)
    assert cache_bytes_per_token(shape) == cache_kib * KIB


@pytest.mark.parametrize(
    ("name", "kib", "naive_kib"),
    [
        # conventions of estimators that took hidden_size / heads for the head's width, all layers for attention
        # layers, windows for full attention, or latent attention for multi-head attention
        ("gemma-3-27b", 496, 2 * 62 * 5376 * 2 / KIB),  # naive: all heads times hidden / heads
        ("qwen3.5-27b", 64, 256),  # naive: 64 attention layers instead of 16
        ("deepseek-v3", 68.625, 61 * 2 * 128 * 128 * 2 / KIB),  # naive: 128 heads of keys and values
        ("qwen3-0.6b", 112, 56),  # naive: head_dim 1024 / 16 instead of 128
    ],
)
def test_models_whose_naive_formula_goes_wrong(name, kib, naive_kib):
    per_token = cache_bytes_per_token(load_model(name)) / KIB
    assert per_token == kib
    assert abs(naive_kib / per_token - 1) > 0.4


def test_jambas_cache_at_its_longest_context_is_as_published():
    # Jamba paper (Lieber et al. 2024), table 1: 4 GB of KV cache at 256K tokens in 16 bit, Mixtral 32 GB.
    assert cache_bytes_per_token(load_model("jamba-v0.1")) * 256 * 1024 == 4 * 2**30
    assert cache_bytes_per_token(load_model("mixtral-8x7b")) * 256 * 1024 == 32 * 2**30


def test_windows_hold_less_than_the_sum_of_their_layers():
    groups = [(group.window, group.layers) for group in cache_groups(load_model("gemma-3-27b"))]
    assert groups == [(None, 10), (1024, 52)]


def test_states_are_constant_and_divided_over_ranks():
    # Mamba-2 2.7B: 64 layers x (80 heads x 64 x 128 + 3 x (5120 + 2 x 128)) elements of 2 bytes.
    shape = load_model("mamba2-2.7b")
    assert state_bytes(shape) == 64 * (80 * 64 * 128 + 3 * (5120 + 256)) * 2
    assert state_bytes(shape, tensor=2) == state_bytes(shape) / 2
    # Qwen3.5 keeps its state in fp32: 48 layers x (48 x 128 x 128 + 3 x (6144 + 2 x 16 x 128)) x 4.
    assert state_bytes(load_model("qwen3.5-27b")) == 48 * (48 * 128 * 128 + 3 * (6144 + 4096)) * 4
    assert state_bytes(load_model("llama-3.1-8b")) == 0


def test_layers_are_of_the_kinds_that_the_patterns_say():
    jamba = load_model("jamba-v0.1").layers
    assert [index for index, layer in enumerate(jamba) if layer.attention] == [4, 12, 20, 28]
    assert [layer.feed_forward.experts for layer in jamba[:4]] == [0, 16, 0, 16]
    nemotron = load_model("nemotron-h-8b").layers
    assert sum(layer.attention is not None for layer in nemotron) == 4
    assert sum(isinstance(layer.recurrent, Recurrent) for layer in nemotron) == 24
    assert sum(layer.feed_forward is not None for layer in nemotron) == 24
    qwen = load_model("qwen3-next-80b-a3b").layers
    assert [index for index, layer in enumerate(qwen[:8]) if layer.attention] == [3, 7]
    assert isinstance(load_model("gnmt-v2").encoder[0].recurrent, Lstm)
    assert load_model("gnmt-v2").encoder[0].recurrent.directions == 2


def test_an_encoder_has_no_output_matrix_and_a_decoder_behind_one_has():
    bert, t5 = load_model("bert-base"), load_model("t5-base")
    assert bert.encoder_only
    assert bert.pooled
    assert not t5.encoder_only
    assert len(t5.encoder) == len(t5.layers) == 12
    assert all(layer.cross is not None for layer in t5.layers)


@pytest.mark.parametrize(
    ("weight_format", "gib"),
    # llama.cpp, examples/quantize/README.md: sizes of Llama-2-7B's GGUF files in GiB.
    [("q4_0", 3.56), ("q4_k_m", 3.80), ("q5_k_m", 4.45), ("q6_k", 5.15), ("q8_0", 6.67)],
)
def test_gguf_files_are_as_large_as_published(weight_format, gib):
    assert weight_bytes(in_format(load_model("llama-2-7b"), weight_format)) / 2**30 == pytest.approx(gib, abs=0.006)


def test_granite_hybrids_are_read_by_layer_types():
    base = {
        "model_type": "granitemoehybrid", "hidden_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 16,
        "num_key_value_heads": 4, "intermediate_size": 512, "shared_intermediate_size": 1024, "num_local_experts": 8,
        "num_experts_per_tok": 2, "mamba_n_heads": 32, "mamba_d_head": 64, "mamba_d_state": 128, "vocab_size": 1000,
        "layer_types": ["mamba", "attention", "mamba", "mamba"], "max_position_embeddings": 4096,
    }  # fmt: skip
    shape = load_model(base)
    assert [layer.attention is not None for layer in shape.layers] == [False, True, False, False]
    assert cache_bytes_per_token(shape) == 2 * 4 * 64 * 2
    assert state_bytes(shape) == 3 * (32 * 64 * 128 + 3 * (2048 + 2 * 128)) * 2
    with pytest.raises(ModelError, match="layer_types: not one entry for each"):
        load_model({**base, "layer_types": ["mamba"]})
