import json

import pytest

from llmsim.errors import InputError, ModelError
from llmsim.model import load_model, model_names
from llmsim.model.weights import (
    active_parameters,
    cache_bytes_per_token,
    cache_format,
    cache_groups,
    in_format,
    layer_weight_bytes,
    parameters,
    stage_weight_bytes,
    weight_bytes,
)

KIB = 1024
GIB = 2**30

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


def test_there_are_many_records_and_each_says_where_it_is_from():
    assert len(model_names()) >= 24
    for name in model_names():
        shape = load_model(name)
        assert shape.source
        assert shape.name == name
        assert shape.max_model_len >= 1024


@pytest.mark.parametrize(
    ("alias", "name", "weight_format"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", "llama-3.1-8b", "bf16"),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "llama-3.1-70b", "bf16"),
        ("Llama_3.1_8B", "llama-3.1-8b", "bf16"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "llama-3.1-8b-fp8", "fp8"),
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "llama-3.3-70b-nvfp4", "nvfp4"),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "qwen2.5-7b-int4", "int4"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mixtral-8x7b", "bf16"),
        ("deepseek-ai/DeepSeek-R1", "deepseek-v3", "fp8_block"),
        ("google/gemma-3-27b-it", "gemma-3-27b", "bf16"),
        ("openai/gpt-oss-20b", "gpt-oss-20b", "mxfp4"),
        ("Llama-2-70b-chat-hf", "llama-2-70b", "fp16"),
    ],
)
def test_names_people_use_find_the_record(alias, name, weight_format):
    shape = load_model(alias)
    assert (shape.name, shape.weight_format) == (name, weight_format)


def test_aliases_belong_to_one_record_each():
    seen = {}
    for name in model_names():
        for alias in json.loads((_configs() / f"{name}.json").read_text()).get("_aliases", []):
            assert seen.setdefault(alias.lower(), name) == name
            assert load_model(alias).name == name


def _configs():
    from llmsim import model

    return model._CONFIGS


def test_an_unknown_model_gets_the_closest_names():
    with pytest.raises(
        ModelError, match=r"unknown name 'lama-3\.1-8'\nhint: closest names: llama-3\.1-8b, .*config\.json"
    ):
        load_model("lama-3.1-8")


def test_a_config_is_read_from_a_path_a_folder_and_a_mapping(tmp_path):
    folder = tmp_path / "my-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    for source in (folder, folder / "config.json", str(folder)):
        assert parameters(load_model(source)) == 8_030_261_248
        assert load_model(source).name == "my-model"
    assert parameters(load_model(LLAMA)) == 8_030_261_248


def test_a_hugging_face_id_is_found_in_the_local_cache(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--acme--Tiny-7B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 2}))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    shape = load_model("acme/Tiny-7B")
    assert (shape.name, len(shape.layers)) == ("tiny-7b", 2)
    # refs/main decides between snapshots.
    newer = tmp_path / "models--acme--Tiny-7B" / "snapshots" / "def"
    newer.mkdir()
    (newer / "config.json").write_text(json.dumps({**LLAMA, "num_hidden_layers": 3}))
    (tmp_path / "models--acme--Tiny-7B" / "refs").mkdir()
    (tmp_path / "models--acme--Tiny-7B" / "refs" / "main").write_text("abc")
    assert len(load_model("acme/Tiny-7B").layers) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size: missing"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers: not a whole number above 0 \(got 0\)"),
        ({"vocab_size": "many"}, r"vocab_size: not a whole number above 0 \(got 'many'\)"),
        ({"layer_types": ["full_attention"]}, "layer_types: not one entry for each of 32 layers"),
        ({"layer_types": ["linear_attention"] * 32}, "not supported yet"),
        ({"model_type": "mamba2"}, "models with state-space or linear-attention layers are not supported yet"),
        ({"model_type": "nemotron_h", "hybrid_override_pattern": "M-M*"}, "state-space"),
        ({"model_type": "newhybrid", "mamba_d_state": 128}, "state-space"),
        ({"model_type": "bert"}, "encoder-only models are not supported yet"),
        ({"model_type": "t5"}, "encoder-decoder models are not supported yet"),
        ({"model_type": "other", "is_encoder_decoder": True}, "encoder-decoder models are not supported yet"),
        ({"model_type": "newmoe", "num_experts": 8}, "is not guessed at"),
        ({"model_type": None}, "model_type: missing"),
        ({"quantization_config": {"quant_method": "magic"}}, r"quant_method: unknown \(got 'magic'\)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, r"bits: neither 4 nor 8 \(got 3\)"),
        ({"use_sliding_window": "no"}, "use_sliding_window: neither true nor false"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_by_key(changes, message):
    with pytest.raises(ModelError, match=message):
        load_model({**LLAMA, **changes})


def test_files_that_are_absent_or_broken_are_refused(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        load_model(tmp_path / "none.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load_model(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ModelError, match="not a mapping"):
        load_model(tmp_path / "config.json")


def test_an_unknown_family_with_the_keys_of_llama_is_read_as_one_and_says_so():
    shape = load_model({**LLAMA, "model_type": "nextgen"})
    assert parameters(shape) == 8_030_261_248
    assert "nextgen" in shape.notes[0]
    assert load_model(LLAMA).notes == ()


def test_multimodal_files_are_read_for_their_language_part():
    outer = {
        "model_type": "gemma3",
        "torch_dtype": "bfloat16",
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34,
                        "intermediate_size": 10240, "sliding_window": 1024},
        "vision_config": {"hidden_size": 1152},
    }  # fmt: skip
    # google/gemma-3-4b-it leaves heads, head_dim and vocabulary to the class's defaults.
    assert parameters(load_model(outer)) == parameters(load_model("gemma-3-4b"))
    assert load_model({"model_type": "llava", "text_config": LLAMA}).architecture == "llama"


@pytest.mark.parametrize(
    ("said", "weights", "attention", "cache"),
    [
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8", None, None),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", None, None),
        ({"quant_method": "awq", "bits": 4}, "int4", None, None),
        ({"quant_method": "gptq", "bits": 8}, "int8", None, None),
        ({"quant_method": "mxfp4"}, "mxfp4", "bf16", None),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "nf4", None, None),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}, "nvfp4", None, "fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", None, None),
        (
            {"quant_method": "compressed-tensors", "ignore": ["lm_head"],
             "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}},
             "kv_cache_scheme": {"num_bits": 8, "type": "float"}}, "fp8", None, "fp8",
        ),
        (
            {"quant_method": "compressed-tensors", "ignore": ["re:.*self_attn.*"],
             "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int", "group_size": 128}}}},
            "int4", "bf16", None,
        ),
        (None, "bf16", None, None),
    ],
)  # fmt: skip
def test_quantization_config_sets_the_formats(said, weights, attention, cache):
    shape = load_model({**LLAMA, "quantization_config": said})
    assert (shape.weight_format, shape.attention_format, shape.cache_format) == (weights, attention, cache)


def test_modelopt_keeps_its_quantisation_in_a_file_of_its_own(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    (tmp_path / "hf_quant_config.json").write_text(
        json.dumps({"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}})
    )
    shape = load_model(tmp_path)
    assert (shape.weight_format, shape.cache_format) == ("nvfp4", "fp8")


def test_cache_formats_have_vllms_names():
    shape = load_model("llama-2-7b")
    assert cache_format(shape) == "fp16"
    assert cache_format(shape, "fp8_e4m3") == "fp8"
    assert cache_format(load_model({**LLAMA, "quantization_config": {
        "quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}})) == "fp8"  # fmt: skip
    with pytest.raises(InputError, match="kv_cache_dtype: not modelled"):
        cache_format(shape, "turboquant")


@pytest.mark.parametrize(
    ("changes", "longest"),
    [
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 262144),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 131072),
        ({"rope_scaling": {"type": "longrope"}}, 131072),
        ({}, 131072),
    ],
)
def test_the_longest_context_counts_rotary_scaling_as_vllm_does(changes, longest):
    assert load_model({**LLAMA, **changes}).max_model_len == longest


def test_head_dim_is_not_always_hidden_over_heads_and_kv_heads_default_to_heads():
    shape = load_model({**LLAMA, "num_key_value_heads": None, "head_dim": 256})
    attention = shape.layers[0].attention
    assert (attention.kv_heads, attention.head_dim) == (32, 256)


def test_qwen_mixtures_may_have_dense_layers():
    base = {**LLAMA, "model_type": "qwen3_moe", "num_experts": 16, "num_experts_per_tok": 2,
            "moe_intermediate_size": 768, "decoder_sparse_step": 2, "mlp_only_layers": [3]}  # fmt: skip
    kinds = [layer.feed_forward.experts for layer in load_model(base).layers[:6]]
    assert kinds == [0, 16, 0, 0, 0, 16]


def test_old_and_new_names_of_keys_mean_the_same():
    old = {"model_type": "falcon", "hidden_size": 8192, "n_layer": 60, "n_head": 128, "n_head_kv": 8,
           "new_decoder_architecture": True, "vocab_size": 65024, "dtype": "bfloat16"}  # fmt: skip
    assert parameters(load_model(old)) == parameters(load_model("falcon-40b"))
    assert load_model({**LLAMA, "torch_dtype": None, "dtype": "float16"}).dtype == "fp16"
    assert load_model({**LLAMA, "torch_dtype": "float32"}).dtype == "bf16"
